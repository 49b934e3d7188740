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
    const consumer = client.consumer('t', { group: unique(), closeTimeoutMs: 100, onRebalance })
    assert.equal(await rejection(consumer.next()), reason)
    thrown.is = false
    assert.equal((await consumer.next()).text(), '0')
    thrown.is = true
    assert.equal(await rejection(consumer.close()), reason)
  }
  await client.close()
})

/** What becomes of a call whose signal is aborted after `afterMs`, and how long that took. */
async function abortedIn(controller, afterMs, call) {
  const reason = new Error('no more')
  const outcome = call().then(
    () => assert.fail('it came to something'),
    (error) => assert.equal(error, reason),
  )
  setTimeout(() => controller.abort(reason), afterMs)
  const since = performance.now()
  await outcome
  const tookMs = performance.now() - since
  assert.ok(tookMs >= afterMs - 5 && tookMs < afterMs + 1_500, `${call}: ${tookMs} ms`)
}

test('a signal bounds every call, also while no broker can be reached', async (t) => {
  const { broker, client } = await filled(t, 3, { timeoutMs: 20_000 })
  const calls = {
    commit: (consumer) => consumer.commit(),
    'commit of offsets': (consumer) => consumer.commit([{ partition: 0, offset: 2 }]),
    seek: (consumer) => consumer.seek(0, 'latest'),
    subscribe: (consumer) => consumer.subscribe(['t']),
    close: (consumer) => consumer.close(),
    'await using': (consumer) => consumer[Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')](),
    next: async (consumer) => {
      while ((await consumer.next()) !== null);
    },
  }
  const open = []
  for (const call of Object.values(calls)) {
    const controller = new AbortController()
    const consumer = client.consumer('t', { group: unique(), autoCommitMs: null, closeTimeoutMs: 50, signal: controller.signal })
    assert.equal((await consumer.next()).text(), '0')
    open.push({ controller, consumer, call })
  }
  await broker.kill()
  for (const { controller, consumer, call } of open) {
    await abortedIn(controller, 300, () => call(consumer))
    // It is over, and nobody waits for a coordinator that is not there.
    const since = performance.now()
    await consumer.close()
    assert.ok(performance.now() - since < 2_000, `${call}: closed after ${performance.now() - since} ms`)
  }
  for (const group of [undefined, 'g']) {
    for (const begin of [(consumer) => consumer.open(), (consumer) => consumer.next(), (consumer) => consumer.counts()]) {
      const controller = new AbortController()
      const consumer = client.consumer('t', { group, signal: controller.signal })
      await abortedIn(controller, 100, () => begin(consumer))
      await consumer.close()
    }
  }
  const since = performance.now()
  await client.close()
  assert.ok(performance.now() - since < 2_000)
})

test('what is aborted while it is opened does not stay open', async (t) => {
  const { client } = await filled(t, 3)
  for (let i = 0; i < 20; i++) {
    const controller = new AbortController()
    const consumer = client.consumer('t', { group: 'g', signal: controller.signal })
    const opening = consumer.open()
    setTimeout(() => controller.abort(), i)
    await opening.catch((error) => assert.equal(error.name, 'AbortError'))
    if (!controller.signal.aborted) controller.abort()
    await consumer.close()
  }
  const deadline = performance.now() + 10_000
  while ((await client.groups()).some(({ members }) => members > 0)) assert.ok(performance.now() < deadline, 'a member stays')
  await client.close()
})
