// The consumer: `for await (const record of consumer)`, or `for await (const batch of consumer.batches())`.

import { InvalidError, ThalwegError, call } from './errors.js'
import { Batch, Record } from './record.js'

/** A position as the native half wants it: kind and number. */
export function position(start = 'latest') {
  if (start === 'earliest' || start === 'latest') return [start, 0]
  if (Number.isSafeInteger(start) && start >= 0) return ['offset', start]
  if (typeof start === 'object' && start !== null && Number.isFinite(start.timestamp)) return ['timestamp', start.timestamp]
  throw new InvalidError(`start is ${JSON.stringify(start)}; 'earliest', 'latest', an offset or { timestamp } is expected`)
}

/** Topic and partition as the native half wants them; a number alone where one topic is read. */
const place = (at) => (typeof at === 'object' && at !== null ? [at.topic, at.partition] : [undefined, at])

export class Consumer {
  #open
  #native
  #options
  #left = []
  #closed = false

  constructor(topics, open, options) {
    this.topics = topics
    this.topic = topics[0]
    this.group = options.group ?? null
    this.#open = open
    this.#options = options
  }

  async #ready() {
    if (this.#closed) throw new InvalidError('the consumer is closed')
    this.#native ??= call(this.#open()).catch((error) => {
      this.#native = undefined
      throw error
    })
    return this.#native
  }

  /** Opens the subscription now, so that a missing topic or filter shows before the first record. */
  async open() {
    await this.#ready()
    return this
  }

  /** Tells what came and went, in the order in which it happened; what is told may take its time. */
  async #tell(changes) {
    const events = []
    for (const { kind, topic, partition } of changes) {
      if (events.at(-1)?.kind !== kind) events.push({ kind, partitions: [] })
      events.at(-1).partitions.push({ topic, partition })
    }
    for (const event of events) await this.#options.onRebalance?.(event)
  }

  /** Batches as they come: the fast way out. */
  async *batches() {
    const signal = this.#options.signal
    signal?.throwIfAborted()
    // How the coordinator takes it is nobody's matter here: the loop ends with the signal's reason.
    const stop = () => void this.#leave(false).catch(() => {})
    signal?.addEventListener('abort', stop, { once: true })
    try {
      const native = await this.#ready()
      while (!this.#closed) {
        const { changes, batch } = await call(native.next())
        signal?.throwIfAborted()
        if (this.#closed) return
        if (changes.length > 0) await this.#tell(changes)
        if (batch !== null && batch !== undefined) yield new Batch(batch)
        else if (changes.length === 0) return
        signal?.throwIfAborted()
      }
    } catch (error) {
      // Whatever a call says that was under way.
      signal?.throwIfAborted()
      throw error
    } finally {
      signal?.removeEventListener('abort', stop)
    }
  }

  /**
   * Records one by one. Leaving the loop closes the consumer, so that the process can end; the record that the loop was left with
   * is not done then, because a `break` looks like an exception from here. An error of a partition leaves it open: `seek` past it and
   * loop again, or close it.
   */
  async *[Symbol.asyncIterator]() {
    let stands = false
    try {
      for await (const batch of this.batches()) {
        this.#left = batch.records()
        this.#left.reverse()
        while (this.#left.length > 0) {
          const record = this.#left.pop()
          if (this.group !== null && !(await this.#advance(record))) break
          yield record
          // Closed, or aborted, beside the loop: nothing more is handed out.
          this.#options.signal?.throwIfAborted()
          if (this.#closed) return
        }
      }
    } catch (error) {
      stands = !this.#closed && error instanceof ThalwegError
      throw error
    } finally {
      if (!stands) await this.#leave(false)
    }
  }

  /** Whether the record may be handed out; what was before it is done. */
  async #advance(record) {
    const native = await this.#ready()
    if (native.advance(record.offset, this.#left.length === 0) || (await call(native.stillHolds()))) return true
    this.#left = []
    return false
  }

  async seek(at, to) {
    const [topic, partition] = place(at)
    const [kind, value] = position(to)
    await call((await this.#ready()).seek(topic, partition, kind, value))
    this.#left = this.#left.filter((r) => r.partition !== partition || (topic !== undefined && r.topic !== topic))
  }

  async pause(at) {
    await call((await this.#ready()).pause(...place(at)))
  }

  async resume(at) {
    await call((await this.#ready()).resume(...place(at)))
  }

  async position(at) {
    return (await call((await this.#ready()).position(...place(at)))) ?? null
  }

  async lag(at) {
    return (await call((await this.#ready()).lag(...place(at)))) ?? null
  }

  async committed(at) {
    return (await call((await this.#ready()).committed(...place(at)))) ?? null
  }

  async assignment() {
    return call((await this.#ready()).assignment())
  }

  async commit(offsets) {
    const native = await this.#ready()
    if (offsets === undefined) return call(native.commit())
    const list = offsets instanceof Record ? [{ topic: offsets.topic, partition: offsets.partition, offset: offsets.offset + 1 }] : offsets
    await call(native.commit(list.map(({ topic = this.topic, partition, offset }) => ({ topic, partition, offset }))))
  }

  async counts() {
    const counts = await call((await this.#ready()).counts())
    return { ...counts, scanned: counts.delivered + counts.filtered + counts.failed + counts.unreadable }
  }

  async #leave(isDone) {
    this.#closed = true
    const opening = this.#native
    this.#native = undefined
    const native = await opening?.catch(() => undefined)
    if (native) await call(native.close(isDone))
  }

  /**
   * Ends the subscription, and a loop that runs. In a group, what is done is committed unless that is manual: all before the record, or batch, that the
   * loop has in hand.
   */
  async close() {
    await this.#leave(false)
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }
}
