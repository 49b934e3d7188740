// What a member of a group is told of its partitions, what it may do meanwhile, and what it is told when it leaves.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { InvalidError, connect } from '../lib/index.js'
import { Consumer } from '../lib/consumer.js'
import { startBroker } from './broker.js'

const PARTITIONS = 3
const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')

/** A broker with records in each of the partitions of `t`. */
async function filled(t, count, options = {}) {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca, ...options })
  await client.createTopic('t', { partitions: PARTITIONS })
  const producer = client.producer('t')
  for (let i = 0; i < count * PARTITIONS; i++) producer.enqueue(String(i), { partition: i % PARTITIONS })
  await producer.close()
  return { broker, client }
}

/** What was told, in words: "assigned 0,1,2". */
const wordsOf = ({ kind, partitions }) => `${kind} ${partitions.map(({ partition }) => partition).sort().join()}`

test('a callback may call anything but read', async (t) => {
  const { client } = await filled(t, 10)
  const refused = []
  const refuses = async (read) => {
    await assert.rejects(read, (e) => e instanceof InvalidError && /a rebalance callback cannot read/.test(e.message))
    refused.push(read)
  }
  let consumer
  const onRebalance = async () => {
    await refuses(() => consumer.next())
    await sleep(10)
    // However far down, and however long it would wait.
    await refuses(() => sleep(5).then(() => consumer.next({ timeoutMs: 1 })))
    await refuses(() => consumer.nextBatch())
    await refuses(async () => {
      for await (const record of consumer) record.text()
    })
    await refuses(() => Promise.all([consumer.batches().next()]))
    await refuses(() => records.next())
    assert.equal((await consumer.assignment()).length, PARTITIONS)
    await consumer.commit()
    await consumer.seek(1, 'earliest')
    await consumer.pause(2)
    assert.deepEqual(await consumer.paused(), [{ topic: 't', partition: 2 }])
    await consumer.resume(2)
    for (const about of ['position', 'lag', 'committed']) await consumer[about](0)
    assert.equal((await consumer.counts()).failed, 0)
    assert.equal(await consumer.open(), consumer)
    // Another consumer has nothing to do with it.
    assert.notEqual(await other.next(), null)
    // Whoever reads elsewhere is served once this has ended.
    resume()
    await sleep(50)
  }
  const other = client.consumer('t', { start: 'earliest' })
  consumer = client.consumer('t', { group: 'g', onRebalance })
  const records = consumer[Symbol.asyncIterator]()
  let resume
  const elsewhere = new Promise((resolve) => (resume = resolve)).then(() => consumer.next())
  const first = await records.next()
  assert.equal(first.done, false)
  assert.notEqual(await elsewhere, null)
  assert.equal(refused.length, 6)
  for (let i = 2; i < 10 * PARTITIONS; i++) assert.equal((await records.next()).done, false)
  assert.equal(await consumer.next({ timeoutMs: 100 }), null)
  await client.close()
})

test('what is told adds up to what is read, though the member is slow, and what it commits when it is told does not come again', async (t) => {
  const { client } = await filled(t, 10)
  const reader = (isSlow) => {
    const held = new Set()
    const seen = []
    const onRebalance = async ({ kind, partitions }) => {
      for (const { partition } of partitions) assert.notEqual(held.has(partition), kind === 'assigned', `${partition} ${kind}`)
      for (const { partition } of partitions) kind === 'assigned' ? held.add(partition) : held.delete(partition)
      if (kind !== 'revoked') return
      await sleep(50)
      await consumer.commit()
    }
    const consumer = client.consumer('t', { group: 'g', autoCommitMs: null, onRebalance })
    const reading = (async () => {
      for await (const record of consumer) {
        seen.push(`${record.partition} ${record.offset}`)
        if (isSlow) await sleep(20)
      }
    })()
    return { consumer, held, seen, reading }
  }
  /** Waits until all partitions are held, by so many, and each of them knows which. */
  const settled = async (...members) => {
    const deadline = performance.now() + 20_000
    for (;;) {
      const held = members.map((member) => [...member.held].sort())
      const assigned = await Promise.all(members.map(async ({ consumer }) => (await consumer.assignment()).map((at) => at.partition).sort()))
      const isSettled = held.flat().length === PARTITIONS && held.every((some) => some.length > 0)
      if (isSettled && JSON.stringify(held) === JSON.stringify(assigned)) return
      assert.ok(performance.now() < deadline, JSON.stringify({ held, assigned }))
      await sleep(20)
    }
  }
  const all = 10 * PARTITIONS
  const first = reader(true)
  while (first.seen.length < 5) await sleep(5)
  // It is slow while others come and go.
  const [second, third] = [reader(false), reader(false)]
  await settled(first, second, third)
  await third.consumer.close()
  await settled(first, second)
  while (new Set([first, second, third].flatMap(({ seen }) => seen)).size < all) await sleep(10)
  await second.consumer.close()
  await settled(first)
  await first.consumer.close()
  await Promise.all([first, second, third].map(({ reading }) => reading))
  // Who was told in time has committed what it had handled: nothing came twice.
  const seen = [first, second, third].flatMap(({ seen }) => seen)
  assert.equal(seen.length, all)
  assert.equal(new Set(seen).size, all)
  assert.deepEqual((await client.describeGroup('g')).offsets.map((o) => o.lag), [0, 0, 0])
  await client.close()
})

test('what came and went before anybody read is told in that order', async (t) => {
  const { client } = await filled(t, 10)
  const told = []
  const held = new Set()
  const onRebalance = (change) => {
    told.push(wordsOf(change))
    for (const { partition } of change.partitions) change.kind === 'assigned' ? held.add(partition) : held.delete(partition)
  }
  const consumer = await client.consumer('t', { group: 'g', closeTimeoutMs: 0, onRebalance }).open()
  const other = await client.consumer('t', { group: 'g' }).open()
  while ((await other.assignment()).length === 0) await sleep(20)
  assert.notEqual(await consumer.next({ timeoutMs: 10_000 }), null)
  assert.equal(told[0], 'assigned 0,1,2')
  assert.match(told[1], /^(revoked|lost) \d$/)
  assert.deepEqual([...held].sort(), (await consumer.assignment()).map(({ partition }) => partition).sort())
  await client.close()
})

for (const [name, leave] of [
  ['close', (consumer) => consumer.close()],
  ['a block that is left', (consumer) => consumer[asyncDispose]()],
  ['the client', (_, client) => client.close()],
]) {
  test(`a member that leaves is told what it gives up, and may commit: ${name}`, async (t) => {
    const { broker, client } = await filled(t, 10)
    const told = []
    let isIdle
    const onRebalance = async (change) => {
      told.push(wordsOf(change))
      if (change.kind !== 'revoked') return
      await sleep(20)
      await consumer.commit()
      assert.equal(typeof (await consumer.committed(0)), 'number')
      assert.ok((await consumer.position(0)) > 0)
      told.push('committed')
    }
    const consumer = client.consumer('t', { group: 'g', autoCommitMs: null, onRebalance })
    let count = 0
    const reading = (async () => {
      for await (const _ of consumer) if (++count === 10 * PARTITIONS) setTimeout(() => (isIdle = true), 100)
    })()
    while (!isIdle) await sleep(10)
    await leave(consumer, client)
    await reading
    assert.deepEqual(told, ['assigned 0,1,2', 'revoked 0,1,2', 'committed'])
    const again = await connect(broker.address, { ca: broker.ca })
    const group = await again.describeGroup('g')
    assert.equal(group.members.length, 0)
    assert.deepEqual(group.offsets.map((o) => o.lag), [0, 0, 0])
    await consumer.close()
    assert.equal(told.length, 3)
    await again.close()
  })
}

test('a loop that ends in order tells what it gives up', async (t) => {
  const { client } = await filled(t, 10)
  const told = []
  const onRebalance = async (change) => {
    told.push(wordsOf(change))
    if (change.kind === 'revoked') await consumer.commit()
  }
  const consumer = client.consumer('t', { group: 'g', autoCommitMs: null, untilEnd: true, onRebalance })
  let count = 0
  for await (const _ of consumer) count += 1
  assert.equal(count, 10 * PARTITIONS)
  assert.deepEqual(told, ['assigned 0,1,2', 'revoked 0,1,2'])
  assert.deepEqual((await client.describeGroup('g')).offsets.map((o) => o.lag), [0, 0, 0])
  await client.close()
})

test('what is in hand when a member leaves is not committed by its callback', async (t) => {
  const { client } = await filled(t, 0)
  const producer = client.producer('t')
  const sent = await Promise.all(Array.from({ length: 10 }, (_, i) => producer.send(String(i), { partition: 0 })))
  const first = sent[0].offset
  // Where the group begins is known before anything is done.
  const committed = async (group) => Math.max(first, (await client.describeGroup(group)).offsets.find((o) => o.partition === 0).committed)
  const member = (group) => {
    const onRebalance = ({ kind }) => (kind === 'revoked' ? consumer.commit() : undefined)
    const consumer = client.consumer('t', { group, autoCommitMs: null, closeTimeoutMs: 100, onRebalance })
    return consumer
  }
  for (const [group, number] of [['first', 1], ['fifth', 5]]) {
    // Left in the middle.
    const left = member(group)
    let count = 0
    for await (const _ of left) if (++count === number) break
    await left.close()
    assert.equal(await committed(group), first + number - 1, group)
    // A body that is not through with it.
    const stuck = member(`${group}-stuck`)
    let go
    const body = (async () => {
      let count = 0
      for await (const _ of stuck) if (++count === number) await new Promise((resolve) => (go = resolve))
    })()
    while (!go) await sleep(5)
    await stuck.close()
    go()
    await body
    assert.equal(await committed(`${group}-stuck`), first + number - 1, group)
  }
  for (const maxRecords of [1, 3, 10]) {
    const group = `batches-of-${maxRecords}`
    const batches = member(group)
    await batches.nextBatch({ maxRecords: 1 })
    assert.equal((await batches.nextBatch({ maxRecords })).length, Math.min(maxRecords, 9))
    await batches[asyncDispose]()
    assert.equal(await committed(group), first + 1, group)
  }
  // What the user has committed by hand stays committed.
  for (const [group, number, read] of [['by-record', 3, (c) => c], ['by-batch', 3, (c) => c.batches()]]) {
    const own = member(group)
    let count = 0
    for await (const some of read(own)) {
      for (const record of some[Symbol.iterator] ? some : [some]) if (++count <= number) await own.commit(record)
      if (count >= number) break
    }
    await own.close()
    assert.equal(await committed(group), first + number, group)
  }
  const all = member('all')
  await all.nextBatch()
  await all.commit()
  await all[asyncDispose]()
  assert.equal(await committed('all'), first + 10)
  // A body that finishes in time is done, also by what it commits.
  const finishing = member('finishing')
  let closing
  for await (const record of finishing) {
    if (record.offset !== first + 4) continue
    closing = finishing.close()
    await sleep(20)
    await finishing.commit()
    assert.equal(await committed('finishing'), first + 5)
  }
  await closing
  assert.equal(await committed('finishing'), first + 5)
  await client.close()
})

test('an abort tells what is lost', async (t) => {
  const { client } = await filled(t, 10)
  for (const isIdle of [true, false]) {
    const told = []
    const controller = new AbortController()
    const onRebalance = async (change) => {
      if (change.kind === 'lost') await assert.rejects(consumer.commit(), /my reason/)
      told.push(wordsOf(change))
    }
    const consumer = client.consumer('t', { group: `g${isIdle}`, signal: controller.signal, onRebalance })
    let count = 0
    await assert.rejects(async () => {
      for await (const _ of consumer) {
        count += 1
        if (isIdle && count === 10 * PARTITIONS) setTimeout(() => controller.abort(new Error('my reason')), 50)
        if (!isIdle && count === 5) controller.abort(new Error('my reason'))
      }
    }, /my reason/)
    await consumer.close()
    assert.deepEqual(told, ['assigned 0,1,2', 'lost 0,1,2'])
  }
  await client.close()
})

test('what the group has taken away meanwhile is told as lost when the member leaves', async (t) => {
  const { client } = await filled(t, 10)
  const told = []
  const onRebalance = (change) => void told.push(wordsOf(change))
  const slow = client.consumer('t', { group: 'g', maxProcessingMs: 300, onRebalance })
  assert.notEqual(await slow.next(), null)
  const other = client.consumer('t', { group: 'g' })
  await other.open()
  while ((await other.assignment()).length < PARTITIONS) await sleep(20)
  await slow[asyncDispose]()
  assert.deepEqual(told, ['assigned 0,1,2', 'lost 0,1,2'])
  await client.close()
})

test('a callback that fails or hangs keeps no member in its group', async (t) => {
  const { client } = await filled(t, 10)
  const members = async (group) => (await client.describeGroup(group)).members.length
  const failing = client.consumer('t', {
    group: 'failing',
    onRebalance: ({ kind }) => {
      if (kind === 'revoked') throw new Error('my mistake')
    },
  })
  await failing.next()
  await assert.rejects(failing[asyncDispose](), /my mistake/)
  assert.equal(await members('failing'), 0)
  const hanging = client.consumer('t', {
    group: 'hanging',
    closeTimeoutMs: 200,
    onRebalance: ({ kind }) => (kind === 'revoked' ? new Promise(() => {}) : undefined),
  })
  await hanging.next()
  const since = performance.now()
  await hanging[asyncDispose]()
  assert.ok(performance.now() - since < 3_000)
  assert.equal(await members('hanging'), 0)
  // One that closes its consumer does not wait for itself.
  const told = []
  const closing = client.consumer('t', {
    group: 'closing',
    onRebalance: async (change) => {
      told.push(wordsOf(change))
      await closing.close()
      told.push('closed')
    },
  })
  const begun = performance.now()
  assert.equal(await closing.next(), null)
  assert.ok(performance.now() - begun < 4_000)
  assert.deepEqual(told, ['assigned 0,1,2', 'revoked 0,1,2', 'closed', 'closed'])
  assert.equal(await members('closing'), 0)
  // By its client, what the callback throws is heard of too.
  const last = client.consumer('t', { group: 'failing', closeTimeoutMs: 0, onRebalance: () => assert.fail('mine') })
  await assert.rejects(last.next(), /mine/)
  await assert.rejects(client.close(), /mine/)
})

/** A native half that tells what a test wants, and notes what it hears. */
class Native {
  heard = []
  changes = []
  gone = new Set()
  isStopped = false

  take() {
    return this.isStopped ? -3 : this.changes.length > 0 ? -2 : -1
  }
  untold() {
    return this.changes
  }
  told(count) {
    this.heard.push(`told ${count}`)
    this.changes = this.changes.slice(count)
  }
  ready() {
    return new Promise((resolve) => (this.wake = resolve))
  }
  stop() {
    this.isStopped = true
    this.wake?.()
  }
  committed(topic, partition) {
    if (this.gone.has(partition)) throw new Error('gone')
  }
  async close() {
    this.heard.push('left')
  }
}

const change = (kind, ...partitions) => partitions.map((partition) => ({ kind, topic: 't', partition }))

test('what was not told yet is told first, in order, before the member leaves', async () => {
  const native = new Native()
  native.changes = [...change('assigned', 0, 1, 2), ...change('lost', 1), ...change('revoked', 2), ...change('assigned', 1, 3)]
  const onRebalance = async (event) => {
    native.heard.push(wordsOf(event))
    await sleep(20)
    // What the user does with the event is theirs.
    event.partitions.length = 0
  }
  const consumer = new Consumer(['t'], async () => native, { group: 'g', onRebalance })
  const reading = consumer.next()
  while (native.heard.length === 0) await sleep(1)
  native.gone.add(3)
  await consumer.close()
  assert.equal(await reading, null)
  assert.deepEqual(native.heard.filter((word) => !word.startsWith('told')), [
    'assigned 0,1,2',
    'lost 1',
    'revoked 2',
    'assigned 1,3',
    'lost 3',
    'revoked 0,1',
    'left',
  ])
})

test('a callback that fails is told the rest by the next read', async () => {
  const native = new Native()
  native.changes = [...change('assigned', 0), ...change('revoked', 0)]
  let count = 0
  const onRebalance = (event) => {
    native.heard.push(wordsOf(event))
    if (++count === 1) throw new Error('once')
  }
  const consumer = new Consumer(['t'], async () => native, { group: 'g', onRebalance })
  await assert.rejects(consumer.next(), /once/)
  assert.equal(await consumer.next({ timeoutMs: 20 }), null)
  await consumer.close()
  assert.deepEqual(native.heard, ['assigned 0', 'told 1', 'revoked 0', 'told 1', 'left'])
})

test('a callback that closes another consumer waits for that one only', async () => {
  const [outer, inner] = [new Native(), new Native()]
  outer.changes = change('assigned', 0)
  inner.changes = change('assigned', 1)
  const heard = []
  const one = new Consumer(['t'], async () => outer, {
    group: 'g',
    onRebalance: async (event) => {
      heard.push(wordsOf(event))
      await two.close()
    },
  })
  const two = new Consumer(['t'], async () => inner, {
    group: 'g',
    onRebalance: async (event) => {
      heard.push(wordsOf(event))
      // The first one waits for this.
      if (event.kind === 'revoked') await assert.rejects(one.next(), InvalidError)
    },
  })
  assert.equal(await two.next({ timeoutMs: 20 }), null)
  assert.equal(await one.next({ timeoutMs: 1_000 }), null)
  assert.deepEqual(heard, ['assigned 1', 'assigned 0', 'revoked 1'])
  await one.close()
  assert.equal(heard.at(-1), 'revoked 0')
})
