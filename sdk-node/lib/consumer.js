// The consumer: `for await (const record of consumer)`, or `for await (const batch of consumer.batches())`.

import { InvalidError, call } from './errors.js'
import { Batch } from './record.js'

/** A position as the native half wants it: kind and number. */
export function position(start = 'latest') {
  if (start === 'earliest' || start === 'latest') return [start, 0]
  if (Number.isSafeInteger(start) && start >= 0) return ['offset', start]
  if (typeof start === 'object' && start !== null && Number.isFinite(start.timestamp)) return ['timestamp', start.timestamp]
  throw new InvalidError(`start is ${JSON.stringify(start)}; 'earliest', 'latest', an offset or { timestamp } is expected`)
}

export class Consumer {
  #open
  #native
  #signal
  #left = []
  #closed = false

  constructor(topic, open, signal) {
    this.topic = topic
    this.#open = open
    this.#signal = signal
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

  /** Batches as they come: the fast way out. */
  async *batches() {
    const signal = this.#signal
    signal?.throwIfAborted()
    const stop = () => this.close()
    signal?.addEventListener('abort', stop, { once: true })
    try {
      const native = await this.#ready()
      for (;;) {
        const batch = await call(native.nextBatch())
        signal?.throwIfAborted()
        if (batch === null || batch === undefined) return
        yield new Batch(batch)
      }
    } finally {
      signal?.removeEventListener('abort', stop)
    }
  }

  /** Records one by one. Leaving the loop closes the consumer, so that the process can end. */
  async *[Symbol.asyncIterator]() {
    try {
      for await (const batch of this.batches()) {
        this.#left = batch.records()
        this.#left.reverse()
        while (this.#left.length > 0) yield this.#left.pop()
      }
    } finally {
      await this.close()
    }
  }

  async seek(partition, to) {
    const [kind, value] = position(to)
    await call((await this.#ready()).seek(partition, kind, value))
    this.#left = this.#left.filter((record) => record.partition !== partition)
  }

  async pause(partition) {
    await call((await this.#ready()).pause(partition))
  }

  async resume(partition) {
    await call((await this.#ready()).resume(partition))
  }

  async position(partition) {
    return (await call((await this.#ready()).position(partition))) ?? null
  }

  async counts() {
    const counts = await call((await this.#ready()).counts())
    return { ...counts, scanned: counts.delivered + counts.filtered + counts.failed }
  }

  async close() {
    this.#closed = true
    const native = await this.#native?.catch(() => undefined)
    if (native) await native.close()
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }
}
