// Consumer groups, as users of the Node SDK see them.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { InvalidError, NotFoundError, connect } from '../lib/index.js'
import { startBroker } from './broker.js'

async function eventually(what, isSo, limitMs = 10_000) {
  const started = performance.now()
  while (!isSo()) {
    assert.ok(performance.now() - started < limitMs, what)
    await sleep(10)
  }
  return performance.now() - started
}

/** A member that reads in the background. */
class Reader {
  read = []
  held = new Set()

  constructor(client, group) {
    const onRebalance = ({ kind, partitions }) => {
      for (const { partition } of partitions) kind === 'assigned' ? this.held.add(partition) : this.held.delete(partition)
    }
    this.consumer = client.consumer('t', { group, onRebalance })
    this.done = (async () => {
      for await (const record of this.consumer) this.read.push(record)
    })()
  }

  async leave() {
    await this.consumer.close()
    await this.done
  }
}

test('two partitions and three members leave one waiting; three groups read everything', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('t', { partitions: 2 })
  const members = [1, 2, 3].map(() => new Reader(client, 'billing'))
  const active = () => members.filter((m) => m.held.size > 0).length
  await eventually('two active', () => active() === 2)
  await sleep(300)
  assert.equal(active(), 2)
  const producer = client.producer('t')
  const some = Array.from({ length: 500 }, (_, i) => ({ value: String(i) }))
  await producer.enqueueBatch(some)
  await producer.flush()
  const others = [new Reader(client, 'audit'), new Reader(client, 'search')]
  const total = () => members.reduce((n, m) => n + m.read.length, 0)
  await eventually('each record once', () => total() === 500)
  for (const other of others) await eventually('everything', () => other.read.length === 500)
  const [leaver] = members.splice(members.findIndex((m) => m.held.size > 0), 1)
  await leaver.leave()
  const took = await eventually('the third takes over', () => active() === 2)
  assert.ok(took < 1000, String(took))
  await producer.enqueueBatch(some)
  await producer.close()
  await eventually('the rest', () => leaver.read.length + total() === 1000)
  for (const member of [...members, ...others]) await member.leave()
  assert.deepEqual((await client.groups()).map((g) => [g.group, g.state]), [
    ['audit', 'empty'],
    ['billing', 'empty'],
    ['search', 'empty'],
  ])
  assert.deepEqual((await client.describeGroup('billing')).offsets.map((o) => o.lag), [0, 0])
  await client.close()
})

test('commits, and where a group goes on', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('t', { partitions: 1 })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: 100 }, (_, i) => ({ value: String(i) })))
  await producer.close()
  const manual = client.consumer('t', { group: 'g', autoCommitMs: null })
  const records = manual[Symbol.asyncIterator]()
  let last
  for (let i = 0; i < 10; i++) last = (await records.next()).value
  assert.equal(await manual.committed(0), null)
  await manual.commit()
  assert.equal(await manual.committed(0), last.offset + 1)
  last = (await records.next()).value
  await manual.commit(last)
  await assert.rejects(manual.commit([{ partition: 0, offset: 10_000 }]), /past its end/)
  await manual.close()
  // Automatic: done when the next one is asked for; what a loop was left with is not.
  const seen = []
  const automatic = client.consumer('t', { group: 'g' })
  for await (const record of automatic) {
    seen.push(record.text())
    if (seen.length === 3) break
  }
  await automatic.close()
  assert.deepEqual(seen, ['11', '12', '13'])
  const again = client.consumer('t', { group: 'g' })
  assert.equal((await again.next()).text(), '13')
  await again[Symbol.asyncDispose]()
  assert.deepEqual([...(await client.resetGroup('g', 't', 'earliest', { dryRun: true }))], [[0, 0]])
  await client.resetGroup('g', 't', 'earliest')
  let count = 0
  for await (const _ of client.consumer('t', { group: 'g', untilEnd: true })) count++
  assert.equal(count, 100)
  await client.deleteGroup('g')
  await assert.rejects(client.describeGroup('g'), NotFoundError)
  await client.close()
})

test('the last record is committed though nothing follows it', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  await producer.sendBatch(Array.from({ length: 10 }, (_, i) => ({ value: String(i) })))
  await producer.close()
  const lag = async (group) => (await client.describeGroup(group)).offsets[0]?.lag
  const reads = {
    records: async (consumer) => {
      for await (const record of consumer) record.text()
    },
    batches: async (consumer) => {
      for await (const batch of consumer.batches()) batch.values()
    },
    next: async (consumer) => {
      while ((await consumer.next()) !== null);
    },
  }
  for (const [group, read] of Object.entries(reads)) {
    const consumer = await client.consumer('t', { group, autoCommitMs: 50 }).open()
    const reading = read(consumer)
    const deadline = performance.now() + 10_000
    while ((await lag(group)) !== 0) {
      assert.ok(performance.now() < deadline, group)
      await sleep(20)
    }
    await consumer.close()
    await reading
  }
  await client.close()
})

test('whoever blocks the event loop for longer than a session keeps its partitions', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('t', { partitions: 2 })
  const producer = client.producer('t')
  const told = []
  const onRebalance = ({ kind }) => void told.push(kind)
  const consumer = client.consumer('t', { group: 'g', sessionTimeoutMs: 600, closeTimeoutMs: 0, onRebalance })
  await producer.send('1')
  assert.equal((await consumer.next()).text(), '1')
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2_000)
  await producer.send('2')
  assert.equal((await consumer.next({ timeoutMs: 10_000 })).text(), '2')
  await consumer.commit()
  assert.deepEqual(told, ['assigned'])
  await producer.close()
  await consumer.close()
  await client.close()
})

test('bad input is typed', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('t', { partitions: 1 })
  await assert.rejects(client.consumer('t', { group: 'g'.repeat(250) }).open(), /group id: /)
  const one = await client.consumer('t', { group: 'g', instance: 'one' }).open()
  await assert.rejects(
    client.consumer('t', { group: 'g', instance: 'one', sessionTimeoutMs: 600 }).open(),
    (e) => e instanceof InvalidError && e.message.includes('instance'),
  )
  await assert.rejects(client.consumer('t', { group: 'g', assignor: 'range' }).open(), /assignor `range`/)
  await assert.rejects(client.deleteGroup('g'), /has 1 member;/)
  await one.close()
  await client.close()
})

test('what one call has given is not done by another that waits already', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  await producer.send('makes the topic')
  const consumer = client.consumer('t', { group: 'g', autoCommitMs: 20 })
  const first = await consumer.next()
  const calls = new Map([1, 2, 3].map((name) => [name, consumer.next().then((record) => ({ name, record }))]))
  await sleep(100)
  for (const sent of ['0', '1', '2']) {
    await producer.send(sent)
    const { name, record } = await Promise.race(calls.values())
    calls.delete(name)
    assert.equal(record.text(), sent)
    // The others look again, and commits go on.
    await sleep(200)
    assert.equal(await consumer.committed(0), first.offset + 1)
  }
  // Whoever comes while others wait asks all the same.
  const waiting = consumer.next({ timeoutMs: 500 })
  await sleep(200)
  assert.equal(await consumer.committed(0), first.offset + 4)
  await producer.send('3')
  assert.equal((await waiting).text(), '3')
  await client.close()
  await producer.close()
})
