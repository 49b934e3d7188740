// Where a consumer stands: after a seek, and in what it does not read.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'

import { InvalidError, NotFoundError, PluginFailedError, connect } from '../lib/index.js'
import { unique } from '../lib/testing/index.js'
import { plugins, startBroker } from './broker.js'

const PARTITIONS = 2

/** A client, and a topic `t` with records in both partitions. */
async function filled(t, count) {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  await client.createTopic('t', { partitions: PARTITIONS })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: count * PARTITIONS }, (_, i) => ({ value: String(i), partition: i % PARTITIONS })))
  await producer.close()
  return client
}

test('a partition stands where a seek goes as soon as that resolves', async (t) => {
  const client = await filled(t, 10)
  const last = (await client.offsets('t', 'latest')).get(0)
  const places = [[4, 4]]
  for (const to of ['latest', 'earliest', { timestamp: 0 }]) places.push([to, (await client.offsets('t', to)).get(0)])
  places.push([6, 6])
  for (let run = 0; run < 10; run++) {
    const consumer = await client.consumer('t', { start: 'earliest' }).open()
    for (const [to, at] of places) {
      await consumer.seek(0, to)
      assert.deepEqual([await consumer.position(0), await consumer.lag(0)], [at, last - at], JSON.stringify(to))
    }
    await consumer.pause(1)
    assert.equal((await consumer.next()).offset, 6)
    assert.equal(await consumer.position(0), 7)
    await consumer.close()
    // While the group tells what it gives: nothing has been read yet.
    const seen = []
    const onRebalance = async ({ kind, partitions }) => {
      for (const at of kind === 'assigned' ? partitions : []) {
        for (const [to, place] of places) {
          await member.seek(at, to)
          seen.push([await member.position(at), place])
        }
      }
    }
    const member = client.consumer('t', { group: unique(), closeTimeoutMs: 0, onRebalance })
    assert.equal((await member.next()).offset, 6)
    assert.equal(seen.length, PARTITIONS * places.length)
    for (const [at, place] of seen) assert.equal(at, place)
    await member.close()
  }
  await client.close()
})

test('a partition that is not read is told apart from one whose place is not known', async (t) => {
  const client = await filled(t, 1)
  for (const options of [{ start: 'earliest' }, { group: 'g' }, { partitions: [0] }]) {
    const consumer = await client.consumer('t', options).open()
    const others = options.partitions === undefined ? [9, { topic: 'u', partition: 0 }] : [1, 9]
    for (const at of others) {
      for (const ask of ['position', 'lag', 'pause', 'resume']) await assert.rejects(consumer[ask](at), NotFoundError, ask)
      await assert.rejects(consumer.seek(at, 0), NotFoundError)
    }
    await consumer.close()
  }
  await client.close()
})

test('what was left empty is not taken for what was left out, nor is what says nothing alone', async (t) => {
  const client = await filled(t, 1)
  await client.uploadPlugin('by-tenant', join(plugins, 'by_tenant.wasm'))
  const topic = unique()
  await client.createTopic(topic, { partitions: 4, partitioner: 'by-tenant', partitionerConfig: 'acme=2' })
  const refused = async (call, said) => assert.rejects(call, (e) => e instanceof InvalidError && e.message.includes(said), said)
  await refused(client.setPartitioner(topic, ''), 'partitioner is empty')
  await refused(client.createTopic(unique(), { partitioner: '' }), 'partitioner is empty')
  await refused(client.createTopic(unique(), { partitionerConfig: 'acme=2' }), 'partitionerConfig is that of a partitioner')
  await refused(client.setPartitioner(topic, null, 'acme=2'), 'partitionerConfig is that of a partitioner')
  assert.equal((await client.topics()).find(({ name }) => name === topic).partitioner, 'by-tenant@1')
  await refused(client.consumer('t', { filterConfig: 'x' }).open(), 'filterConfig is that of a filter')
  await refused(client.consumer('t', { group: 'g', onFilterFailure: 'skip' }).open(), 'onFilterFailure is that of a filter')
  const consumer = client.consumer('t', { group: 'moved' })
  await consumer.next()
  await consumer.commit()
  await consumer[Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]()
  const before = (await client.describeGroup('moved')).offsets
  await refused(client.resetGroup('moved', 't', 'earliest', { partitions: [] }), 'partitions is empty')
  assert.deepEqual((await client.describeGroup('moved')).offsets, before)
  // A group that is given a place before its first member comes.
  await client.resetGroup('new', 't', 'latest', { partitions: [1] })
  assert.deepEqual((await client.describeGroup('new')).offsets.map(({ partition, committed }) => [partition, committed !== null]), [[0, false], [1, true]])
  await client.close()
})

test('a producer at work says at once that a new partitioner cannot run, and goes on with a good one', async (t) => {
  const client = await filled(t, 1)
  await client.uploadPlugin('by-tenant', join(plugins, 'by_tenant.wasm'))
  const producer = client.producer('t', { deliveryTimeoutMs: 60_000 })
  const record = { headers: { tenant: 'acme' }, key: 'k' }
  await producer.send('x', record)
  await client.setPartitioner('t', 'by-tenant', 'nonsense')
  for (let i = 0; i < 3; i++) {
    const since = performance.now()
    await assert.rejects(producer.send('x', record), (e) => e instanceof PluginFailedError && e.message.includes('by-tenant@1'))
    assert.ok(performance.now() - since < 20_000)
  }
  await client.setPartitioner('t', 'by-tenant', 'acme=1')
  assert.equal((await producer.send('x', record)).partition, 1)
  await client.setPartitioner('t', 'by-tenant', 'nonsense')
  await producer.enqueue('x', record)
  await assert.rejects(producer.close(), PluginFailedError)
  await client.close()
})
