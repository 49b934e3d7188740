// The consumer: `for await (const record of consumer)`, or `for await (const batch of consumer.batches())`.

import { InvalidError, call, raised } from './errors.js'
import { Batch, ConsumerRecord } from './record.js'

/** A position as the native half wants it: kind and number. */
export function position(start = 'latest') {
  if (start === 'earliest' || start === 'latest') return [start, 0]
  if (Number.isSafeInteger(start) && start >= 0) return ['offset', start]
  if (typeof start === 'object' && start !== null && Number.isFinite(start.timestamp)) return ['timestamp', start.timestamp]
  throw new InvalidError(`start is ${JSON.stringify(start)}; 'earliest', 'latest', an offset or { timestamp } is expected`)
}

/** Topic and partition as the native half wants them; a number alone where one topic is read. */
const place = (at) => (typeof at === 'object' && at !== null ? [at.topic, at.partition] : [undefined, at])

// What the native half answers with where it hands out nothing.
const NOTHING = -1
const UNTOLD = -2
const ENDED = -3

// A call of the native half costs more than a record. So records are taken in runs: of one, and of more as long as a run is handed out within
// moments; what is left of a run is given back when the user takes longer with a record, or does anything but read.
const RUN_MAX = 256
const RUN_SHORT_MS = 5
const RUN_LONG_MS = 20

const RECORDS_MAX = 0xffffffff
const CLOSE_TIMEOUT_MS = 5_000
/** The longest that a timer can be set to. */
const TIMER_MAX_MS = 0x7fffffff

/** Resolves after a while, or once `work` does; the process need not wait for it. */
async function within(work, ms) {
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(() => resolve(false), ms)
  })
  try {
    return await Promise.race([work.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}

export class Consumer {
  #open
  #opening
  #native
  #options
  #closing
  #batch
  #run = { first: 0, next: 0, end: 0, since: 0, size: 1 }
  #telling = Promise.resolve()
  #readings = new Set()
  #readying
  #waiting = new Set()
  #onLeft

  constructor(topics, open, options) {
    this.topics = topics
    this.topic = topics[0]
    this.group = options.group ?? null
    this.#open = open
    this.#options = options
  }

  async #ready() {
    if (this.#closing) throw new InvalidError('the consumer is closed')
    if (this.#native) return this.#native
    this.#opening ??= call(this.#open()).catch((error) => {
      this.#opening = undefined
      throw error
    })
    this.#native = await this.#opening
    return this.#native
  }

  /** Opens the subscription now, so that a missing topic or filter shows before the first record. */
  async open() {
    await this.#ready()
    return this
  }

  /** Tells what came and went, in the order in which it happened; what is told may take its time. */
  async #tell(native) {
    // One at a time.
    const before = this.#telling
    let done
    this.#telling = new Promise((resolve) => {
      done = resolve
    })
    await before
    const changes = native.untold()
    try {
      const events = []
      for (const { kind, topic, partition } of changes) {
        if (events.at(-1)?.kind !== kind) events.push({ kind, partitions: [] })
        events.at(-1).partitions.push({ topic, partition })
      }
      for (const event of events) await this.#options.onRebalance?.(event)
    } finally {
      native.told(changes.length)
      done()
    }
  }

  /** Takes without waiting: a record, or a number that says why there is none. */
  #takeRecord(native) {
    const run = this.#run
    const now = performance.now()
    if (run.next < run.end && now - run.since < RUN_LONG_MS) return new ConsumerRecord(this.#batch, run.next++)
    this.#settle(native)
    const isShort = now - run.since < RUN_SHORT_MS
    run.size = isShort ? Math.min(run.size * 2, RUN_MAX) : 1
    const count = native.take(run.size)
    if (count <= 0) {
      run.size = 1
      return count
    }
    const batch = native.current()
    if (batch) this.#batch = new Batch(batch)
    const first = native.first()
    run.first = first
    run.next = first + 1
    run.end = first + count
    run.since = now
    return new ConsumerRecord(this.#batch, first)
  }

  /** What the user has not got of a run is not in his hands: said before anything that it makes a difference to. */
  #settle(native) {
    const run = this.#run
    if (run.next > run.first) native.giveBack(run.next - run.first)
    run.first = run.end = run.next
  }

  #takeBatch(native, maxRecords) {
    this.#settle(native)
    const count = native.takeBatch(maxRecords)
    return count > 0 ? new Batch(native.batch()) : count
  }

  /** Waits until there may be something to take, or until `reading` is woken. Several may wait for the one call of the native half. */
  #readyFor(native, reading) {
    return new Promise((resolve) => {
      this.#waiting.add(resolve)
      reading.wake = () => {
        this.#waiting.delete(resolve)
        resolve()
      }
      this.#readying ??= native.ready().then(() => {
        const waiting = [...this.#waiting]
        this.#waiting.clear()
        this.#readying = undefined
        for (const wake of waiting) wake()
      })
    })
  }

  /** What is next; undefined where nothing comes before `reading` is over. */
  async #next(maxRecords, reading) {
    const { signal } = this.#options
    // Also while it is being closed: whoever asks then has done with what he has in hand.
    const native = this.#native ?? (await this.#ready())
    for (;;) {
      signal?.throwIfAborted()
      // Whoever has gone does not take anything with him.
      if (reading.isOver) return undefined
      let taken
      try {
        taken = maxRecords === 0 ? this.#takeRecord(native) : this.#takeBatch(native, maxRecords)
      } catch (error) {
        throw raised(error)
      }
      if (typeof taken !== 'number') return taken
      if (taken === ENDED) return undefined
      if (taken === UNTOLD) await this.#tell(native)
      else await this.#readyFor(native, reading)
    }
  }

  async #nextWithin(maxRecords, timeoutMs) {
    if (this.#closing) throw new InvalidError('the consumer is closed')
    const reading = { isOver: false, wake: undefined }
    if (timeoutMs === undefined) return (await this.#next(maxRecords, reading)) ?? null
    if (!(timeoutMs >= 0)) throw new InvalidError(`timeoutMs is ${timeoutMs}; a number of milliseconds is expected`)
    const timer = setTimeout(() => {
      reading.isOver = true
      reading.wake?.()
    }, Math.min(timeoutMs, TIMER_MAX_MS))
    try {
      return (await this.#next(maxRecords, reading)) ?? null
    } finally {
      clearTimeout(timer)
    }
  }

  /** The next record; the one before it is done. null: nothing came within `timeoutMs`, or nothing more comes. */
  async next({ timeoutMs } = {}) {
    return this.#nextWithin(0, timeoutMs)
  }

  /** The next records that came together; what is left of a batch comes next. null as with `next`. */
  async nextBatch({ maxRecords = RECORDS_MAX, timeoutMs } = {}) {
    return this.#nextWithin(countOf(maxRecords), timeoutMs)
  }

  /** Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it. */
  batches({ maxRecords = RECORDS_MAX } = {}) {
    return this.#iterate(countOf(maxRecords))
  }

  /**
   * Records one by one. Whoever leaves the loop may come back: it goes on where it was. An error of a partition leaves the consumer usable: `seek` past
   * it and loop again, or close it.
   */
  [Symbol.asyncIterator]() {
    return this.#iterate(0)
  }

  /** An iterator of its own rather than a generator, whose `return()` would wait for the `next()` before it. */
  #iterate(maxRecords) {
    const { signal } = this.#options
    const reading = { hasItem: false, isOver: false, wake: undefined }
    const leave = () => {
      reading.isOver = true
      this.#readings.delete(reading)
      signal?.removeEventListener('abort', stop)
      reading.wake?.()
      this.#onLeft?.()
    }
    // How the coordinator takes it is nobody's matter here: the loop ends with the signal's reason.
    const stop = () => void this.#leave(0).catch(() => {})
    signal?.addEventListener('abort', stop, { once: true })
    this.#readings.add(reading)
    const over = { value: undefined, done: true }
    const wait = async () => {
      try {
        const item = await this.#nextOf(maxRecords, reading)
        if (item !== undefined) {
          reading.hasItem = true
          return { value: item, done: false }
        }
        if (reading.isOver) return over
        leave()
        // Nothing more comes: with `untilEnd`, the group goes on without this member.
        await this.#leave(0)
      } catch (error) {
        leave()
        // Whatever a call says that was under way.
        signal?.throwIfAborted()
        throw error
      }
      signal?.throwIfAborted()
      return over
    }
    const fail = (error) => {
      leave()
      return Promise.reject(raised(error))
    }
    return {
      next: () => {
        reading.hasItem = false
        if (reading.isOver) return Promise.resolve(over)
        const native = this.#native
        // What is there needs no waiting, nor an async function, which costs as much as the record.
        if (maxRecords === 0 && native !== undefined && signal?.aborted !== true) {
          let taken
          try {
            taken = this.#takeRecord(native)
          } catch (error) {
            return fail(error)
          }
          if (typeof taken !== 'number') {
            reading.hasItem = true
            return Promise.resolve({ value: taken, done: false })
          }
        }
        return wait()
      },
      return: async (value) => {
        leave()
        return { value, done: true }
      },
      [Symbol.asyncIterator]() {
        return this
      },
    }
  }

  /** As `#next`, for a loop: one that runs when the consumer is closed ends. */
  async #nextOf(maxRecords, reading) {
    try {
      return await this.#next(maxRecords, reading)
    } catch (error) {
      if (this.#closing && error instanceof InvalidError) return undefined
      throw error
    }
  }

  async seek(at, to) {
    const [kind, value] = position(to)
    await this.#sync((native) => native.seek(...place(at), kind, value))
  }

  async pause(at) {
    await this.#sync((native) => native.pause(...place(at)))
  }

  async resume(at) {
    await this.#sync((native) => native.resume(...place(at)))
  }

  async paused() {
    return this.#sync((native) => native.paused())
  }

  async position(at) {
    return (await this.#sync((native) => native.position(...place(at)))) ?? null
  }

  async lag(at) {
    return (await this.#sync((native) => native.lag(...place(at)))) ?? null
  }

  async committed(at) {
    return (await this.#sync((native) => native.committed(...place(at)))) ?? null
  }

  async assignment() {
    return this.#sync((native) => native.assignment())
  }

  /** Something that does not wait, with its error in words. */
  async #sync(act) {
    const native = await this.#ready()
    this.#settle(native)
    try {
      return act(native)
    } catch (error) {
      throw raised(error)
    }
  }

  async commit(offsets) {
    const native = await this.#ready()
    this.#settle(native)
    if (offsets === undefined) return call(native.commit())
    const isRecord = offsets instanceof ConsumerRecord
    const list = isRecord ? [{ topic: offsets.topic, partition: offsets.partition, offset: offsets.offset + 1 }] : offsets
    if (!Array.isArray(list)) throw new TypeError('offsets are a record, or an array of { partition, offset }')
    for (const { partition, offset } of list) {
      if (!Number.isSafeInteger(offset) || offset < 0) throw new InvalidError(`offset ${offset} of partition ${partition} is no offset: a whole number from 0 on`)
    }
    await call(native.commit(list.map(({ topic = this.topic, partition, offset }) => ({ topic, partition, offset }))))
  }

  /** Records scanned so far; also once it is closed. */
  async counts() {
    const counts = (this.#native ?? (await this.#ready())).counts()
    return { ...counts, scanned: counts.delivered + counts.filtered + counts.failed + counts.unreadable }
  }

  async #leave(timeoutMs) {
    this.#closing ??= this.#end(timeoutMs)
    await this.#closing
  }

  async #end(timeoutMs) {
    const native = this.#native ?? (await this.#opening?.catch(() => undefined))
    if (!native) return
    this.#settle(native)
    native.stop()
    // A body that runs may finish what it has in hand, and ask for what is next.
    const isBusy = [...this.#readings].some((reading) => reading.hasItem)
    if (isBusy && timeoutMs > 0) {
      const left = new Promise((resolve) => {
        this.#onLeft = resolve
      })
      await within(Promise.race([native.idle(), left]), timeoutMs)
    }
    await call(native.close())
  }

  /**
   * Ends the subscription, and a loop that runs. What is in hand is not done, unless it is finished now: the body of a loop may end, for at most
   * `closeTimeoutMs`, and the loop then ends as if there were nothing more. In a group, what is done is committed unless that is manual.
   */
  async close() {
    await this.#leave(this.#options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS)
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    // Whoever leaves a block has left its loops.
    await this.#leave(0)
  }
}

function countOf(maxRecords) {
  if (!Number.isSafeInteger(maxRecords) || maxRecords < 1) {
    throw new InvalidError(`maxRecords is ${maxRecords}; a batch has at least one record`)
  }
  return Math.min(maxRecords, RECORDS_MAX)
}
