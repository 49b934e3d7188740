// A consumer that is closed, aborted, left or paused beside its loop or in it: nothing is lost, and what is in hand may be finished.

import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { getEventListeners, once } from 'node:events'
import { Readable, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { connect } from '../lib/index.js'
import { unique } from '../lib/testing/index.js'
import { startBroker } from './broker.js'

const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')

async function filled(t, count) {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: count }, (_, i) => ({ value: String(i) })))
  await producer.close()
  return { client, broker }
}

test('close ends a loop in the middle of a batch, and lets its body finish what it has in hand', async (t) => {
  const { client } = await filled(t, 100)
  for (const group of [undefined, 'g']) {
    const consumer = client.consumer('t', { start: 'earliest', group })
    const seen = []
    let closing
    for await (const record of consumer) {
      if (seen.length === 9) closing = consumer.close()
      await sleep(5)
      seen.push(Number(record.text()))
    }
    await closing
    assert.deepEqual(seen, Array.from({ length: 10 }, (_, i) => i), `group ${group}`)
  }
  const rest = []
  for await (const record of client.consumer('t', { group: 'g', untilEnd: true })) rest.push(Number(record.text()))
  assert.equal(rest[0], 10, 'the tenth was finished')
  assert.equal(rest.length, 90)
  // A body that does not end is not done, and is waited for no longer than was said.
  const stuck = client.consumer('t', { group: 's', closeTimeoutMs: 50 })
  let go
  const body = (async () => {
    for await (const record of stuck) await new Promise((resolve) => (go = resolve))
  })()
  while (!go) await sleep(5)
  await stuck.close()
  go()
  await body
  // Of a batch none is done, and it is not committed by a `finally` after an exception either.
  const batches = client.consumer('t', { group: 'b' })
  const started = performance.now()
  await assert.rejects(async () => {
    try {
      for await (const batch of batches.batches()) throw new Error(`a handler fails on ${batch.length}`)
    } finally {
      await batches.close()
    }
  }, /a handler fails/)
  assert.ok(performance.now() - started < 3_000)
  for (const group of ['s', 'b']) {
    const again = []
    for await (const record of client.consumer('t', { group, untilEnd: true })) again.push(record)
    assert.equal(again.length, 100, group)
  }
  await client.close()
})

test('a batch that is finished after close is done, and one whose handler has failed is not', async (t) => {
  const { client } = await filled(t, 100)
  const rest = async (group) => {
    let count = 0
    for await (const _ of client.consumer('t', { group, untilEnd: true })) count += 1
    return count
  }
  const closing = client.consumer('t', { group: 'finished' })
  let closed
  let seen = 0
  for await (const batch of closing.batches({ maxRecords: 10 })) {
    seen += batch.length
    if (seen === 30) closed = closing.close()
    await sleep(20)
  }
  await closed
  assert.equal(seen, 30)
  assert.equal(await rest('finished'), 70)
  // One that takes too long is not.
  const slow = client.consumer('t', { group: 'slow', closeTimeoutMs: 50 })
  for await (const batch of slow.batches({ maxRecords: 10 })) {
    if (batch.at(0).text() === '0') continue
    await slow.close()
    assert.equal(await rest('slow'), 90)
  }
  // Whoever leaves a block by an exception, as `await using` does: what was done before is committed, and nothing of what is in hand.
  const reads = {
    records: async (consumer) => {
      let count = 0
      for await (const record of consumer) if (++count === 11) throw new Error(`a handler fails on ${record.text()}`)
    },
    batches: async (consumer) => {
      let count = 0
      for await (const batch of consumer.batches({ maxRecords: 10 })) if (++count === 2) throw new Error(`a handler fails on ${batch.length}`)
    },
    next: async (consumer) => {
      for (let count = 1; count < 11; count++) await consumer.next()
      throw new Error(`a handler fails on ${(await consumer.next()).text()}`)
    },
    nextBatch: async (consumer) => {
      await consumer.nextBatch({ maxRecords: 10 })
      throw new Error(`a handler fails on ${(await consumer.nextBatch({ maxRecords: 10 })).length}`)
    },
  }
  for (const [group, read] of Object.entries(reads)) {
    const consumer = client.consumer('t', { group })
    await assert.rejects(read(consumer), /a handler fails on 10/)
    await consumer[asyncDispose]()
    assert.equal(await rest(group), 90, group)
  }
  await client.close()
})

for (const [name, next] of [
  ['next', (consumer) => consumer.next()],
  ['next in time', (consumer) => consumer.next({ timeoutMs: 10_000 })],
  ['nextBatch', async (consumer) => (await consumer.nextBatch({ maxRecords: 1 }))?.at(0) ?? null],
]) {
  test(`a loop around ${name} ends with close as any loop does`, async (t) => {
    const { client } = await filled(t, 10)
    for (const group of ['automatic', 'manual', 'slow', undefined]) {
      const options = { start: 'earliest', group, closeTimeoutMs: group === 'slow' ? 100 : 5_000 }
      const consumer = client.consumer('t', group === 'manual' ? { ...options, autoCommitMs: null } : options)
      const seen = []
      let closing
      const looping = (async () => {
        let record
        while ((record = await next(consumer)) !== null) {
          if (seen.length === 4) {
            setTimeout(() => (closing = consumer.close()), 10)
            await sleep(600)
          }
          if (group === 'manual') await consumer.commit(record)
          seen.push(record.text())
        }
      })()
      await looping
      assert.deepEqual(seen, ['0', '1', '2', '3', '4'], `group ${group}`)
      // It was told once.
      await assert.rejects(next(consumer), { code: 'closed' })
      await closing
      await assert.rejects(next(consumer), { code: 'closed' })
      if (group === undefined) continue
      const again = client.consumer('t', { group })
      assert.equal((await again.next()).text(), group === 'slow' ? '4' : '5', `group ${group}`)
      await again[asyncDispose]()
    }
    // Without a group there is nothing to wait for.
    const alone = client.consumer('t', { start: 'earliest' })
    await next(alone)
    const started = performance.now()
    await alone.close()
    assert.ok(performance.now() - started < 3_000)
    await client.close()
  })
}

test('a loop that is left goes on where it was, and whoever gives up waiting loses nothing', async (t) => {
  const { client } = await filled(t, 100)
  for (const group of [undefined, 'g']) {
    const consumer = client.consumer('t', { start: 'earliest', group })
    const seen = []
    while (seen.length < 40) {
      for await (const record of consumer) {
        seen.push(Number(record.text()))
        if (seen.length % 7 === 0) break
      }
    }
    const batch = await consumer.nextBatch({ maxRecords: 5 })
    assert.equal(batch.length, 5)
    seen.push(...[...batch].map((record) => Number(record.text())))
    while (seen.length < 100) seen.push(Number((await consumer.next({ timeoutMs: 10_000 })).text()))
    assert.deepEqual(seen, Array.from({ length: 100 }, (_, i) => i), `group ${group}`)
    // Idle: neither a time-out nor a loop that is left takes anything with it.
    assert.equal(await consumer.next({ timeoutMs: 100 }), null)
    const idle = consumer[Symbol.asyncIterator]()
    const pending = idle.next()
    await idle.return()
    assert.deepEqual(await pending, { value: undefined, done: true })
    const polled = []
    const producer = client.producer('t')
    for (let i = 100; i < 150; i++) {
      void producer.send(String(i))
      const got = await consumer.next({ timeoutMs: i % 5 })
      if (got) polled.push(Number(got.text()))
    }
    await producer.close()
    while (polled.length < 50) polled.push(Number((await consumer.next({ timeoutMs: 10_000 })).text()))
    assert.deepEqual(polled, Array.from({ length: 50 }, (_, i) => 100 + i))
    // Whoever is through with the last record has nobody to wait for.
    await consumer[asyncDispose]()
    if (group === undefined) {
      await client.deleteTopic('t')
      await client.createTopic('t')
      const again = client.producer('t')
      await again.enqueueBatch(Array.from({ length: 100 }, (_, i) => ({ value: String(i) })))
      await again.close()
    }
  }
  await client.close()
})

test('a read is bounded from the call on, though nothing is open, and opening goes on for the next one', { timeout: 60_000 }, async (t) => {
  const { client, broker } = await filled(t, 10)
  for (const group of [undefined, 'g']) {
    const consumer = client.consumer('t', { start: 'earliest', group })
    await broker.kill()
    for (const read of ['next', 'nextBatch', 'next']) {
      const since = performance.now()
      assert.equal(await consumer[read]({ timeoutMs: 200 }), null)
      assert.ok(performance.now() - since < 1_500)
    }
    await broker.restart()
    const seen = []
    while (seen.length < 10) {
      const record = await consumer.next({ timeoutMs: 20_000 })
      seen.push(record?.text())
    }
    assert.deepEqual(seen, Array.from({ length: 10 }, (_, i) => String(i)), `group ${group}`)
    if (group !== undefined) assert.equal((await client.describeGroup(group)).members.length, 1)
    await consumer.close()
  }
  // What opening ends with is told to who waits for it then, and to nobody else.
  const missing = client.consumer('missing', { filter: 'none' })
  await missing.next({ timeoutMs: 0 }).catch(() => {})
  await assert.rejects(missing.next({ timeoutMs: 10_000 }), { code: 'not_found' })
  await client.close()
})

test('a paused partition hands out nothing until it is resumed', async (t) => {
  const { client } = await filled(t, 1_000)
  const consumer = client.consumer('t', { start: 'earliest' })
  const first = await consumer.next()
  await consumer.pause(0)
  assert.deepEqual(await consumer.paused(), [{ topic: 't', partition: 0 }])
  assert.equal(await consumer.next({ timeoutMs: 200 }), null)
  assert.equal(await consumer.position(0), first.offset + 1)
  await consumer.resume(0)
  for (let i = 1; i < 1_000; i++) assert.equal((await consumer.next()).text(), String(i))
  await client.close()
  // What was in hand ends there as a loop does.
  assert.equal(await consumer.next(), null)
  await assert.rejects(consumer.next(), /closed/)
})

test('a pause in a loop counts from the next record on, and holds up no other partition', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await client.createTopic('t', { partitions: 2 })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: 10_000 }, (_, i) => ({ value: String(i), partition: i % 2 })))
  await producer.close()
  // Records come in runs by then, and batches whole.
  for (const [name, read] of [
    ['records', (consumer) => consumer],
    ['batches', (consumer) => consumer.batches({ maxRecords: 100 })],
  ]) {
    for (const group of [undefined, name]) {
      const consumer = client.consumer('t', { start: 'earliest', group })
      const seen = [[], []]
      let paused
      let atPause
      for await (const some of read(consumer)) {
        assert.notEqual(some.partition, paused, 'nothing of a paused partition')
        for (const record of some[Symbol.iterator] ? some : [some]) seen[record.partition].push(Number(record.text()))
        if (paused === undefined && seen[some.partition].length >= 600) {
          paused = some.partition
          await consumer.pause(paused)
          atPause = seen[paused].length
        }
        if (paused !== undefined && seen[1 - paused].length === 5_000) break
      }
      assert.equal(seen[paused].length, atPause)
      assert.equal(await consumer.next({ timeoutMs: 100 }), null)
      await consumer.resume(paused)
      while (seen[paused].length < 5_000) seen[paused].push(Number((await consumer.next({ timeoutMs: 10_000 })).text()))
      for (const partition of [0, 1]) assert.deepEqual(seen[partition], Array.from({ length: 5_000 }, (_, i) => 2 * i + partition))
      await consumer[asyncDispose]()
    }
  }
  await client.close()
})

test('a client that is closed ends the loops of its consumers, and refuses what comes after', async (t) => {
  for (const leave of [(client) => client.close(), (client) => client[asyncDispose]()]) {
    const { client } = await filled(t, 10)
    const reads = {
      records: async (consumer) => {
        let count = 0
        for await (const _ of consumer) count += 1
        return count
      },
      batches: async (consumer) => {
        let count = 0
        for await (const batch of consumer.batches()) count += batch.length
        return count
      },
      next: async (consumer) => {
        let count = 0
        while ((await consumer.next()) !== null) count += 1
        return count
      },
    }
    const positions = []
    const reading = []
    for (const group of [undefined, 'g']) {
      for (const [name, read] of Object.entries(reads)) {
        const consumer = client.consumer('t', { start: 'earliest', group: group && name })
        reading.push(read(consumer))
        positions.push(() => consumer.lag(0))
      }
    }
    // All of them are idle, and wait for what is next.
    for (const lag of positions) while ((await lag()) !== 0) await sleep(10)
    const since = performance.now()
    await leave(client)
    assert.deepEqual(await Promise.all(reading), reading.map(() => 10))
    assert.ok(performance.now() - since < 3_000)
    await assert.rejects(client.topics(), { code: 'closed' })
    for (const make of [() => client.consumer('t'), () => client.producer('t')]) assert.throws(make, { code: 'closed' })
    await client.close()
  }
})

test('a stream of an idle consumer ends when it is destroyed or aborted, and takes nothing with it', async (t) => {
  const { client } = await filled(t, 10)
  const producer = client.producer('t')
  const since = performance.now()
  const seen = []
  const sink = () => new Writable({ objectMode: true, write: (record, _, done) => done(void seen.push(record.text())) })
  const aborted = async (source, controller, count) => {
    const piped = pipeline(source, sink(), { signal: controller.signal })
    while (seen.length < count) await sleep(5)
    controller.abort()
    await assert.rejects(piped, { name: 'AbortError' })
    assert.deepEqual(seen.splice(0), Array.from({ length: count }, (_, i) => String(i)))
  }
  const consumer = client.consumer('t', { start: 'earliest' })
  await aborted(Readable.from(consumer), new AbortController(), 10)
  const stream = Readable.from(consumer)
  const first = once(stream, 'data')
  await producer.send('10')
  assert.equal((await first)[0].text(), '10')
  const closed = once(stream, 'close')
  stream.destroy()
  await closed
  await producer.send('11')
  assert.equal((await consumer.next({ timeoutMs: 10_000 })).text(), '11')
  // Node asks nothing of a source that is no stream while it waits: there the consumer has the signal as well.
  const controller = new AbortController()
  await aborted(client.consumer('t', { start: 'earliest', signal: controller.signal }), controller, 12)
  assert.ok(performance.now() - since < 5_000)
  await producer.close()
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

test('an abort without a reason is an AbortError, whatever the body is about', async (t) => {
  const { client } = await filled(t, 100)
  for (const isMember of [false, true]) {
    for (const read of [(consumer) => consumer, (consumer) => consumer.batches({ maxRecords: 1 })]) {
      for (const asks of [true, false]) {
        const controller = new AbortController()
        const consumer = client.consumer('t', { start: 'earliest', group: isMember ? unique() : undefined, signal: controller.signal })
        let seen = 0
        await assert.rejects(async () => {
          for await (const _ of read(consumer)) {
            seen += 1
            if (seen !== 5) continue
            controller.abort()
            await sleep(20)
            if (asks) await consumer.position(0)
          }
        }, { name: 'AbortError' })
        assert.equal(seen, 5)
        for (const call of [() => consumer.next(), () => consumer.nextBatch(), () => consumer.pause(0), () => consumer.open()]) {
          await assert.rejects(call, { name: 'AbortError' })
        }
        await consumer.close()
      }
    }
  }
  // One that was aborted before it is read reads nothing.
  const never = client.consumer('t', { start: 'earliest', signal: AbortSignal.abort() })
  await assert.rejects(async () => {
    for await (const record of never) assert.fail(record.text())
  }, { name: 'AbortError' })
  await client.close()
})

test('a signal keeps nothing of consumers that have ended, and ends as many as there are', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await client.createTopic('t')
  const controller = new AbortController()
  const { signal } = controller
  const warnings = []
  const onWarning = (warning) => warnings.push(warning)
  process.on('warning', onWarning)
  t.after(() => process.off('warning', onWarning))
  const listening = () => getEventListeners(signal, 'abort').length
  for (let i = 0; i < 4; i++) {
    await client.consumer('t', { signal }).close()
    await (await client.consumer('t', { signal, group: 'g' }).open()).close()
    for await (const _ of client.consumer('t', { start: 'earliest', untilEnd: true, signal }));
    assert.equal(listening(), 0)
  }
  const consumers = Array.from({ length: 15 }, () => client.consumer('t', { signal }))
  await consumers.pop().close()
  const ended = consumers.map((consumer) => assert.rejects(consumer.next(), { name: 'AbortError' }))
  await Promise.all(consumers.map((consumer) => consumer.open()))
  assert.equal(listening(), 1)
  controller.abort()
  await Promise.all(ended)
  await Promise.all(consumers.map((consumer) => consumer.close()))
  assert.equal(listening(), 0)
  await sleep(10)
  assert.deepEqual(warnings, [])
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
      await broker.kill()
      setTimeout(() => controller.abort(), 100)
    }
  }, { name: 'AbortError' })
  // What leaving has to say to the coordinator fails in its own time.
  await new Promise((go) => setTimeout(go, 4_000))
  await client.close()
})

test('calls at once are served in order, and an abort ends those that wait', async (t) => {
  const { client } = await filled(t, 100)
  for (let turn = 0; turn < 10; turn++) {
    const consumer = client.consumer('t', { start: 'earliest' })
    const got = await Promise.all(Array.from({ length: 20 }, () => consumer.next()))
    assert.deepEqual(got.map((r) => Number(r.text())), Array.from({ length: 20 }, (_, i) => i))
    await consumer.close()
  }
  for (const opened of [true, false]) {
    const controller = new AbortController()
    const consumer = client.consumer('t', { start: 'latest', signal: controller.signal })
    if (opened) await consumer.open()
    const [one, two] = [consumer.next(), consumer.nextBatch({ timeoutMs: 60_000 })]
    const reason = new Error('enough')
    setTimeout(() => controller.abort(reason), 50)
    for (const pending of [one, two, consumer.next()]) await assert.rejects(pending, (e) => e === reason)
    await assert.rejects(consumer.next(), (e) => e === reason)
  }
  for (const call of [(c) => c.next({ timeout: 5 }), (c) => c.nextBatch({ max: 5 }), (c) => c.nextBatch(5), (c) => c.next({ timeoutMs: '5' })]) {
    await assert.rejects(call(client.consumer('t')), TypeError)
  }
  assert.throws(() => client.consumer('t').batches({ foo: 1 }), TypeError)
  const consumer = client.consumer('t', { start: 'earliest' })
  for (const at of [0.5, 2 ** 32, -1]) await assert.rejects(consumer.pause(at), { code: 'invalid' })
  for (const to of [NaN, -1, 'middle']) await assert.rejects(consumer.seek(0, to), { code: 'invalid' })
  await client.close()
})

test('a commit counts at the call, and is not taken back', async (t) => {
  const { client } = await filled(t, 500)
  const committed = async (group) => (await client.describeGroup(group)).offsets[0].committed
  for (let turn = 0; turn < 5; turn++) {
    const consumer = client.consumer('t', { group: `g${turn}`, autoCommitMs: null })
    let [n, commit, expected] = [0, undefined, undefined]
    for await (const record of consumer) {
      n += 1
      if (n === 40) [commit, expected] = [consumer.commit(), record.offset + 1]
      if (n === 150) break
    }
    await commit
    await consumer.close()
    assert.equal(await committed(`g${turn}`), expected)
  }
  // What is handled counts while the body takes long.
  const consumer = client.consumer('t', { group: 'a', autoCommitMs: 50 })
  let n = 0
  for await (const record of consumer) {
    n += 1
    if (n !== 300) continue
    await sleep(600)
    assert.equal(await committed('a'), record.offset)
    await consumer.commit(record)
    await sleep(300)
    assert.equal(await committed('a'), record.offset + 1)
    await consumer.commit([{ partition: 0, offset: record.offset + 50 }])
    break
  }
  await consumer.close()
  const [first] = [...(await client.offsets('t', 'earliest')).values()]
  assert.ok((await committed('a')) >= first + 349)
  await client.close()
})

test('records that nobody flushed are waited for at the end of the process', async (t) => {
  const broker = await startBroker(t)
  const program = `
    import { connect } from ${JSON.stringify(new URL('../lib/index.js', import.meta.url).href)}
    const [address, ca, pid, how] = process.argv.slice(1)
    const client = await connect(address, { ca })
    const producer = client.producer('t')
    await producer.send('first')
    if (pid !== '0') process.kill(Number(pid), 'SIGSTOP')
    for (let i = 0; i < 1000; i++) producer.enqueue(String(i))
    if (how === 'exit') process.exit(0)`
  const end = (pid, how) => {
    const started = Date.now()
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', program, broker.address, broker.ca, String(pid), how], { encoding: 'utf8' })
    assert.equal(done.status, 0, done.stderr)
    return [done.stderr, Date.now() - started]
  }
  const stored = async () => {
    const client = await connect(broker.address, { ca: broker.ca })
    let count = 0
    for await (const _ of client.consumer('t', { start: 'earliest', untilEnd: true })) count += 1
    await client.close()
    return count
  }
  assert.equal(end(0, 'exit')[0], '')
  assert.equal(await stored(), 1001)
  assert.equal(end(0, 'empty')[0], '')
  assert.equal(await stored(), 2002)
  try {
    const [said, took] = end(broker.pid, 'exit')
    assert.match(said, /1000 records of the producer of topic "t" have no outcome yet; they may be lost/)
    assert.ok(took < 15_000)
  } finally {
    process.kill(broker.pid, 'SIGCONT')
  }
})

test('what was not delivered and nobody flushed is told at the end of the process', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await client.createTopic('t')
  await client.close()
  const end = (code) => {
    const program = `
      import { connect } from ${JSON.stringify(new URL('../lib/index.js', import.meta.url).href)}
      const [address, ca] = process.argv.slice(1)
      const client = await connect(address, { ca })
      const p = await client.producer('t').open()
      ${code}`
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', program, broker.address, broker.ca], { encoding: 'utf8', timeout: 20_000 })
    assert.equal(done.status, 0, `${code}: ${done.stderr}`)
    return done.stderr
  }
  for (const last of ['process.exit(0)', '']) {
    const one = end(`p.enqueue('x', { partition: 99 }); p.enqueue('y'); ${last}`)
    assert.match(one, /^thalweg: the process ends, and of the producer of topic "t" 1 record was not delivered: [^\n]*partition 99 is asked for[^\n]*\n$/)
    const three = end(`for (let i = 0; i < 3; i++) p.enqueue('x', { partition: 99 }); ${last}`)
    assert.match(three, /^thalweg: [^\n]*3 records were not delivered, the first one: [^\n]*partition 99 is asked for[^\n]*\n$/)
    assert.equal(end(`p.enqueue('x', { partition: 99 }); await p.flush().catch(() => {}); ${last}`), '')
    // Whoever waits for a record has its error.
    assert.equal(end(`await p.send('x', { partition: 99 }).catch(() => {}); ${last}`), '')
  }
})

test("what the program's own exit handlers send is waited for, wherever they stand", async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await client.createTopic('t')
  const end = (code, pid = 0) => {
    const program = `
      import { connect } from ${JSON.stringify(new URL('../lib/index.js', import.meta.url).href)}
      const [address, ca, pid] = process.argv.slice(1)
      const client = await connect(address, { ca })
      const make = () => client.producer('t')
      ${code}`
    const done = spawnSync(process.execPath, ['--input-type=module', '-e', program, broker.address, broker.ca, String(pid)], { encoding: 'utf8', timeout: 20_000 })
    assert.equal(done.status, 0, `${code}: ${done.stderr}`)
    return done.stderr
  }
  let before = 0
  const stored = async () => {
    let count = 0
    for await (const _ of client.consumer('t', { start: 'earliest', untilEnd: true })) count += 1
    const added = count - before
    before = count
    return added
  }
  const calls = "p.send('x'); p.enqueue('x'); p.sendBatch([{ value: 'x' }]); p.enqueueBatch([{ value: 'x' }])"
  for (const last of ['process.exit(0)', '']) {
    assert.equal(end(`const p = await make().open(); process.on('exit', () => { ${calls} }); ${last}`), '')
    assert.equal(await stored(), 4)
    // One that was never open, and one that did not exist.
    assert.equal(end(`const p = make(); p.enqueue('x'); process.on('exit', () => { for (let i = 0; i < 500; i++) p.enqueue('x') }); ${last}`), '')
    assert.equal(await stored(), 501)
    assert.equal(end(`process.on('exit', () => { const p = make(); ${calls} }); ${last}`), '')
    assert.equal(await stored(), 4)
  }
  assert.equal(end(`process.prependListener('exit', () => { const p = make(); ${calls} })`), '')
  assert.equal(await stored(), 4)
  const closed = end(`const p = make(); await p.close(); process.on('exit', () => { p.enqueue('x').catch(() => {}) })`)
  assert.match(closed, /^thalweg: the producer of topic "t" is closed, and what the end of the process sends to it is lost/)
  const started = Date.now()
  try {
    const said = end(`const p = await make().open(); process.kill(Number(pid), 'SIGSTOP'); process.on('exit', () => { for (let i = 0; i < 9; i++) p.enqueue('x') })`, broker.pid)
    assert.match(said, /^thalweg: the process ends, and 1 record of the producer of topic "t" has no outcome yet; it may be lost, and so may what is sent after[^\n]*\n$/)
  } finally {
    process.kill(broker.pid, 'SIGCONT')
  }
  assert.ok(Date.now() - started < 10_000)
  await client.close()
})

test('a worker that ends with records under way says that the worker does', async (t) => {
  const broker = await startBroker(t)
  const worker = `
    const { workerData: { library, address, ca, pid } } = require('node:worker_threads')
    const { connect } = require(library)
    connect(address, { ca }).then(async (client) => {
      const producer = client.producer('t')
      await producer.send('first')
      process.kill(pid, 'SIGSTOP')
      producer.enqueue('x')
      process.exit(0)
    })`
  const workerData = { library: fileURLToPath(new URL('../lib/index.js', import.meta.url)), address: broker.address, ca: broker.ca, pid: broker.pid }
  const program = `
    const { Worker } = require('node:worker_threads')
    new Worker(${JSON.stringify(worker)}, { eval: true, workerData: ${JSON.stringify(workerData)} })`
  try {
    const done = spawnSync(process.execPath, ['-e', program], { encoding: 'utf8', timeout: 20_000 })
    assert.match(done.stderr, /^thalweg: the worker ends, and 1 record of the producer of topic "t" has no outcome yet/)
  } finally {
    process.kill(broker.pid, 'SIGCONT')
  }
})
