// The vectors that all three SDKs check, here in Node.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'

import { InvalidError, PluginFailedError, ThalwegError, connect } from '../lib/index.js'
import { makeError } from '../lib/errors.js'
import { native } from '../lib/native.js'
import { plugins, startBroker, vectors } from './broker.js'

const unhex = (hex) => (hex === null ? null : Buffer.from(hex, 'hex'))

test('keys and turns place records', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('keys', { partitions: vectors.murmur2.partitions })
  const keys = client.producer('keys')
  for (const [key, partition] of vectors.murmur2.keys) {
    assert.equal((await keys.send('x', { key })).partition, partition, key)
  }
  await keys.close()
  await client.createTopic('turns', { partitions: vectors.round_robin.partitions })
  const turns = client.producer('turns')
  for (const expect of vectors.round_robin.expect) assert.equal((await turns.send('x')).partition, expect)
  await turns.close()
  await client.close()
})

test('keys are placed among all partitions once a topic has grown', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const { from, to, keys } = vectors.growth
  await client.createTopic('keys', { partitions: from })
  const producer = client.producer('keys')
  const consumer = client.consumer('keys')
  await consumer.open()
  for (const at of [1, 2]) {
    for (const places of keys) assert.equal((await producer.send('x', { key: places[0] })).partition, places[at], places[0])
    assert.equal((await client.addPartitions('keys', to)).partitions, to)
  }
  // It began at the end, and gets what came to the new ones before it heard of them.
  const read = []
  for (let i = 0; i < 2 * keys.length; i++) read.push((await consumer.next()).partition)
  assert.deepEqual(read.sort(), keys.flatMap(([, ...places]) => places).sort())
  await producer.close()
  await client.close()
})

test('plugins place and filter', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.uploadPlugin('by-carrier', join(plugins, 'by_carrier.wasm'))
  await client.uploadPlugin('late', join(plugins, 'late.wasm'))
  await client.createTopic('flights', { partitions: 6, partitioner: 'by-carrier@1' })
  const flights = client.producer('flights')
  for (const [value, partition] of vectors.by_carrier.values) {
    assert.equal((await flights.send(value)).partition, partition, value)
  }
  for (const value of vectors.by_carrier.refused) {
    await assert.rejects(flights.send(value), (e) => e instanceof PluginFailedError && e.message.includes('by-carrier@1'))
  }
  await flights.close()
  const delays = client.producer('delays')
  for (const [value] of vectors.late.values) await delays.send(value)
  const options = { start: 'earliest', untilEnd: true, filter: 'late' }
  const found = []
  for await (const record of client.consumer('delays', options)) found.push(record.text())
  assert.deepEqual(found, vectors.late.values.filter(([, kept]) => kept).map(([value]) => value))
  await delays.send(vectors.late.failed)
  await delays.close()
  await assert.rejects(
    async () => {
      for await (const record of client.consumer('delays', options)) record.text()
    },
    (e) => e instanceof PluginFailedError && e.message.includes('late@1'),
  )
  await client.close()
})

test('a topic has the settings that it was made with', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const options = { retentionMs: 80_000, retentionBytes: 1 << 20, segmentBytes: 1 << 17, segmentMs: 7_000 }
  const made = await client.createTopic('kept', options)
  assert.deepEqual({ ...made, ...options, timestampAheadMaxMs: 3_600_000 }, { ...made })
  const derived = await client.createTopic('derived', { retentionMs: 80_000, retentionBytes: 80 << 20 })
  assert.deepEqual([derived.segmentBytes, derived.segmentMs], [10 << 20, 10_000])
  await assert.rejects(client.createTopic('tiny', { segmentBytes: 1 }), InvalidError)
  const producer = client.producer('kept')
  await assert.rejects(
    producer.send('x', { timestampMs: 99_999_999_999_999 }),
    (e) => e instanceof InvalidError && e.message.includes('timestamp_ahead_max_ms'),
  )
  await assert.rejects(producer.send('x', { timestampMs: -2 }), InvalidError)
  await producer.send('x')
  await producer.close()
  await client.close()
})

for (const compression of ['none', 'gzip', 'snappy', 'lz4', 'zstd']) {
  test(`records come back as they were sent (${compression})`, async (t) => {
    const { address, ca } = await startBroker(t)
    const client = await connect(address, { ca })
    await client.createTopic('records', { timestampAheadMaxMs: -1 })
    const producer = client.producer('records', { compression })
    for (const r of vectors.records) {
      const headers = r.headers.map(([name, value]) => [name, unhex(value)])
      await producer.send(unhex(r.value), { key: unhex(r.key), headers, timestampMs: r.timestamp_ms })
    }
    await producer.close()
    const records = []
    for await (const record of client.consumer('records', { start: 'earliest', untilEnd: true })) records.push(record)
    assert.equal(records.length, vectors.records.length)
    vectors.records.forEach((r, i) => {
      assert.deepEqual(records[i].key, unhex(r.key))
      assert.deepEqual(records[i].value, unhex(r.value))
      assert.equal(records[i].timestampMs, r.timestamp_ms)
      assert.deepEqual(records[i].headers, r.headers.map(([name, value]) => [name, unhex(value)]))
    })
    await client.close()
  })
}

test('error kinds are the same everywhere', () => {
  assert.deepEqual(native.errorCodes().map((c) => [c.code, c.retriable]), vectors.errors)
  for (const [code, retriable] of vectors.errors) {
    const error = makeError(code, 'x')
    assert.ok(error instanceof ThalwegError)
    assert.deepEqual([error.code, error.retriable, error.message], [code, retriable, 'x'])
  }
})
