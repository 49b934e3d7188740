// A consumer's signal: what it ends, and that its reason comes out as it is.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { connect } from '../lib/index.js'
import { unique } from '../lib/testing/index.js'
import { startBroker } from './broker.js'

/** A client of a broker with records in `t`. */
async function filled(t, count, options = {}) {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca, ...options })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: count }, (_, i) => ({ value: String(i) })))
  await producer.close()
  return { broker, client }
}

/** What a promise is rejected with, whatever that is. */
async function rejection(promise) {
  return promise.then(
    (value) => assert.fail(`${value} came`),
    (reason) => reason,
  )
}

test('what a signal or a callback gives as its reason comes out as it is, null included', async (t) => {
  const { client } = await filled(t, 3)
  const reasons = [null, 0, '', 'text', Object.create(null), Symbol('s'), { message: 5 }]
  for (const reason of reasons) {
    const read = async (consumer, inBody) => {
      for await (const record of consumer) inBody(record)
    }
    const before = client.consumer('t', { start: 'earliest', signal: AbortSignal.abort(reason) })
    assert.equal(await rejection(read(before)), reason)
    assert.equal(await rejection(before.next()), reason)
    const during = new AbortController()
    const reading = client.consumer('t', { start: 'earliest', signal: during.signal })
    assert.equal(await rejection(read(reading, () => during.abort(reason))), reason)
    const waiting = new AbortController()
    const idle = client.consumer('t', { signal: waiting.signal })
    setTimeout(() => waiting.abort(reason), 50)
    assert.equal(await rejection(idle.next()), reason)
  }
  for (const reason of [...reasons, undefined]) {
    const thrown = { is: true }
    const onRebalance = async () => {
      if (thrown.is) throw reason
    }
    const consumer = client.consumer('t', { group: unique(), onRebalance })
    assert.equal(await rejection(consumer.next()), reason)
    thrown.is = false
    assert.equal((await consumer.next()).text(), '0')
    thrown.is = true
    assert.equal(await rejection(consumer.close()), reason)
  }
  await client.close()
})
