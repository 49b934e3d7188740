// The consumer: `for await (const record of consumer)`, or `for await (const batch of consumer.batches())`.

'use strict'

const { AsyncLocalStorage } = require('node:async_hooks')

const { checkNames, checkNumber, checkNumbers, DURATION, kindOf, TIMER_MAX_MS, topicsOf } = require('./data.js')
const { ClosedError, InvalidError, call, checkMade, raised } = require('./errors.js')
const { place, placeAndOffset, position } = require('./place.js')
const { Batch, ConsumerRecord, Packed, topicIdOf } = require('./record.js')
const { listen, within } = require('./waiting.js')

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
// Once a signal has ended a consumer, its group's coordinator is waited for so long: one that is there answers within that.
const ABORTED_MS = 500

/** Changes that follow each other and are of one kind, as one event. */
function eventsOf(changes) {
  const events = []
  for (const { kind, topic, partition } of changes) {
    if (events.at(-1)?.kind !== kind) events.push({ kind, partitions: [] })
    events.at(-1).partitions.push({ topic, partition })
  }
  return events
}

// Whose callback something is called in. Node 20 keeps track of that at every `await` of the process, which costs a reading loop half of its speed: so it is
// switched off while no callback runs.
const callers = new AsyncLocalStorage()
let callbacks = 0

/** Calls a consumer's callback, and waits for it. */
async function callFor(consumer, callback, event) {
  const caller = { consumer, isRunning: true, outer: currentCaller() }
  callbacks += 1
  try {
    await callers.run(caller, callback, event)
  } finally {
    caller.isRunning = false
    callbacks -= 1
    if (callbacks === 0) callers.disable()
  }
}

/** The callback that calls this, however far down; undefined where there is none, or it has ended. */
function currentCaller() {
  if (callbacks === 0) return undefined
  let caller = callers.getStore()
  while (caller !== undefined && !caller.isRunning) caller = caller.outer
  return caller
}

/** Whether a callback of this consumer calls, itself or by another's that it waits for. */
function isCalledBy(consumer) {
  let caller = currentCaller()
  while (caller !== undefined && (caller.consumer !== consumer || !caller.isRunning)) caller = caller.outer
  return caller !== undefined
}

/** A callback that waited for what is next would wait for its own end. */
function refusedRead() {
  return new InvalidError('a rebalance callback cannot read: it is told before the next record is handed out')
}

/** Whether somebody has closed a consumer, and hears how that goes; how its client closes it; and what a signal does to one. */
let isClosing
let closeFor
let abort

class Consumer {
  #open
  #opening
  #native
  #options
  #closing
  #unlisten = () => {}
  #packed
  #run = { first: 0, next: 0, end: 0, since: 0, size: 1 }
  // Of what was taken last, where that has been settled: which records the user has got, how many of them are done, and up to where the user has committed by hand.
  #hand
  #readings = new Set()
  // Who waits for what is next, in the order in which they asked.
  #line = []
  // What rejects the calls that are under way, once the signal has spoken, and a promise of that.
  #calls = new Set()
  #tellAborted
  #aborted = new Promise((resolve) => (this.#tellAborted = resolve))
  #isServing = false
  #timer
  #onLeft
  // What `next` or `nextBatch` has given is in hand, until somebody asks for what is next.
  #isPolled = false
  // It was when the consumer was closed: whoever asks then is told once that nothing more comes, as a loop is.
  #isFinishing = false
  // What is in hand may be finished, and the callback may commit: what a body or a callback calls goes on.
  #isWaitedFor = false
  // Partitions that the callback was told are read, and not yet that they are not.
  #held = new Map()
  // What the callback is told of at the moment: how many changes, and a promise of its end, however it takes them.
  #telling
  // Nobody is waited for any more but the callback, which is told for the last time; and not even that.
  #isLeaving = false
  #hasLeft = false

  static {
    isClosing = (consumer) => consumer.#closing !== undefined
    closeFor = (consumer) => consumer.#close()
    abort = (consumer) => consumer.#abort()
  }

  constructor(topics, open, options) {
    checkMade(typeof open === 'function', Consumer, 'client.consumer(topic) makes a consumer')
    this.topics = topics
    this.topic = topics[0]
    this.group = options.group ?? null
    this.#open = open
    this.#options = options
    const { signal } = options
    if (signal !== undefined) this.#unlisten = listen(signal, this, abort)
    // One that has spoken tells nobody any more.
    if (signal?.aborted) this.#tellAborted()
  }

  /** How the coordinator takes it is nobody's matter here: whoever reads hears the signal's reason. */
  #abort() {
    void this.#leave('lost', 0).catch(() => {})
    this.#tellAborted()
    const { reason } = this.#options.signal
    for (const waiter of this.#line.splice(0)) waiter.reject(reason)
    for (const reject of [...this.#calls]) reject(reason)
  }

  /** What a call has come to, or the signal's reason as soon as that says so: what is under way goes on, and nobody waits for it. */
  #bounded(work) {
    const { signal } = this.#options
    if (signal === undefined) return work
    return new Promise((resolve, reject) => {
      if (signal.aborted) reject(signal.reason)
      else this.#calls.add(reject)
      const done = (settle) => (outcome) => {
        this.#calls.delete(reject)
        settle(outcome)
      }
      work.then(done(resolve), done(reject))
    })
  }

  /** Waits for the native half; once the signal has spoken, for a moment only, and then the process does not wait for it either. */
  async #untilAborted(work) {
    const untilLate = async () => {
      if (!(await within(work, ABORTED_MS))) this.#native?.abandon()
    }
    await Promise.race([work, this.#aborted.then(untilLate)])
  }

  /** The native half of what is being opened, if anything is; undefined where that comes to nothing, or nobody waits for it any more: then it is closed as soon as it is there. */
  async #opened() {
    let native
    let isAwaited = true
    const opening = (this.#opening ?? Promise.resolve()).then(
      (opened) => (isAwaited ? (native = opened) : opened?.close()),
      () => {},
    )
    await this.#untilAborted(opening)
    isAwaited = false
    return native
  }

  async #ready() {
    this.#options.signal?.throwIfAborted()
    if (this.#closing && !this.#isWaitedFor) throw new ClosedError('the consumer is closed')
    if (this.#native) return this.#native
    this.#opening ??= call(this.#open()).catch((error) => {
      this.#opening = undefined
      throw error
    })
    const native = await this.#bounded(this.#opening)
    this.#native = native
    return native
  }

  /** Opens the subscription now, so that a missing topic or filter shows before the first record. */
  async open() {
    await this.#ready()
    return this
  }

  /** Tells what came and went, in the order in which it happened; what is told may take its time. */
  async #tell(native) {
    for (;;) {
      const [event] = eventsOf(native.untold())
      // Once it is being closed, what is left is told there.
      if (event === undefined || this.#closing) return
      const count = event.partitions.length
      // Told, however it is taken.
      await this.#call(event, () => native.told(count))
    }
  }

  async #call(event, after = () => {}) {
    for (const at of event.partitions) {
      const name = `${at.partition} ${at.topic}`
      if (event.kind === 'assigned') this.#held.set(name, { ...at })
      else this.#held.delete(name)
    }
    let end
    const telling = { count: event.partitions.length, ended: new Promise((resolve) => (end = resolve)) }
    this.#telling = telling
    try {
      await callFor(this, this.#options.onRebalance, event)
    } finally {
      after()
      if (this.#telling === telling) this.#telling = undefined
      end()
    }
  }

  /** Tells what is left to be told, and that nothing is read any more. The first error is thrown when all is told. */
  async #tellLast(native, kind, isCalledBack) {
    // One that closes the consumer in its callback does not wait for itself; what comes after the event that it was told of comes now.
    const told = isCalledBack ? this.#telling.count : 0
    if (!isCalledBack) await this.#telling?.ended
    const errors = []
    const tell = async (events) => {
      for (const event of events) {
        if (!this.#hasLeft) await this.#call(event).catch((error) => errors.push(error))
      }
    }
    await tell(eventsOf(native.untold().slice(told)))
    await tell(this.#lastEvents(native, kind))
    if (errors.length > 0) throw errors[0]
  }

  /** That everything which the callback knows of is given up, or lost where the group has taken it away meanwhile: nothing of that can be committed. */
  #lastEvents(native, kind) {
    const isHeld = ({ topic, partition }) => {
      try {
        native.committed(topic, partition)
        return true
      } catch {
        return false
      }
    }
    const changes = [...this.#held.values()].map((at) => ({ ...at, kind: isHeld(at) ? kind : 'lost' }))
    return eventsOf([...changes.filter((change) => change.kind === 'lost'), ...changes.filter((change) => change.kind !== 'lost')])
  }

  /** Takes without waiting: a record, or a number that says why there is none. */
  #takeRecord(native, asks) {
    const run = this.#run
    const now = performance.now()
    if (asks && run.next < run.end && now - run.since < RUN_LONG_MS) return new ConsumerRecord(this.#packed, run.next++)
    this.#settle(native)
    const isShort = now - run.since < RUN_SHORT_MS
    // Within a run, asking for a record does the one before it for done.
    run.size = asks && isShort ? Math.min(run.size * 2, RUN_MAX) : 1
    this.#hand = undefined
    const count = native.take(run.size, asks)
    if (count <= 0) {
      run.size = 1
      return count
    }
    const batch = native.current()
    if (batch) this.#packed = new Packed(batch)
    const first = native.first()
    run.first = first
    run.next = first + 1
    run.end = first + count
    run.since = now
    // While a body takes long, what was handled before it must not wait to count as done.
    if (count > 1) this.#timer ??= setTimeout(() => this.#settleLate(native), RUN_LONG_MS).unref()
    return new ConsumerRecord(this.#packed, first)
  }

  #settleLate(native) {
    const left = RUN_LONG_MS - (performance.now() - this.#run.since)
    this.#timer = left > 0 ? setTimeout(() => this.#settleLate(native), left).unref() : undefined
    if (left <= 0) this.#settle(native)
  }

  /** What the user has not got of a run is not in hand: said before anything that it makes a difference to. */
  #settle(native) {
    const run = this.#run
    const count = run.next - run.first
    if (count > 0) {
      native.giveBack(count)
      this.#hand = { packed: this.#packed, first: run.first, count, done: count - 1, committed: 0 }
    }
    run.first = run.end = run.next
  }

  /** Takes back what is in hand, for who commits all that was handed out and does not mean that. */
  #takeBack(native) {
    if (this.#hand === undefined) return
    const { packed, first, count, committed } = this.#hand
    let { done } = this.#hand
    while (done < count && packed.offsets[first + done] < committed) done += 1
    if (done < count) native.giveBack(done)
    this.#hand = undefined
  }

  #takeBatch(native, maxRecords, asks) {
    this.#settle(native)
    this.#hand = undefined
    const count = native.takeBatch(maxRecords, asks)
    if (count <= 0) return count
    const packed = new Packed(native.batch())
    this.#hand = { packed, first: 0, count, done: 0, committed: 0 }
    return new Batch(packed)
  }

  /** What is next, after all who have asked before; undefined where nothing more comes. `waiter.leave()` gives up waiting, and takes nothing with it. */
  #next(maxRecords) {
    // Whoever stands behind others has asked when it came: its looks do nothing for done that the others are given meanwhile.
    const waiter = { maxRecords, asks: this.#line.length === 0, resolve: undefined, reject: undefined, leave: undefined }
    if (!waiter.asks && this.#native !== undefined) {
      this.#settle(this.#native)
      this.#native.ask()
    }
    waiter.promise = new Promise((resolve, reject) => {
      waiter.resolve = resolve
      waiter.reject = reject
    })
    waiter.leave = () => {
      const at = this.#line.indexOf(waiter)
      if (at >= 0) this.#line.splice(at, 1)
      waiter.resolve(undefined)
    }
    this.#line.push(waiter)
    void this.#serve()
    return waiter
  }

  /** Serves those who wait. */
  async #serve() {
    if (this.#isServing) return
    this.#isServing = true
    try {
      while (this.#line.length > 0) {
        try {
          // Also while it is being closed: whoever asks then has done with what is in hand.
          const native = this.#native ?? (await this.#ready())
          const [waiter] = this.#line
          if (waiter === undefined) return
          this.#options.signal?.throwIfAborted()
          const { asks } = waiter
          waiter.asks = false
          const taken = waiter.maxRecords === 0 ? this.#takeRecord(native, asks) : this.#takeBatch(native, waiter.maxRecords, asks)
          if (typeof taken !== 'number' || taken === ENDED) {
            this.#line.shift()
            waiter.resolve(typeof taken === 'number' ? undefined : taken)
          } else if (taken === UNTOLD) await this.#tell(native)
          else await native.ready()
        } catch (error) {
          this.#line.shift()?.reject(raised(error))
        }
      }
    } finally {
      this.#isServing = false
    }
  }

  async #nextWithin(maxRecords, timeoutMs) {
    if (isCalledBy(this)) throw refusedRead()
    this.#options.signal?.throwIfAborted()
    if (this.#closing && !this.#isFinishing) throw new ClosedError('the consumer is closed')
    checkNumbers({ timeoutMs }, { timeoutMs: DURATION })
    this.#isPolled = this.#isFinishing = false
    const waiter = this.#next(maxRecords)
    const timer = timeoutMs === undefined || timeoutMs === null ? undefined : setTimeout(waiter.leave, Math.min(timeoutMs, TIMER_MAX_MS))
    try {
      const taken = (await waiter.promise) ?? null
      this.#isPolled = taken !== null
      return taken
    } finally {
      clearTimeout(timer)
    }
  }

  /** The next record; the one before it is done. null: nothing came within `timeoutMs`, or nothing more comes. */
  async next(options = {}) {
    checkNames('options of next', options, ['timeoutMs'])
    return this.#nextWithin(0, options.timeoutMs)
  }

  /** The next records that came together; what is left of a batch comes next. null as with `next`. */
  async nextBatch(options = {}) {
    checkNames('options of nextBatch', options, ['maxRecords', 'timeoutMs'])
    return this.#nextWithin(countOf(options.maxRecords), options.timeoutMs)
  }

  /** Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it. */
  batches(options = {}) {
    checkNames('options of batches', options, ['maxRecords'])
    return this.#iterate(countOf(options.maxRecords))
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
    const reading = { hasItem: false, isOver: false, waiters: new Set() }
    const leave = () => {
      reading.isOver = true
      this.#readings.delete(reading)
      for (const waiter of reading.waiters) waiter.leave()
      this.#onLeft?.()
    }
    this.#readings.add(reading)
    const over = { value: undefined, done: true }
    const wait = async () => {
      const waiter = this.#next(maxRecords)
      reading.waiters.add(waiter)
      try {
        const item = await waiter.promise
        if (item !== undefined) {
          reading.hasItem = true
          return { value: item, done: false }
        }
        if (reading.isOver) return over
        leave()
        // Nothing more comes: with `untilEnd`, the group goes on without this member. Where somebody closes it, how that goes is theirs.
        if (this.#closing) await this.#bounded(this.#closing.catch(() => {}))
        else await this.#bounded(this.#leave('revoked', 0))
      } catch (error) {
        leave()
        // Whatever a call says that was under way.
        signal?.throwIfAborted()
        // One that runs when the consumer is closed ends.
        if (this.#closing && error instanceof ClosedError) return over
        throw error
      } finally {
        reading.waiters.delete(waiter)
      }
      signal?.throwIfAborted()
      return over
    }
    return {
      next: () => {
        if (callbacks > 0 && isCalledBy(this)) {
          // A loop of the callback's ends with this; one that waits for the callback does not.
          if (reading.waiters.size === 0) leave()
          return Promise.reject(refusedRead())
        }
        reading.hasItem = this.#isPolled = false
        if (reading.isOver) return Promise.resolve(over)
        const native = this.#native
        // What is there needs no waiting, nor an async function, which costs as much as the record. Nobody is overtaken.
        if (maxRecords === 0 && native !== undefined && this.#line.length === 0 && !this.#isServing && signal?.aborted !== true) {
          let taken
          try {
            taken = this.#takeRecord(native, true)
          } catch (error) {
            leave()
            return Promise.reject(raised(error))
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

  async subscribe(topics) {
    const names = topicsOf(topics)
    const changed = await this.#sync((native) => native.subscribe(names))
    try {
      await this.#bounded(call(changed.wait()))
    } finally {
      this.topics = this.#native.subscription()
      this.topic = this.topics[0]
    }
  }

  async seek(at, to) {
    const where = [...place(at, 'at'), ...position(to, 'to')]
    const moved = await this.#sync((native) => native.seek(...where))
    await this.#bounded(call(moved.wait()))
  }

  async pause(at) {
    const where = place(at, 'at')
    await this.#sync((native) => native.pause(...where))
  }

  async resume(at) {
    const where = place(at, 'at')
    await this.#sync((native) => native.resume(...where))
  }

  async paused() {
    return this.#sync((native) => native.paused())
  }

  async position(at) {
    const where = place(at, 'at')
    return (await this.#sync((native) => native.position(...where))) ?? null
  }

  async lag(at) {
    const where = place(at, 'at')
    return (await this.#sync((native) => native.lag(...where))) ?? null
  }

  async committed(at) {
    const where = place(at, 'at')
    return (await this.#sync((native) => native.committed(...where))) ?? null
  }

  async assignment() {
    return this.#sync((native) => native.assignment())
  }

  /** Something that does not wait, with its error in words. */
  async #sync(act) {
    const native = await this.#ready()
    this.#settle(native)
    return this.#inWords(() => act(native))
  }

  async commit(offsets) {
    const isRecord = offsets instanceof ConsumerRecord
    const topicId = isRecord ? topicIdOf(offsets) : undefined
    const list = isRecord ? [{ topic: offsets.topic, partition: offsets.partition, offset: offsets.offset + 1 }] : offsetsOf(offsets)
    // What was handed out is what counts at the call.
    const native = this.#closing ? await this.#ready() : (this.#native ?? (await this.#ready()))
    this.#settle(native)
    const hand = this.#hand
    if (list === undefined) {
      if (this.#isLeaving) this.#takeBack(native)
      else if (hand !== undefined) hand.committed = Infinity
      return this.#bounded(call(this.#inWords(() => native.startCommit()).wait()))
    }
    for (const { topic = this.topic, partition, offset } of list) {
      if (topic === hand?.packed.topic && partition === hand.packed.partition) hand.committed = Math.max(hand.committed, offset)
    }
    await this.#bounded(call(native.commitOffsets(list.map(({ topic = this.topic, partition, offset }) => ({ topic, topicId, partition, offset })))))
  }

  /** What the native half throws at once, as the error that it is. */
  #inWords(act) {
    try {
      return act()
    } catch (error) {
      throw raised(error)
    }
  }

  /** Records scanned so far; also once it is closed. */
  async counts() {
    const counts = (this.#native ?? (await this.#ready())).counts()
    return { ...counts, scanned: counts.delivered + counts.filtered + counts.failed + counts.unreadable }
  }

  /** Ends it, with what the callback is told of what it still has: `revoked`, or `lost`. The body of a loop may end, for so long. */
  async #leave(kind, bodyMs) {
    const isCalledBack = isCalledBy(this)
    // Whoever closes it waits for the callback by then.
    if (this.#closing && isCalledBack) return
    this.#closing ??= this.#end(kind, bodyMs, isCalledBack).finally(this.#unlisten)
    await this.#closing
  }

  async #end(kind, bodyMs, isCalledBack) {
    const native = this.#native ?? (await this.#opened())
    if (!native) return
    this.#settle(native)
    native.stop()
    // A body that runs may finish what it has in hand, and ask for what is next. Around `next` only a group makes a difference: whoever is through with it
    // may never ask again.
    const isPolled = this.#isPolled && this.group !== null
    const isBusy = isPolled || [...this.#readings].some((reading) => reading.hasItem)
    if (isBusy && bodyMs > 0) {
      const left = new Promise((resolve) => {
        if (!isPolled) this.#onLeft = resolve
      })
      this.#isWaitedFor = true
      await within(Promise.race([native.idle(), left, this.#aborted]), bodyMs)
    }
    // An abort waits for nobody; what is lost is told meanwhile.
    let leaving = kind === 'lost' ? call(native.close()) : undefined
    leaving?.catch(() => {})
    let failed
    if (this.#options.onRebalance !== undefined) {
      this.#isLeaving = true
      this.#isWaitedFor = kind === 'revoked'
      const told = this.#tellLast(native, kind, isCalledBack).catch((error) => {
        failed = { error }
      })
      await within(told, this.#closeTimeoutMs)
      this.#hasLeft = true
    }
    this.#isWaitedFor = false
    leaving ??= call(native.close())
    await this.#untilAborted(leaving)
    if (failed !== undefined) throw failed.error
  }

  get #closeTimeoutMs() {
    return this.#options.closeTimeoutMs ?? CLOSE_TIMEOUT_MS
  }

  /**
   * Ends the subscription, and a loop that runs. What is in hand is not done, unless it is finished now: the body of a loop may end, for at most
   * `closeTimeoutMs`, and the loop then ends as if there were nothing more. In a group, what is done is committed unless that is manual; before that
   * `onRebalance` is told of what it still has, and may commit, for as long again.
   */
  async close() {
    const closed = this.#close()
    // What the signal has ended is closed, and takes a moment for it.
    await (this.#options.signal?.aborted ? closed : this.#bounded(closed))
  }

  async #close() {
    if (!this.#closing) this.#isFinishing = this.#isPolled
    await this.#leave('revoked', this.#closeTimeoutMs)
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    // Whoever leaves a block has left its loops.
    const left = this.#leave('revoked', 0)
    await (this.#options.signal?.aborted ? left : this.#bounded(left))
  }
}

/** What is to be committed, by partition; undefined where all that was handed out is meant. */
function offsetsOf(offsets) {
  if (offsets === undefined) return undefined
  if (!Array.isArray(offsets)) throw new TypeError(`offsets is ${kindOf(offsets)}; a record, or an array of { partition, offset }, is expected`)
  return offsets.map((one, i) => placeAndOffset(one, `offsets[${i}]`))
}

/** How many records a batch may have; as many as there are where nothing is said. */
function countOf(maxRecords) {
  if (maxRecords === undefined || maxRecords === null) return RECORDS_MAX
  checkNumber('maxRecords', maxRecords, [1, Number.MAX_SAFE_INTEGER, true])
  return Math.min(maxRecords, RECORDS_MAX)
}

module.exports = { Consumer, closeFor, isClosing }
