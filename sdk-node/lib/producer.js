// The producer: records are packed into one buffer and an index, which cross the border together: at the end of a turn of the event loop, or within it where that is long.

'use strict'

const { writeSync } = require('node:fs')
const { isMainThread } = require('node:worker_threads')

const { checkNames, checkNumbers, checkString, counted, dataOf, DURATION, headersOf, kindOf, partitionOf, TIMER_MAX_MS, timestampOf, valueOf } = require('./data.js')
const { ClosedError, InvalidError, TimedOutError, call, checkMade, errorOf, raised } = require('./errors.js')

const NONE = 0xffffffff
// So many records go to the core at once, or so many bytes, without waiting for the end of the turn.
const TOGETHER = 1024
const TOGETHER_BYTES = 256 << 10
// Or as soon as a call finds the oldest of them this old: as long as the core lets records gather by default. A loop of `await enqueue(…)` that has room ends its turn only when it hands over.
const TOGETHER_MS = 5

const RECORD_OPTIONS = ['key', 'headers', 'timestampMs', 'partition', 'topic']
const MESSAGE_FIELDS = ['value', ...RECORD_OPTIONS]
const ENQUEUE_OPTIONS = [...RECORD_OPTIONS, 'onDelivery']

const NO_PAIRS = Object.freeze([])
// Numbers per record in the index: key length, value length, header count, partition, topic.
const STRIDE = 5
// What a pack keeps for the next records.
const KEPT_BYTES = 2 * TOGETHER_BYTES

const DONE = Promise.resolve()
const endTurn = (resolve) => setImmediate(resolve)

// A promise and what resolves it, without a closure for each. What rejects it is not kept: 100,000 of them are 6 MiB.
let resolveMade
const keep = (resolve) => {
  resolveMade = resolve
}

/** A record's parts as they are packed; throws for what is none. It calls the user's code (`toJSON`, getters), which may send in turn. */
function partsOf(value, { key, headers, timestampMs, partition, topic }) {
  if (topic !== undefined) checkString('topic', topic)
  return {
    value: valueOf(value),
    key: key === undefined || key === null ? null : dataOf(key, 'key'),
    pairs: headers === undefined ? NO_PAIRS : headersOf(headers),
    timestampMs: timestampOf(timestampMs),
    partition: partition === undefined || partition === null ? NONE : partitionOf(partition),
    topic,
  }
}

/** An error of one of several messages, which says of which. What the user's own code throws (`toJSON`, getters) stays as it is. */
function numbered(error, number) {
  const isOurs = (error instanceof TypeError || error instanceof InvalidError) && /^(fields|value|key|headers?|a header's name|timestampMs|partition|topic)\b/.test(error.message)
  if (!isOurs) return error
  const Class = error instanceof InvalidError ? InvalidError : TypeError
  return new Class(`messages[${number}]: ${error.message}`, { cause: error })
}

// Who waits for a record: the function that resolves a promise, or { tell }, which is told of an error as of a delivery.
const tellDelivery = (waiter, delivery) => (typeof waiter === 'function' ? waiter(delivery) : waiter.tell(delivery))
const tellError = (waiter, error) => (typeof waiter === 'function' ? waiter(Promise.reject(error)) : waiter.tell(error))

/** Records on their way to the core: their bytes one after the other, and the lengths. The core copies them, so that one pack serves for all. */
class Pack {
  #data = Buffer.allocUnsafeSlow(4 << 10)
  #at = 0
  #index = new Uint32Array(64 * STRIDE)
  #timestamps = new Float64Array(64)
  #headers = []
  #topics = new Map()
  length = 0

  get bytes() {
    return this.#at
  }

  /** Takes a record: what `partsOf` gives. One whose bytes have gone meanwhile, or have no room, leaves nothing behind. */
  add({ value, key, pairs, timestampMs, partition, topic }) {
    const [at, headers] = [this.#at, this.#headers.length]
    try {
      this.addParts(value, key, pairs, timestampMs, partition, topic)
    } catch (error) {
      this.#at = at
      this.#headers.length = headers
      throw error
    }
  }

  addParts(value, key, pairs, timestampMs, partition, topic) {
    const n = this.length
    if (n === this.#timestamps.length) this.#grow()
    const index = this.#index
    const i = n * STRIDE
    index[i] = this.#put(key)
    index[i + 1] = this.#put(value)
    index[i + 2] = pairs.length
    index[i + 3] = partition
    index[i + 4] = topic === undefined ? NONE : this.#topic(topic)
    if (pairs.length > 0) for (const [name, data] of pairs) this.#headers.push(this.#put(name), this.#put(data))
    this.#timestamps[n] = timestampMs
    this.length = n + 1
  }

  /** The number of a topic among those of this pack. */
  #topic(name) {
    let number = this.#topics.get(name)
    if (number === undefined) this.#topics.set(name, (number = this.#topics.size))
    return number
  }

  #grow() {
    const [index, timestamps] = [this.#index, this.#timestamps]
    this.#index = new Uint32Array(2 * index.length)
    this.#index.set(index)
    this.#timestamps = new Float64Array(2 * timestamps.length)
    this.#timestamps.set(timestamps)
  }

  #put(part) {
    if (part === null) return NONE
    const isText = typeof part === 'string'
    // A unit of UTF-16 takes up to three bytes of UTF-8.
    const most = isText ? part.length * 3 : part.length
    if (this.#at + most > this.#data.length) {
      const larger = Buffer.allocUnsafeSlow(Math.max(2 * this.#data.length, this.#at + most))
      this.#data.copy(larger, 0, 0, this.#at)
      this.#data = larger
    }
    const length = isText ? this.#data.write(part, this.#at) : part.length
    if (!isText) this.#data.set(part, this.#at)
    this.#at += length
    return length
  }

  /** Gives all of them away, and is empty. */
  submit(native, isWaitedFor) {
    const [data, count] = [this.#data.subarray(0, this.#at), this.length]
    const [index, timestamps] = [this.#index.subarray(0, count * STRIDE), this.#timestamps.subarray(0, count)]
    const headers = new Uint32Array(this.#headers)
    const topics = [...this.#topics.keys()]
    this.clear()
    return native.submit(data, index, headers, timestamps, topics, isWaitedFor)
  }

  clear() {
    this.#at = this.length = 0
    if (this.#headers.length > 0) this.#headers = []
    if (this.#topics.size > 0) this.#topics = new Map()
    if (this.#data.length > KEPT_BYTES) this.#data = Buffer.allocUnsafeSlow(4 << 10)
    if (this.#timestamps.length > 2 * TOGETHER) [this.#index, this.#timestamps] = [new Uint32Array(64 * STRIDE), new Float64Array(64)]
  }
}

// Records without an outcome are waited for when the process ends, for so long.
const LEAVING_MS = 2000
const LEAVING_STEP_MS = 0.5
// What ends: a worker has its own end.
const WHOLE = isMainThread ? 'process' : 'worker'
// Producers that were not closed: what they are called, native half, and the producer while somebody holds it.
const open = new Set()
const collected = new FinalizationRegistry((entry) => {
  if (entry.native.pending() === 0) open.delete(entry)
})
let handOver
let isWatching = false
// The process ends, and all that was called for before has been waited for: handlers of the end that come after this one call for the rest.
let isLeaving = false

/** From the first client on, and for good: an exit handler may make the first producer. */
function watchExit() {
  if (isWatching) return
  isWatching = true
  process.on('exit', leave)
}

/** The process ends: nothing asynchronous runs any more, and the connection's thread does. */
function leave() {
  for (const { producer } of open) {
    const held = producer.deref()
    if (held) handOver(held)
  }
  waitFor([...open])
  isLeaving = true
  // Where somebody has emitted the event by hand, the event loop goes on.
  setImmediate(() => (isLeaving = false)).unref()
}

/** Waits for the outcomes of these producers' records, and says of which it has not seen any; such a producer is not waited for again. */
function waitFor(entries) {
  const isPending = ({ native }) => native.pending() > 0
  const isAwaited = (entry) => !entry.isTimedOut && isPending(entry)
  const deadline = Date.now() + LEAVING_MS
  const clock = new Int32Array(new SharedArrayBuffer(4))
  while (entries.some(isAwaited) && Date.now() < deadline) Atomics.wait(clock, 0, 0, LEAVING_STEP_MS)
  for (const entry of entries) {
    const failed = entry.native.untold()
    if (failed === null || failed === entry.failed) continue
    entry.failed = failed
    say(`the ${WHOLE} ends, and of ${entry.label} ${failed}. Close the producer, or flush it, before: that throws such an error.`)
  }
  for (const entry of entries.filter(isAwaited)) {
    entry.isTimedOut = true
    const count = entry.native.pending()
    const [have, they] = count === 1 ? ['has', 'it'] : ['have', 'they']
    say(`the ${WHOLE} ends, and ${counted(count, 'record')} of ${entry.label} ${have} no outcome yet; ${they} may be lost, and so may what is sent after. Close the producer, or flush it, before.`)
  }
}

function say(text) {
  try {
    writeSync(2, `thalweg: ${text}\n`)
  } catch {
    // Nobody reads it.
  }
}

class Producer {
  #native
  #isClosed = false
  // What has been called for in this turn, and who waits for which of it; null: it is enqueued only.
  #pack = new Pack()
  #waiters = null
  // When the first record of the pack came, by `performance.now()`.
  #since = 0
  // The end of this turn hands over what is in the pack then.
  #isScheduled = false
  #settling = new Set()
  // There was an onDelivery.
  #tells = false
  // The error of records that nobody waits for: the next flush tells it.
  #untold

  #label
  #entry

  static {
    handOver = (producer) => producer.#handOver()
  }

  constructor(topic, native) {
    checkMade(typeof native?.submit === 'function', Producer, 'client.producer(topic) makes a producer')
    this.topic = topic ?? null
    this.#label = this.topic === null ? 'the producer of any topic' : `the producer of topic ${JSON.stringify(topic)}`
    this.#native = native
    this.#entry = { label: this.#label, native, producer: new WeakRef(this), isTimedOut: false, failed: null }
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
  send(value, options) {
    const promise = new Promise(keep)
    const resolve = resolveMade
    try {
      this.#check()
      if (options !== undefined) checkNames('options of send', options, RECORD_OPTIONS)
      this.#take(value, options, resolve)
      this.#handOverIfDue()
    } catch (error) {
      tellError(resolve, error)
    }
    return promise
  }

  /** Sends records; resolves with each one's outcome in order: the delivery, or the error of that record. */
  sendBatch(messages) {
    return new Promise((resolve) => {
      this.#check()
      const pack = this.#packed(messages)
      const outcomes = new Array(pack.length)
      let left = pack.length
      if (left === 0) return resolve(outcomes)
      const waiters = []
      for (let i = 0; i < outcomes.length; i++) {
        const tell = (outcome) => {
          outcomes[i] = outcome
          left -= 1
          if (left === 0) resolve(outcomes)
        }
        waiters.push({ tell })
      }
      this.#submit(pack, waiters)
    })
  }

  /** Buffers a record; it has its place in line when this returns. Resolves once the buffer has room. */
  enqueue(value, options) {
    try {
      this.#check()
      let onDelivery
      if (options !== undefined) {
        checkNames('options of enqueue', options, ENQUEUE_OPTIONS)
        onDelivery = options.onDelivery
        if (onDelivery !== undefined && typeof onDelivery !== 'function') throw new TypeError(`onDelivery is ${kindOf(onDelivery)}; a function is expected`)
        this.#tells ||= onDelivery !== undefined
      }
      // In a turn of its own: what it throws is the process's matter, and not the others'.
      const waiter = onDelivery === undefined ? undefined : { tell: (outcome) => setImmediate(onDelivery, outcome) }
      this.#take(value, options, waiter)
      return this.#room(this.#handOverIfDue())
    } catch (error) {
      return Promise.reject(error)
    }
  }

  /** Buffers records together. */
  async enqueueBatch(messages) {
    this.#check()
    const pack = this.#packed(messages)
    if (pack.length > 0) await this.#room(this.#submit(pack, null))
  }

  /** Records that were sent, by whichever call, and have no outcome yet. */
  get pending() {
    return this.#pack.length + this.#native.pending()
  }

  /** Resolves when every record that was sent before has its outcome; throws TimedOutError after `timeoutMs`. */
  async flush(options = {}) {
    checkNames('options of flush', options, ['timeoutMs'])
    checkNumbers(options, { timeoutMs: DURATION })
    this.#handOver()
    const flushed = this.#end(this.#native.flush())
    if (options.timeoutMs === undefined || options.timeoutMs === null) return flushed
    let timer
    const late = new Promise((resolve) => {
      timer = setTimeout(() => resolve('late'), Math.min(options.timeoutMs, TIMER_MAX_MS))
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
    const [have, theyAre] = this.pending === 1 ? ['has', 'it is'] : ['have', 'they are']
    throw new TimedOutError(
      `${counted(this.pending, 'record')} of ${this.#label} ${have} no outcome after ${options.timeoutMs} ms; ${theyAre} still on the way`,
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
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }

  async #end(ended) {
    let error
    await call(ended).catch((e) => {
      error = e
    })
    // Whoever waits for one of them hears of it first, and whoever is told of one has been told.
    await Promise.all(this.#settling)
    if (this.#tells) await new Promise((resolve) => setImmediate(resolve))
    error ??= this.#untold
    this.#untold = undefined
    if (error) throw error
  }

  #check() {
    if (!this.#isClosed) return
    // A promise that is rejected now is reported nowhere.
    if (isLeaving) say(`${this.#label} is closed, and what the end of the ${WHOLE} sends to it is lost. Send before it is closed.`)
    throw new ClosedError(`${this.#label} is closed`)
  }

  /** Gives a record its place behind those that came before it; `waiter` undefined: nobody waits for it. */
  #take(value, options, waiter) {
    // Text that has no bytes goes the other way, where it is refused, and so do bytes that are gone.
    const isPlain = options === undefined && (typeof value === 'string' ? value.isWellFormed() : value instanceof Uint8Array && value.length > 0)
    const parts = isPlain ? undefined : partsOf(value, options ?? {})
    const pack = this.#pack
    const isWaitedFor = waiter !== undefined
    if (pack.length > 0 && (this.#waiters !== null) !== isWaitedFor) this.#handOver()
    if (pack.length === 0) {
      this.#waiters = isWaitedFor ? [] : null
      this.#since = performance.now()
      this.#schedule()
    }
    if (isPlain) pack.addParts(value, null, NO_PAIRS, NaN, NONE, undefined)
    else pack.add(parts)
    if (isWaitedFor) this.#waiters.push(waiter)
  }

  /** All of them, behind those that came before, or none: one that is no record is the caller's mistake. */
  #packed(messages) {
    if (typeof messages !== 'object' || typeof messages?.[Symbol.iterator] !== 'function' || ArrayBuffer.isView(messages)) {
      throw new TypeError(`messages is ${kindOf(messages)}; an array of { value, key, headers, timestampMs, partition, topic } is expected`)
    }
    // Apart, so that what throws in the middle leaves nothing behind.
    const pack = new Pack()
    let number = 0
    for (const message of messages) {
      try {
        checkNames('fields', message, MESSAGE_FIELDS)
        pack.add(partsOf(message.value, message))
      } catch (error) {
        throw numbered(error, number)
      }
      number += 1
    }
    this.#handOver()
    return pack
  }

  /** One for each turn: a turn that hands over often would gather them. */
  #schedule() {
    if (this.#isScheduled) return
    this.#isScheduled = true
    setImmediate(() => {
      this.#isScheduled = false
      this.#handOver()
    })
  }

  #handOverIfDue() {
    const pack = this.#pack
    if (pack.length >= TOGETHER || pack.bytes >= TOGETHER_BYTES || isLeaving) return this.#handOver()
    // The first has just come.
    return pack.length > 1 && performance.now() - this.#since >= TOGETHER_MS ? this.#handOver() : undefined
  }

  #handOver() {
    if (this.#pack.length === 0) return undefined
    const waiters = this.#waiters
    this.#waiters = null
    return this.#submit(this.#pack, waiters)
  }

  #submit(pack, waiters) {
    let receipt
    try {
      receipt = pack.submit(this.#native, waiters !== null)
    } catch (error) {
      // None of them is on its way.
      if (waiters === null) this.#untold ??= raised(error)
      else for (const waiter of waiters) tellError(waiter, raised(error))
      return undefined
    }
    if (waiters !== null) {
      const settling = this.#settle(receipt, waiters)
      this.#settling.add(settling)
      settling.finally(() => this.#settling.delete(settling))
    }
    if (isLeaving) waitFor([this.#entry])
    return receipt
  }

  /** Waits while the buffer has no room for what was handed over. */
  // What was just handed over ends the turn: a loop of such calls would keep signals, timers and callbacks waiting.
  #room(receipt) {
    if (receipt === undefined) return DONE
    return receipt.isBuffered ? new Promise(endTurn) : call(receipt.buffered())
  }

  async #settle(receipt, waiters) {
    let left = waiters.length
    while (left > 0) {
      const { at, partitions, offsets, failed } = await receipt.settled()
      left -= at.length + failed.length
      for (let i = 0; i < at.length; i++) {
        tellDelivery(waiters[at[i]], { partition: partitions[i], offset: offsets[i] < 0 ? null : offsets[i] })
      }
      for (const { index, error } of failed) tellError(waiters[index], errorOf(error))
    }
  }
}

module.exports = { Producer, watchExit }
