// Records read from their batch when they are asked.

'use strict'

const { isUtf8 } = require('node:buffer')
const { inspect } = require('node:util')

const { checkBooleans, checkNames, checkNumbers, checkString, dataOf, headersOf, valueOf } = require('./data.js')
const { checkMade } = require('./errors.js')

const NONE = 0xffffffff
// Values that are copied together share so much memory at most, as small Buffers of Node do: one that is kept keeps that, and not its batch.
const SLAB_BYTES = 8 << 10

const PARTS = ['value', 'key', 'headers', 'topic', 'partition', 'offset', 'timestampMs']
const PLACE_NUMBERS = {
  partition: [0, 0x7fffffff, true],
  offset: [0, Number.MAX_SAFE_INTEGER, true],
  timestampMs: [-Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, true],
}

/**
 * Which topic of its name a record is of, or what a record holds that was made by hand. Whoever compares records property by property sees it, so that two of them are
 * not taken for equal that differ in key, value or headers: what stands at one offset of one topic never changes.
 */
const IDENTITY = Symbol('identity')

/** Records of one partition as they cross the border. What users get of them, records and batches, reads from here. */
class Packed {
  constructor(native) {
    this.topic = native.topic
    this.topicId = native.topicId ?? ''
    this.partition = native.partition
    this.offsets = native.offsets
    this.timestamps = native.timestamps
    this.identity = native.identity ?? Buffer.from(this.topicId, 'latin1').toString('hex')
    this.data = native.data
    this.index = native.index
    this.headers = new Map(native.headers.map((h) => [h.record, h]))
  }

  /** Bytes of a field, which it owns; null where there is none. */
  copyOf(at) {
    const length = this.index[at + 1]
    if (length === NONE) return null
    const copy = Buffer.allocUnsafe(length)
    this.data.copy(copy, 0, this.index[at], this.index[at] + length)
    return copy
  }

  textOf(at) {
    const length = this.index[at + 1]
    return length === NONE ? null : this.data.toString('utf8', this.index[at], this.index[at] + length)
  }

  headersOf(record) {
    const found = this.headers.get(record)
    return found ? found.names.map((name, i) => [name, found.values[i] ?? null]) : []
  }
}

/** What tells a record's topic from others of its name; empty for one that was made by hand. */
let topicIdOf

/**
 * A record as it was read. Where it stood are properties of its own, so that two records are told apart by whoever compares them; key, value and headers
 * are read from the batch when they are asked for.
 */
class ConsumerRecord {
  #packed
  #at

  static {
    topicIdOf = (record) => record.#packed.topicId
  }

  constructor(packed, at) {
    checkMade(packed instanceof Packed, ConsumerRecord, 'a consumer makes records, and for tests ConsumerRecord.of(parts)')
    this.#packed = packed
    this.#at = at
    this.topic = packed.topic
    this.partition = packed.partition
    this.offset = packed.offsets[at]
    this.timestampMs = packed.timestamps[at]
    this[IDENTITY] = packed.identity
  }

  /** A record as it might have been read, for tests of what handles records. */
  static of(parts = {}) {
    checkNames('parts of a record', parts, PARTS)
    checkNumbers(parts, PLACE_NUMBERS)
    const topic = parts.topic ?? ''
    checkString('topic', topic)
    const [data, index] = [[], []]
    let length = 0
    for (const field of [dataOf(parts.key ?? null, 'key'), valueOf(parts.value ?? null)]) {
      const bytes = field === null ? null : Buffer.from(field)
      index.push(bytes === null ? 0 : length, bytes === null ? NONE : bytes.length)
      if (bytes !== null) data.push(bytes)
      length += bytes?.length ?? 0
    }
    const pairs = headersOf(parts.headers)
    const packed = new Packed({
      topic,
      partition: parts.partition ?? 0,
      data: Buffer.concat(data),
      index: Uint32Array.from(index),
      offsets: Float64Array.of(parts.offset ?? 0),
      timestamps: Float64Array.of(parts.timestampMs ?? 0),
      headers: [{ record: 0, names: pairs.map(([name]) => name), values: pairs.map(([, v]) => (v === null ? null : Buffer.from(v))) }],
    })
    const { key, value, headers } = new ConsumerRecord(packed, 0).toJSON()
    packed.identity = JSON.stringify({ key, value, headers })
    return new ConsumerRecord(packed, 0)
  }

  get key() {
    return this.#packed.copyOf(this.#at * 4)
  }

  /** null is a tombstone. */
  get value() {
    return this.#packed.copyOf(this.#at * 4 + 2)
  }

  get headers() {
    return this.#packed.headersOf(this.#at)
  }

  text() {
    return this.#packed.textOf(this.#at * 4 + 2)
  }

  json() {
    const text = this.text()
    return text === null ? null : JSON.parse(text)
  }

  /** All of it as an object of its own: what may be cloned, posted to a worker, or compared. */
  toObject() {
    const { topic, partition, offset, timestampMs, key, value, headers } = this
    return { topic, partition, offset, timestampMs, key, value, headers }
  }

  /** Bytes as text where they are text, else as { base64 }. */
  toJSON() {
    const { key, value, headers, ...place } = this.toObject()
    return { ...place, key: shown(key), value: shown(value), headers: headers.map(([name, data]) => [name, shown(data)]) }
  }

  [inspect.custom](depth, options) {
    return `ConsumerRecord ${inspect(this.toObject(), { ...options, depth: options.depth })}`
  }
}

function shown(bytes) {
  return bytes === null ? null : isUtf8(bytes) ? bytes.toString('utf8') : { base64: bytes.toString('base64') }
}

class Batch {
  #packed

  constructor(packed) {
    checkMade(packed instanceof Packed, Batch, 'consumer.batches() and consumer.nextBatch() make batches')
    this.#packed = packed
    this.topic = packed.topic
    this.partition = packed.partition
    this.offsets = packed.offsets
    this.timestamps = packed.timestamps
  }

  get length() {
    return this.offsets.length
  }

  /** One record; negative numbers count from the end. */
  at(number) {
    const at = number < 0 ? number + this.length : number
    return Number.isInteger(at) && at >= 0 && at < this.length ? new ConsumerRecord(this.#packed, at) : undefined
  }

  /** All values. Each is its own, or with `copy: false` a view of the batch. */
  values(options = {}) {
    checkNames('options of values', options, ['copy'])
    checkBooleans(options, ['copy'])
    const { data, index } = this.#packed
    const values = new Array(this.length)
    // What `slab` holds of the data: all of it, or a copy of what comes next.
    let [slab, first, end] = options.copy === false ? [data, 0, data.length] : [undefined, 0, 0]
    for (let i = 0; i < values.length; i++) {
      const [start, length] = [index[i * 4 + 2], index[i * 4 + 3]]
      if (length === NONE) {
        values[i] = null
        continue
      }
      if (start < first || start + length > end) {
        first = start
        end = Math.min(data.length, start + Math.max(length, SLAB_BYTES))
        slab = Buffer.from(data.buffer.slice(data.byteOffset + first, data.byteOffset + end))
      }
      values[i] = slab.subarray(start - first, start - first + length)
    }
    return values
  }

  records() {
    return Array.from({ length: this.length }, (_, i) => new ConsumerRecord(this.#packed, i))
  }

  [Symbol.iterator]() {
    return this.records()[Symbol.iterator]()
  }
}

module.exports = { Batch, ConsumerRecord, Packed, topicIdOf }
