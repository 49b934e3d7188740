// A consumer that is closed or aborted beside its loop: nothing more is handed out, and what is in hand is not done.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { connect } from '../lib/index.js'
import { startBroker } from './broker.js'

async function filled(t, count) {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: count }, (_, i) => ({ value: String(i) })))
  await producer.close()
  return { client, broker }
}

test('close ends a loop in the middle of a batch, and what is in hand comes again', async (t) => {
  const { client } = await filled(t, 100)
  for (const group of [undefined, 'g']) {
    const consumer = client.consumer('t', { start: 'earliest', group })
    const seen = []
    for await (const record of consumer) {
      seen.push(Number(record.text()))
      if (seen.length === 10) await consumer.close()
    }
    assert.deepEqual(seen, Array.from({ length: 10 }, (_, i) => i), `group ${group}`)
  }
  const { offsets } = await client.describeGroup('g')
  const [first] = [...(await client.offsets('t', 'earliest')).values()]
  const rest = []
  for await (const record of client.consumer('t', { group: 'g', untilEnd: true })) rest.push(Number(record.text()))
  assert.equal(rest[0], 9, 'the tenth was in hand')
  assert.equal(rest.length, 91)
  assert.ok(offsets[0].committed > first)
  // Of a batch none is done, and it is not committed by a `finally` after an exception either.
  const batches = client.consumer('t', { group: 'b' })
  await assert.rejects(async () => {
    try {
      for await (const batch of batches.batches()) throw new Error(`a handler fails on ${batch.length}`)
    } finally {
      await batches.close()
    }
  }, /a handler fails/)
  const again = []
  for await (const record of client.consumer('t', { group: 'b', untilEnd: true })) again.push(record)
  assert.equal(again.length, 100)
  await client.close()
})

test('an abort ends every loop with its reason, idle or in the middle of a batch', async (t) => {
  const { client } = await filled(t, 100)
  for (const group of [undefined, 'g']) {
    for (const after of [5, 100]) {
      const controller = new AbortController()
      const reason = new Error(`my reason after ${after}`)
      const consumer = client.consumer('t', { start: 'earliest', group: group && `${group}${after}`, signal: controller.signal })
      const seen = []
      await assert.rejects(async () => {
        for await (const record of consumer) {
          seen.push(record)
          if (seen.length === after) setTimeout(() => controller.abort(reason), after === 5 ? 0 : 200)
          if (seen.length >= 5 && after === 5) await new Promise((go) => setTimeout(go, 50))
        }
      }, (e) => e === reason)
      assert.equal(seen.length, after)
    }
  }
  await client.close()
})

test('an abort while the coordinator is away ends the loop, and not the process', async (t) => {
  const { client, broker } = await filled(t, 10)
  const controller = new AbortController()
  const consumer = client.consumer('t', { start: 'earliest', group: 'g', signal: controller.signal })
  let seen = 0
  await assert.rejects(async () => {
    for await (const record of consumer) {
      seen += record.length ?? 1
      if (seen !== 10) continue
      broker.child.kill('SIGKILL')
      setTimeout(() => controller.abort(), 100)
    }
  }, { name: 'AbortError' })
  // What leaving has to say to the coordinator fails in its own time.
  await new Promise((go) => setTimeout(go, 4_000))
  await client.close()
})
