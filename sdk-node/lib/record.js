// Records read from their batch when they are asked.

'use strict'

const { isUtf8 } = require('node:buffer')
const { inspect } = require('node:util')

const { dataOf, headersOf, valueOf } = require('./data.js')

const NONE = 0xffffffff

/** What tells a record's topic from others of its name; empty for one that was made by hand. */
let topicIdOf

/**
 * A record as it was read. Where it stood are properties of its own, so that two records are told apart by whoever compares them; key, value and headers
 * are read from the batch when they are asked for.
 */
class ConsumerRecord {
  #batch
  #at

  static {
    topicIdOf = (record) => record.#batch.topicId
  }

  constructor(batch, at) {
    this.#batch = batch
    this.#at = at
    this.topic = batch.topic
    this.partition = batch.partition
    this.offset = batch.offsets[at]
    this.timestampMs = batch.timestamps[at]
  }

  /** A record as it might have been read, for tests of what handles records. */
  static of({ value = null, key = null, headers = [], topic = '', partition = 0, offset = 0, timestampMs = 0 } = {}) {
    const [data, index] = [[], []]
    let length = 0
    for (const field of [dataOf(key, 'key'), valueOf(value)]) {
      const bytes = field === null ? null : Buffer.from(field)
      index.push(bytes === null ? 0 : length, bytes === null ? NONE : bytes.length)
      if (bytes !== null) data.push(bytes)
      length += bytes?.length ?? 0
    }
    const pairs = headersOf(headers)
    const batch = new Batch({
      topic,
      partition,
      data: Buffer.concat(data),
      index: Uint32Array.from(index),
      offsets: Float64Array.of(offset),
      timestamps: Float64Array.of(timestampMs),
      headers: [{ record: 0, names: pairs.map(([name]) => name), values: pairs.map(([, v]) => (v === null ? null : Buffer.from(v))) }],
    })
    return new ConsumerRecord(batch, 0)
  }

  get key() {
    return copied(this.#batch.field(this.#at * 4))
  }

  /** null is a tombstone. */
  get value() {
    return copied(this.#batch.field(this.#at * 4 + 2))
  }

  get headers() {
    return this.#batch.headersOf(this.#at)
  }

  text() {
    return this.#batch.field(this.#at * 4 + 2)?.toString('utf8') ?? null
  }

  json() {
    const text = this.text()
    return text === null ? null : JSON.parse(text)
  }

  /** Bytes as text where they are text, else as { base64 }. */
  toJSON() {
    const { topic, partition, offset, timestampMs } = this
    const headers = this.headers.map(([name, value]) => [name, shown(value)])
    return { topic, partition, offset, timestampMs, key: shown(this.key), value: shown(this.value), headers }
  }

  [inspect.custom](depth, options) {
    const { topic, partition, offset, timestampMs, key, value, headers } = this
    return `ConsumerRecord ${inspect({ topic, partition, offset, timestampMs, key, value, headers }, { ...options, depth: options.depth })}`
  }
}

/** Whoever keeps it keeps these bytes, and not the whole batch. */
function copied(bytes) {
  return bytes === null ? null : Buffer.from(bytes)
}

function shown(bytes) {
  return bytes === null ? null : isUtf8(bytes) ? bytes.toString('utf8') : { base64: bytes.toString('base64') }
}

class Batch {
  #native
  #headers

  constructor(native) {
    this.#native = native
    this.topic = native.topic
    Object.defineProperty(this, 'topicId', { value: native.topicId ?? '' })
    this.partition = native.partition
    this.offsets = native.offsets
    this.timestamps = native.timestamps
    this.#headers = new Map(native.headers.map((h) => [h.record, h]))
  }

  get length() {
    return this.offsets.length
  }

  /** One record; negative numbers count from the end. */
  at(number) {
    const at = number < 0 ? number + this.length : number
    return Number.isInteger(at) && at >= 0 && at < this.length ? new ConsumerRecord(this, at) : undefined
  }

  field(at) {
    const { index, data } = this.#native
    const length = index[at + 1]
    return length === NONE ? null : data.subarray(index[at], index[at] + length)
  }

  headersOf(record) {
    const found = this.#headers.get(record)
    return found ? found.names.map((name, i) => [name, found.values[i] ?? null]) : []
  }

  values() {
    return Array.from({ length: this.length }, (_, i) => this.field(i * 4 + 2))
  }

  records() {
    return Array.from({ length: this.length }, (_, i) => new ConsumerRecord(this, i))
  }

  [Symbol.iterator]() {
    return this.records()[Symbol.iterator]()
  }
}

module.exports = { ConsumerRecord, Batch, topicIdOf }
