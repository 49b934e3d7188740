// The producer: records are packed into one buffer and an index, which cross the border together.

import { InvalidError, call, makeError } from './errors.js'

const NONE = 0xffffffff

function bytes(data) {
  if (data === null || data === undefined) return null
  if (typeof data === 'string') return Buffer.from(data, 'utf8')
  if (data instanceof Uint8Array) return data
  throw new InvalidError(`bytes or a string are expected, not ${typeof data}`)
}

function valueBytes(value) {
  const isPlain = typeof value === 'object' && value !== null && !(value instanceof Uint8Array)
  return bytes(isPlain ? JSON.stringify(value) : value)
}

function pack(messages) {
  const index = new Uint32Array(messages.length * 3)
  const timestamps = new Float64Array(messages.length)
  const headerIndex = []
  const parts = []
  const put = (part) => {
    if (part === null) return NONE
    parts.push(part)
    return part.length
  }
  messages.forEach((message, i) => {
    const headers = message.headers ?? []
    const pairs = Array.isArray(headers) ? headers : Object.entries(headers)
    index[i * 3] = put(bytes(message.key))
    index[i * 3 + 1] = put(valueBytes(message.value))
    index[i * 3 + 2] = pairs.length
    for (const [name, value] of pairs) headerIndex.push(put(bytes(name)), put(bytes(value)))
    timestamps[i] = message.timestampMs ?? NaN
  })
  return [Buffer.concat(parts), index, Uint32Array.from(headerIndex), timestamps]
}

export class Producer {
  #open
  #native
  #closed = false

  constructor(topic, open) {
    this.topic = topic
    this.#open = open
  }

  async #ready() {
    if (this.#closed) throw new InvalidError('the producer is closed')
    this.#native ??= call(this.#open()).catch((error) => {
      this.#native = undefined
      throw error
    })
    return this.#native
  }

  /** Opens the producer now, so that a missing topic shows before the first send. */
  async open() {
    await this.#ready()
    return this
  }

  async send(value, { key, headers, timestampMs } = {}) {
    const [outcome] = await this.sendBatch([{ value, key, headers, timestampMs }])
    if (outcome instanceof Error) throw outcome
    return outcome
  }

  async sendBatch(messages) {
    const native = await this.#ready()
    const outcomes = await call(native.sendBatch(...pack(messages)))
    const result = Array.from(outcomes.partitions, (partition, i) => ({
      partition,
      offset: outcomes.offsets[i] < 0 ? null : outcomes.offsets[i],
    }))
    for (const { index, code, message } of outcomes.failed) result[index] = makeError(code, message)
    return result
  }

  async enqueue(value, { key, headers, timestampMs } = {}) {
    await this.enqueueBatch([{ value, key, headers, timestampMs }])
  }

  async enqueueBatch(messages) {
    const native = await this.#ready()
    await call(native.enqueueBatch(...pack(messages)))
  }

  async flush() {
    if (this.#native) await call((await this.#native).flush())
  }

  async close() {
    if (this.#closed) return
    this.#closed = true
    const native = await this.#native
    this.#native = undefined
    if (native) await call(native.close())
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }
}
