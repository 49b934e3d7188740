// The producer: records are packed into one buffer and an index, which cross the border together, once a turn of the event loop.

import { writeSync } from 'node:fs'

import { checkNames, checkNumbers, dataOf, headersOf, partitionOf, timestampOf, valueOf } from './data.js'
import { ClosedError, TimedOutError, call, errorOf } from './errors.js'

const NONE = 0xffffffff
// So many records go to the core at once, or so many bytes, without waiting for the end of the turn.
const TOGETHER = 512
const TOGETHER_BYTES = 256 << 10

const RECORD_OPTIONS = ['key', 'headers', 'timestampMs', 'partition']
const MESSAGE_FIELDS = ['value', ...RECORD_OPTIONS]
const ENQUEUE_OPTIONS = [...RECORD_OPTIONS, 'onDelivery']

/** Records on their way to the core: their bytes one after the other, and the lengths. */
class Pack {
  #data = Buffer.allocUnsafe(4 << 10)
  #at = 0
  #index = []
  #headers = []
  #timestamps = []

  get length() {
    return this.#timestamps.length
  }

  get bytes() {
    return this.#at
  }

  /** Takes a record, or throws and takes nothing. */
  add(value, { key, headers, timestampMs, partition }) {
    const of = valueOf(value)
    const by = key === undefined || key === null ? null : dataOf(key, 'key')
    const pairs = headers === undefined ? [] : headersOf(headers)
    const at = timestampOf(timestampMs)
    const to = partition === undefined || partition === null ? NONE : partitionOf(partition)
    this.#index.push(this.#put(by), this.#put(of), pairs.length, to)
    for (const [name, data] of pairs) this.#headers.push(this.#put(name), this.#put(data))
    this.#timestamps.push(at)
  }

  #put(part) {
    if (part === null) return NONE
    const isText = typeof part === 'string'
    // A unit of UTF-16 takes up to three bytes of UTF-8.
    const most = isText ? part.length * 3 : part.length
    if (this.#at + most > this.#data.length) {
      const larger = Buffer.allocUnsafe(Math.max(2 * this.#data.length, this.#at + most))
      this.#data.copy(larger, 0, 0, this.#at)
      this.#data = larger
    }
    const length = isText ? this.#data.write(part, this.#at) : part.length
    if (!isText) this.#data.set(part, this.#at)
    this.#at += length
    return length
  }

  submit(native, isWaitedFor) {
    const data = this.#data.subarray(0, this.#at)
    const [index, headers] = [Uint32Array.from(this.#index), Uint32Array.from(this.#headers)]
    return native.submit(data, index, headers, Float64Array.from(this.#timestamps), isWaitedFor)
  }
}

// Records without an outcome are waited for when the process ends, for so long.
const LEAVING_MS = 2000
// Producers that were not closed: topic, native half, and the producer while somebody holds it.
const open = new Set()
const collected = new FinalizationRegistry((entry) => {
  if (entry.native.pending() === 0) open.delete(entry)
})
let handOver

/** The process ends: nothing asynchronous runs any more, and the connection's thread does. */
function leave() {
  for (const { producer } of open) {
    const held = producer.deref()
    if (held) handOver(held)
  }
  const isPending = ({ native }) => native.pending() > 0
  const deadline = Date.now() + LEAVING_MS
  const clock = new Int32Array(new SharedArrayBuffer(4))
  while ([...open].some(isPending) && Date.now() < deadline) Atomics.wait(clock, 0, 0, 5)
  for (const { topic, native } of [...open].filter(isPending)) {
    const count = native.pending()
    const records = count === 1 ? '1 record' : `${count} records`
    const text = `thalweg: the process ends, and ${records} of topic ${JSON.stringify(topic)} have no outcome yet; they may be lost. Close the producer, or flush it, before.\n`
    try {
      writeSync(2, text)
    } catch {
      // Nobody reads it.
    }
  }
}

export class Producer {
  #native
  #isClosed = false
  // What has been called for in this turn, and who waits for which of it; null: it is enqueued only.
  #pack = null
  #waiters = null
  #settling = new Set()
  // What a flush has found that nobody waited for any more.
  #untold

  #entry

  static {
    handOver = (producer) => producer.#handOver()
  }

  constructor(topic, native) {
    this.topic = topic
    this.#native = native
    if (open.size === 0) process.on('exit', leave)
    this.#entry = { topic, native, producer: new WeakRef(this) }
    open.add(this.#entry)
    collected.register(this, this.#entry)
  }

  /** Finds the topic now, so that a missing one shows before the first send. */
  async open() {
    this.#check()
    await call(this.#native.open())
    return this
  }

  /** Sends a record; it has its place in line when this returns. Resolves when it is delivered. */
  send(value, options = {}) {
    return new Promise((resolve, reject) => {
      this.#check()
      checkNames('options of send', options, RECORD_OPTIONS)
      const pack = this.#begin(true)
      const at = pack.length
      pack.add(value, options)
      this.#waiters[at] = (outcome) => (outcome instanceof Error ? reject(outcome) : resolve(outcome))
      this.#handOverIfMany()
    })
  }

  /** Sends records; resolves with each one's outcome in order: the delivery, or the error of that record. */
  sendBatch(messages) {
    return new Promise((resolve) => {
      this.#check()
      const added = this.#add(messages, true)
      const outcomes = new Array(added.count)
      let left = added.count
      if (left === 0) return resolve(outcomes)
      for (let i = 0; i < added.count; i++) {
        this.#waiters[added.first + i] = (outcome) => {
          outcomes[i] = outcome
          left -= 1
          if (left === 0) resolve(outcomes)
        }
      }
      this.#handOver()
    })
  }

  /** Buffers a record; it has its place in line when this returns. Resolves once the buffer has room. */
  async enqueue(value, options = {}) {
    this.#check()
    checkNames('options of enqueue', options, ENQUEUE_OPTIONS)
    const { onDelivery } = options
    if (onDelivery !== undefined && typeof onDelivery !== 'function') throw new TypeError('onDelivery is no function')
    const pack = this.#begin(onDelivery !== undefined)
    const at = pack.length
    pack.add(value, options)
    // In a turn of its own: what it throws is the process's matter, and not the others'.
    if (onDelivery !== undefined) this.#waiters[at] = (outcome) => setImmediate(onDelivery, outcome)
    const receipt = this.#handOverIfMany()
    if (receipt && !receipt.isBuffered) await call(receipt.buffered())
  }

  /** Buffers records together. */
  async enqueueBatch(messages) {
    this.#check()
    this.#add(messages, false)
    const receipt = this.#handOver()
    if (receipt && !receipt.isBuffered) await call(receipt.buffered())
  }

  /** Records that were sent, by whichever call, and have no outcome yet. */
  get pending() {
    return (this.#pack?.length ?? 0) + this.#native.pending()
  }

  /** Resolves when every record that was sent before has its outcome; throws TimedOutError after `timeoutMs`. */
  async flush(options = {}) {
    checkNames('options of flush', options, ['timeoutMs'])
    checkNumbers(options, { timeoutMs: [0, 0x7fffffff, false] })
    this.#handOver()
    const flushed = this.#end(this.#native.flush())
    if (options.timeoutMs === undefined) return flushed
    let timer
    const late = new Promise((resolve) => {
      timer = setTimeout(() => resolve('late'), options.timeoutMs)
    })
    try {
      if ((await Promise.race([flushed, late])) !== 'late') return undefined
    } finally {
      clearTimeout(timer)
    }
    // What it will find is for the next one.
    flushed.catch((error) => {
      this.#untold ??= error
    })
    throw new TimedOutError(
      `${this.pending} records of topic ${JSON.stringify(this.topic)} have no outcome after ${options.timeoutMs} ms; they are still on their way`,
    )
  }

  /** Refuses further records from now on; resolves when those that were sent before have their outcomes. */
  async close() {
    if (this.#isClosed) return
    this.#handOver()
    this.#isClosed = true
    this.#native.refuse()
    await this.#end(this.#native.close())
    open.delete(this.#entry)
    if (open.size === 0) process.off('exit', leave)
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }

  async #end(ended) {
    let error
    await call(ended).catch((e) => {
      error = e
    })
    // Whoever waits for one of them hears of it first.
    await Promise.all(this.#settling)
    error ??= this.#untold
    this.#untold = undefined
    if (error) throw error
  }

  #check() {
    if (this.#isClosed) throw new ClosedError('the producer is closed')
  }

  /** Where the next record of this kind goes, behind those that came before it. */
  #begin(isWaitedFor) {
    if (this.#pack && (this.#waiters !== null) !== isWaitedFor) this.#handOver()
    if (!this.#pack) {
      this.#pack = new Pack()
      this.#waiters = isWaitedFor ? [] : null
      setImmediate(() => this.#handOver())
    }
    return this.#pack
  }

  /** All of them, or none: one that is no record is the caller's mistake. */
  #add(messages, isWaitedFor) {
    if (typeof messages !== 'object' || typeof messages?.[Symbol.iterator] !== 'function' || ArrayBuffer.isView(messages)) {
      throw new TypeError('messages are expected as an array of { value, key, headers, timestampMs, partition }')
    }
    // Apart, so that what throws in the middle leaves nothing behind.
    this.#handOver()
    const pack = new Pack()
    for (const message of messages) {
      checkNames('fields of a message', message, MESSAGE_FIELDS)
      pack.add(message.value, message)
    }
    if (pack.length > 0) {
      this.#pack = pack
      this.#waiters = isWaitedFor ? [] : null
    }
    return { first: 0, count: pack.length }
  }

  #handOverIfMany() {
    if (this.#pack.length >= TOGETHER || this.#pack.bytes >= TOGETHER_BYTES) return this.#handOver()
    return undefined
  }

  #handOver() {
    const [pack, waiters] = [this.#pack, this.#waiters]
    this.#pack = this.#waiters = null
    if (!pack || pack.length === 0) return undefined
    const receipt = pack.submit(this.#native, waiters !== null)
    if (waiters) {
      const settling = this.#settle(receipt, waiters)
      this.#settling.add(settling)
      settling.finally(() => this.#settling.delete(settling))
    }
    return receipt
  }

  async #settle(receipt, waiters) {
    let left = waiters.length
    while (left > 0) {
      const { at, partitions, offsets, failed } = await receipt.settled()
      left -= at.length + failed.length
      for (let i = 0; i < at.length; i++) {
        waiters[at[i]]({ partition: partitions[i], offset: offsets[i] < 0 ? null : offsets[i] })
      }
      for (const { index, error } of failed) waiters[index](errorOf(error))
    }
  }
}
