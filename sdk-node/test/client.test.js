// What users of the Node SDK rely on.

import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { subscribe } from 'node:diagnostics_channel'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { inspect } from 'node:util'
import { Worker } from 'node:worker_threads'

import { AlreadyExistsError, ClosedError, ConsumerRecord, DisconnectedError, InvalidError, NotFoundError, OffsetOutOfRangeError, PluginFailedError, ThalwegError, connect } from '../lib/index.js'
import { Broker } from '../lib/testing/index.js'
import { plugins, startBroker } from './broker.js'

const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')

async function freePort() {
  const socket = createSocket('udp4').bind(0, '127.0.0.1')
  await once(socket, 'listening')
  const { port } = socket.address()
  socket.close()
  return port
}

test('errors have their class', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await assert.rejects(client.deleteTopic('nothing'), NotFoundError)
  await assert.rejects(client.createTopic('t', { partitions: 0 }), InvalidError)
  await client.createTopic('grows', { partitions: 2 })
  for (const _ of [1, 2]) assert.equal((await client.addPartitions('grows', 3)).partitions, 3)
  await assert.rejects(client.addPartitions('grows', 2), (e) => e instanceof InvalidError && /has 3 partitions, and 2 are asked for/.test(e.message))
  await assert.rejects(client.addPartitions('grows', 10_001), (e) => e instanceof InvalidError && /must be between 1 and 10000/.test(e.message))
  await assert.rejects(client.addPartitions('nothing', 3), NotFoundError)
  await assert.rejects(client.addPartitions('grows', 0), (e) => e instanceof InvalidError && /^total is 0/.test(e.message))
  await assert.rejects(client.uploadPlugin('p', Buffer.from('rubbish')), /not a WebAssembly module/)
  await assert.rejects(client.consumer('t', { filter: 'nothing' }).open(), NotFoundError)
  await assert.rejects(client.producer('t').send(Buffer.alloc(2 << 20)), /the limit is 1048576/)
  assert.throws(() => client.consumer('t', { start: -1 }), InvalidError)
  await client.createTopic('u')
  await assert.rejects(client.createTopic('u'), (e) => e instanceof AlreadyExistsError && e.code === 'already_exists')
  await client.close()
  await assert.rejects(client.topics(), ClosedError)
})

test('operators see the client id', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca, clientId: 'billing' })
  await client.createTopic('t')
  const consumer = client.consumer('t', { group: 'g' })
  await consumer.open()
  assert.deepEqual((await client.describeGroup('g')).members.map((member) => member.client), ['billing'])
  await client.close()
  for (const bad of ['a\nb', 'till 3', 'x'.repeat(250)]) await assert.rejects(connect(address, { ca, clientId: bad }), /client id.*name/)
  await assert.rejects(connect(address, { ca, clientId: 7 }), TypeError)
})

test('PEM is taken as text, as bytes or from a file, and is never shown', async (t) => {
  const { address, ca } = await startBroker(t)
  const pem = readFileSync(ca, 'utf8')
  for (const given of [ca, pem, Buffer.from(pem)]) await (await connect(address, { ca: given })).close()
  await assert.rejects(connect(address, { ca: 7 }), TypeError)
  const secret = 'c2VjcmV0'.repeat(8)
  for (const key of [`${secret}\n${secret}`, Buffer.from(secret), `-----BEGIN PRIVATE KEY-----\n${secret}\n-----END PRIVATE KEY-----\n`]) {
    await assert.rejects(connect(address, { ca: pem, cert: pem, key }), (e) => e instanceof InvalidError && !e.message.includes(secret))
  }
})

test('what happens to connections is told on a channel', { timeout: 90_000 }, async (t) => {
  const broker = await startBroker(t)
  const said = []
  subscribe('thalweg', (event) => said.push(event))
  const client = await connect(broker.address, { ca: broker.ca })
  const at = broker.address.replace('thalweg://', '')
  await broker.kill()
  while (!said.some(({ message }) => message.includes(`${at} is lost`))) await sleep(50)
  const levels = said.filter(({ message }) => message.includes(at)).map(({ level }) => level)
  assert.ok(levels.includes('info') && levels.includes('warn'), JSON.stringify(said))
  await client.close()
})

test('a client that was there before `thalweg dev` trusts it without an option', { timeout: 60_000 }, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'client-'))
  const port = await freePort()
  const broker = new Broker({ directory, port })
  t.after(async () => {
    await broker.close()
    rmSync(directory, { recursive: true, force: true })
  })
  const script = `
    const { connect } = require(${JSON.stringify(createRequire(import.meta.url).resolve('../lib/index.js'))})
    connect('thalweg://localhost:${port}', { timeoutMs: 30_000 }).then((client) => client.close())
    setTimeout(() => console.log('begun'), 200)`
  // Where this broker leaves word for clients of this user.
  const { THALWEG_CA: _, ...env } = { ...process.env, XDG_STATE_HOME: join(directory, 'state') }
  const client = spawn(process.execPath, ['-e', script], { env, stdio: ['ignore', 'pipe', 'pipe'] })
  const ended = once(client, 'exit')
  let said = ''
  client.stderr.on('data', (data) => (said += data))
  await once(client.stdout, 'data')
  await broker.start()
  assert.deepEqual(await ended, [0, null], said)
})

test('a broker that is down is named', async () => {
  await assert.rejects(
    connect('thalweg://127.0.0.1:1', { timeoutMs: 500 }),
    (e) => e instanceof DisconnectedError && e.retriable && e.message.includes('127.0.0.1:1'),
  )
})

test('many records come back in order, and positions can be moved', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: 5000 }, (_, i) => ({ value: { i } })))
  await producer.close()
  let next = 0
  for await (const record of client.consumer('t', { start: 'earliest', untilEnd: true })) {
    assert.equal(record.json().i, next++)
  }
  assert.equal(next, 5000)
  const first = (await client.offsets('t', 'earliest')).get(0)
  const consumer = client.consumer('t', { start: 'earliest' })
  const records = consumer[Symbol.asyncIterator]()
  const offset = (await records.next()).value.offset
  assert.ok(offset >= first)
  await consumer.seek(0, offset + 100)
  assert.equal((await records.next()).value.json().i, 100)
  await records.return()
  await client.close()
})

test('an abort signal ends the loop', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const controller = new AbortController()
  setTimeout(() => controller.abort(), 100)
  await assert.rejects(
    async () => {
      for await (const record of client.consumer('quiet', { signal: controller.signal })) record.text()
    },
    { name: 'AbortError' },
  )
  await client.close()
})

test('the process ends after close', async (t) => {
  const { address, ca } = await startBroker(t)
  const index = new URL('../lib/index.js', import.meta.url).href
  const script = `
    import { connect } from '${index}'
    const client = await connect('${address}', { ca: '${ca}' })
    const producer = client.producer('t')
    await producer.send('x')
    await producer.close()
    for await (const record of client.consumer('t', { start: 'earliest', untilEnd: true })) console.log(record.text())
    await client.close()`
  const result = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 20_000, encoding: 'utf8' })
  assert.equal(result.status, 0, result.stderr)
  assert.equal(result.stdout, 'x\n')
})

test('require and import give the same classes', async () => {
  const required = createRequire(import.meta.url)('../lib/index.js')
  const imported = await import('../lib/index.js')
  for (const name of Object.keys(required)) assert.equal(imported[name], required[name], name)
})

test('a position past the end is thrown with both ends, until a seek', { timeout: 60_000 }, async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const { offset: last } = await producer.send('a')
  const consumer = client.consumer('t', { start: 5_000 })
  await consumer.open()
  const expected = (e) =>
    e instanceof OffsetOutOfRangeError && e.topic === 't' && e.partition === 0 && e.offset === 5_000 && e.logStart === 0 && e.logEnd === last + 1
  const first = async (records) => {
    for await (const record of records) return record
  }
  for (let i = 0; i < 2; i++) {
    await assert.rejects(first(consumer), expected)
    await assert.rejects(first(consumer.batches()), expected)
  }
  await consumer.seek(0, last)
  assert.equal((await first(consumer)).text(), 'a')
  const alone = await client.consumer('t').open()
  await client.deleteTopic('t')
  for (let i = 0; i < 2; i++) {
    await assert.rejects(first(alone), (e) => e instanceof NotFoundError && e.message === 'topic "t" was deleted')
    await assert.rejects(producer.send('x'), (e) => e instanceof NotFoundError && e.message === 'topic "t" was deleted')
  }
  await client.createTopic('t', { partitions: 1 })
  await producer.send('y')
  await alone.close()
  await producer.close()
  await client.close()
})

test('a filter that fails names the record and itself, in any loop, until a seek past it', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.uploadPlugin('late', join(plugins, 'late.wasm'))
  const producer = client.producer('t')
  const values = ['{"dep_delay":61}', '{"dep_delay":60}', 'no json', '{"dep_delay":62}']
  const offsets = (await producer.sendBatch(values.map((value) => ({ value })))).map((at) => at.offset)
  await producer.close()
  const options = { start: 'earliest', untilEnd: true, filter: 'late' }
  const isFailure = (e) => {
    assert.ok(e instanceof PluginFailedError)
    assert.deepEqual([e.topic, e.partition, e.offset, e.retriable], ['t', 0, offsets[2], false])
    assert.match(e.plugin, /^late@1/)
    assert.ok(e.reason.length > 0 && e.message.includes(e.reason))
    return true
  }
  const reads = {
    records: async (consumer, seen) => {
      for await (const record of consumer) seen.push(record.text())
    },
    batches: async (consumer, seen) => {
      for await (const batch of consumer.batches()) seen.push(...batch.records().map((record) => record.text()))
    },
    next: async (consumer, seen) => {
      for (let record; (record = await consumer.next()) !== null; ) seen.push(record.text())
    },
  }
  for (const group of [undefined, 'g']) {
    for (const [name, read] of Object.entries(reads)) {
      const consumer = client.consumer('t', { ...options, group: group && name })
      const seen = []
      for (let i = 0; i < 2; i++) await assert.rejects(read(consumer, seen), isFailure)
      await consumer.seek(0, offsets[2] + 1)
      await read(consumer, seen)
      assert.deepEqual(seen, ['{"dep_delay":61}', '{"dep_delay":62}'], name)
      // It has ended, and still says what it saw.
      const { delivered, filtered } = await consumer.counts()
      assert.deepEqual([delivered, filtered], [2, 1], name)
      await consumer.close()
    }
  }
  const skipping = client.consumer('t', { ...options, onFilterFailure: 'skip' })
  const seen = []
  await reads.records(skipping, seen)
  assert.equal(seen.length, 2)
  assert.deepEqual(await skipping.counts(), { delivered: 2, filtered: 1, failed: 1, unreadable: 0, scanned: 4 })
  await client.close()
})

test('errors name options as they are called here, and what users named as they did', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('t')
  assert.throws(() => client.producer('t', { batchBytes: 2e9 }), /^InvalidError: batchBytes is 2000000000, it must be between 1 and /)
  assert.throws(() => client.producer('t', { deliveryTimeoutMs: 0.5 }), /^InvalidError: deliveryTimeoutMs is below a millisecond/)
  for (const name of ['segmentBytes', 'segmentMs']) {
    await assert.rejects(client.createTopic('u', { [name]: 5 }), (e) => e instanceof InvalidError && e.message.startsWith(`${name} is 5; it is `))
  }
  const env = { ...process.env, HOME: '/nowhere', XDG_CONFIG_HOME: '/nowhere', XDG_RUNTIME_DIR: '/nowhere' }
  delete env.THALWEG_CA
  const script = `import { connect } from '${new URL('../lib/index.js', import.meta.url).href}'; await connect('${address}').catch((e) => console.log(e.message))`
  const untrusted = spawnSync(process.execPath, ['--input-type=module', '-e', script], { env, encoding: 'utf8', timeout: 20_000 })
  assert.match(untrusted.stdout, /Name its CA with the option ca, or THALWEG_CA/)
  // To make a topic is no advice for who deletes it.
  for (const name of ['nothing', 'batch_bytes']) {
    const isMissing = (e) => e instanceof NotFoundError && e.message === `topic "${name}" does not exist; \`thalweg topic list\` shows those that do`
    await assert.rejects(client.deleteTopic(name), isMissing)
  }
  const empty = {
    name: [client.createTopic(''), client.deleteTopic(''), client.uploadPlugin('', Buffer.from('x'))],
    topic: [client.offsets('', 'latest'), client.setPartitioner('', null), client.resetGroup('g', '', 'latest'), (async () => client.producer(''))()],
    group: [client.describeGroup(''), client.deleteGroup(''), client.resetGroup('', 't', 'latest')],
  }
  for (const [name, calls] of Object.entries(empty)) {
    for (const calling of calls) await assert.rejects(calling, (e) => e instanceof InvalidError && e.message === `${name} is empty`)
  }
  await client.close()
})

test('a time is milliseconds or a Date, wherever a position is', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const at = Date.now() - 1_000
  const [, second] = await producer.sendBatch([0, 1, 2].map((i) => ({ value: String(i), timestampMs: at + i })))
  await producer.close()
  const consumer = client.consumer('t', { start: 'latest' })
  for (const timestamp of [at + 1, new Date(at + 1)]) {
    assert.equal((await client.offsets('t', { timestamp })).get(0), second.offset)
    const started = client.consumer('t', { start: { timestamp } })
    await consumer.seek(0, { timestamp })
    for (const one of [started, consumer]) assert.equal((await one.next({ timeoutMs: 10_000 })).text(), '1')
  }
  for (const timestamp of [new Date(NaN), -1, 1.5, NaN, 5n, '5', null]) {
    const Refused = typeof timestamp === 'number' || timestamp instanceof Date ? InvalidError : TypeError
    await assert.rejects(consumer.seek(0, { timestamp }), Refused)
    await assert.rejects(client.offsets('t', { timestamp }), Refused)
    assert.throws(() => client.consumer('t', { start: { timestamp } }), Refused)
  }
  await client.close()
})

test('every call ends within timeoutMs, though all of them wait for the same broker', { timeout: 60_000 }, async (t) => {
  const broker = await startBroker(t)
  const timeoutMs = 1_000
  const client = await broker.connect({ timeoutMs })
  await client.createTopic('t')
  const member = await client.consumer('t', { group: 'g', autoCommitMs: null, closeTimeoutMs: 0 }).open()
  const producer = client.producer('t')
  await producer.send('x')
  await member.next()
  await broker.kill()
  const calls = {
    topics: () => client.topics(),
    offsets: () => client.offsets('t', 'latest'),
    createTopic: () => client.createTopic('u'),
    deleteTopic: () => client.deleteTopic('t'),
    setPartitioner: () => client.setPartitioner('t', null),
    plugins: () => client.plugins(),
    uploadPlugin: () => client.uploadPlugin('p', Buffer.from('x')),
    groups: () => client.groups(),
    describeGroup: () => client.describeGroup('g'),
    deleteGroup: () => client.deleteGroup('g'),
    resetGroup: () => client.resetGroup('g', 't', 'latest'),
    'producer.open': () => client.producer('v').open(),
    'consumer.open': () => client.consumer('v').open(),
    'consumer.open, in a group': () => client.consumer('v', { group: 'h' }).open(),
    commit: () => member.commit(),
  }
  const took = async (name, call) => {
    const since = performance.now()
    await assert.rejects(call, (e) => {
      assert.ok(e instanceof ThalwegError, `${name}: ${e.stack}`)
      return ['disconnected', 'timeout', 'rebalanced'].includes(e.code)
    }, name)
    return performance.now() - since
  }
  // Whoever comes after the broker is known to be away waits no longer than whoever finds it out, one by one or all at once.
  for (const name of ['topics', 'createTopic', 'commit']) {
    const ms = await took(name, calls[name])
    assert.ok(ms < timeoutMs + 1_500, `${name} alone: ${ms}`)
  }
  const all = Object.entries(calls).flatMap((call) => [call, call])
  const each = await Promise.all(all.map(async ([name, call]) => [name, await took(name, call)]))
  assert.deepEqual(each.filter(([, ms]) => ms > timeoutMs + 1_500), [])
  await member.close().catch(() => {})
  await client.close()
})

test('clients come and go without leaving anything', { timeout: 90_000 }, async (t) => {
  const { address, ca } = await startBroker(t)
  const index = new URL('../lib/index.js', import.meta.url).href
  const script = `
    import { readFileSync, readdirSync } from 'node:fs'
    import { connect } from '${index}'
    const state = () => {
      const status = readFileSync('/proc/self/status', 'utf8')
      return [/Threads:\\s+(\\d+)/.exec(status)[1], readdirSync('/proc/self/fd').length, /VmRSS:\\s+(\\d+)/.exec(status)[1]].map(Number)
    }
    let before
    for (let i = 0; i < 300; i++) {
      const client = await connect('${address}', { ca: '${ca}' })
      const producer = client.producer('t')
      const { offset } = await producer.send(String(i))
      await producer.close()
      const consumer = client.consumer('t', { start: offset })
      if ((await consumer.next()).text() !== String(i)) throw new Error('another record')
      await consumer.close()
      await client.close()
      if (i === 19) before = state()
    }
    console.log(JSON.stringify([before, state()]))`
  const result = spawnSync(process.execPath, ['--input-type=module', '-e', script], { timeout: 80_000, encoding: 'utf8' })
  assert.equal(result.status, 0, result.stderr)
  const [[threads, descriptors, kib], after] = JSON.parse(result.stdout)
  assert.ok(after[0] <= threads + 2 && after[1] <= descriptors + 4 && after[2] <= kib + (96 << 10), result.stdout)
})

/** A program with one worker thread after the other, each of which reads and sends until it is ended. */
const WITH_WORKERS = `
  import { once } from 'node:events'
  import { setTimeout as sleep } from 'node:timers/promises'
  import { Worker, isMainThread, parentPort, workerData } from 'node:worker_threads'
  const [address, ca, how, index] = process.argv.slice(2)
  const { connect } = await import(index)
  const client = await connect(address, { ca })
  if (isMainThread) {
    const codes = []
    for (let number = 0; number < 12; number++) {
      const worker = new Worker(new URL(import.meta.url), { argv: [address, ca, how, index], workerData: number })
      const ended = once(worker, 'exit')
      await once(worker, 'message')
      if (how === 'terminate') {
        await sleep(5 * number)
        await worker.terminate()
      }
      codes.push((await ended)[0])
    }
    // This thread goes on.
    await client.producer('u').send('x')
    await client.close()
    console.log(codes.join(' '))
  } else {
    const producer = client.producer('t')
    await producer.sendBatch(Array.from({ length: 100 }, (_, i) => ({ value: String(i) })))
    let count = 0
    for await (const record of client.consumer('t', { group: 'g' + workerData })) {
      producer.send(record.value)
      if (++count === 10) parentPort.postMessage('at work')
      if (count === 20 && how === 'exit') process.exit(7)
    }
  }`

for (const [how, code] of [['exit', 7], ['terminate', 1]]) {
  test(`a worker thread may be ended in the middle of its work: ${how}`, { timeout: 90_000 }, async (t) => {
    const { address, ca } = await startBroker(t)
    const folder = mkdtempSync(join(tmpdir(), 'workers-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    writeFileSync(join(folder, 'main.mjs'), WITH_WORKERS)
    const index = new URL('../lib/index.js', import.meta.url).href
    // In a process of its own, which a crash would end.
    const done = spawnSync(process.execPath, [join(folder, 'main.mjs'), address, ca, how, index], { timeout: 80_000, encoding: 'utf8' })
    assert.deepEqual([done.status, done.signal], [0, null], done.stderr)
    assert.equal(done.stdout, `${Array(12).fill(code).join(' ')}\n`)
  })
}

test('what is left by a block is closed', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const consumer = client.consumer('t', { start: 'earliest' })
  const sent = producer.send('x')
  assert.equal((await consumer.next()).text(), 'x')
  for (const one of [producer, consumer, client]) await one[asyncDispose]()
  await sent
  await assert.rejects(producer.send('x'), ClosedError)
  await assert.rejects(consumer.seek(0, 'earliest'), ClosedError)
  await assert.rejects(client.topics(), ClosedError)
})

test('whoever waits already is told of a position that is not there, and of a topic that goes', { timeout: 60_000 }, async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('t')
  const beyond = [client.consumer('t', { start: 5_000 }), client.consumer('t', { group: 'beyond', start: 5_000 })]
  const reads = [(c) => c.next(), (c) => c.nextBatch(), (c) => c[Symbol.asyncIterator]().next(), (c) => c.batches().next()]
  for (const consumer of beyond) {
    await Promise.all(reads.map((read) => assert.rejects(read(consumer), (e) => e instanceof OffsetOutOfRangeError && e.offset === 5_000)))
  }
  const policy = client.consumer('t', { start: 5_000, outOfRange: 'latest' })
  await policy.open()
  const producer = client.producer('t')
  await producer.send('x')
  assert.equal((await policy.next({ timeoutMs: 10_000 })).text(), 'x')
  const idle = reads.map(() => client.consumer('t'))
  for (const consumer of idle) await consumer.open()
  const waiting = reads.map((read, i) => assert.rejects(read(idle[i]), (e) => e instanceof NotFoundError && e.message === 'topic "t" was deleted'))
  await client.deleteTopic('t')
  await Promise.all(waiting)
  await producer.close()
  await client.close()
})

test('what is fetched ahead is bounded by bufferBytes', { timeout: 60_000 }, async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await client.createTopic('t')
  const producer = client.producer('t')
  const [count, bytes] = [200, 100_000]
  await producer.sendBatch(Array.from({ length: count }, () => ({ value: Buffer.alloc(bytes) })))
  await producer.close()
  const [little, much] = [client.consumer('t', { start: 'earliest', bufferBytes: 1 << 20 }), client.consumer('t', { start: 'earliest' })]
  for (const consumer of [little, much]) {
    await consumer.next()
    for (let i = 0; i < 60; i++) {
      await consumer.pause(0)
      await consumer.resume(0)
    }
  }
  // What comes now comes without being asked for.
  await sleep(1_000)
  await broker.kill()
  const rest = []
  for (const consumer of [little, much]) {
    let left = 0
    while ((await consumer.next({ timeoutMs: 300 })) !== null) left += 1
    rest.push(left)
  }
  assert.ok(rest[0] * bytes <= 3 << 20, `${rest[0]} records`)
  assert.equal(rest[1], count - 1)
  await client.close()
})

test('what cannot be meant is refused by name', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  assert.throws(() => client.consumer('t', { groupId: 'g' }), (e) => e instanceof TypeError && /"groupId"/.test(e.message))
  for (const options of [{ bufferBytes: 0 }, { sessionTimeoutMs: NaN }, { autoCommitMs: -1 }, { maxProcessingMs: Infinity }]) {
    assert.throws(() => client.consumer('t', options), InvalidError, JSON.stringify(options))
  }
  assert.throws(() => client.producer('t', { batchBytes: 1.5 }), InvalidError)
  await assert.rejects(client.createTopic('t', { partition: 3 }), TypeError)
  for (const partitions of [2 ** 32 + 1, 1.5, -1]) await assert.rejects(client.createTopic('t', { partitions }), InvalidError)
  await assert.rejects(connect(address, { ca, timeout: 3 }), TypeError)
  await assert.rejects(connect(address, { ca, timeoutMs: -3 }), InvalidError)
  await client.createTopic('t')
  const consumer = client.consumer('t', { group: 'g' })
  for (const offset of [NaN, -1, 1.5]) await assert.rejects(consumer.commit([{ partition: 0, offset }]), InvalidError)
  await assert.rejects(consumer.commit({ partition: 0, offset: 3 }), TypeError)
  await client.close()
})

test('records print, compare and become JSON', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  await producer.send({ a: 1 }, { key: 'k', headers: [['h', null]] })
  await producer.send(Buffer.from([0xff, 0xfe]))
  await producer.close()
  const consumer = client.consumer('t', { start: 'earliest', untilEnd: true })
  const records = []
  for await (const record of consumer) records.push(record)
  const [first, second] = records
  assert.notDeepStrictEqual(first, second)
  assert.match(inspect(first), /offset: \d+.*key: <Buffer 6b>/s)
  const json = JSON.parse(JSON.stringify(first))
  assert.deepEqual([json.topic, json.key, json.value, json.headers], ['t', 'k', '{"a":1}', [['h', null]]])
  assert.deepEqual(second.toJSON().value, { base64: '//4=' })
  assert.equal({ ...second }.offset, second.offset)
  assert.equal((await consumer.counts()).delivered, 2)
  const made = ConsumerRecord.of({ value: { b: 2 }, key: 'x', offset: 9, headers: { h: '1' } })
  assert.deepEqual([made.json(), made.key.toString(), made.offset, made.headers[0][0]], [{ b: 2 }, 'x', 9, 'h'])
  assert.equal(ConsumerRecord.of({ value: null }).text(), null)
  await client.close()
})

test('a record is cloned and compared by toObject, and never equal to one that holds something else', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const read = async () => {
    const records = []
    for await (const record of client.consumer('t', { start: 'earliest', untilEnd: true })) records.push(record)
    return records
  }
  const send = async (value) => {
    const producer = client.producer('t')
    await producer.send(value, { key: 'k', headers: { h: '1', n: null }, timestampMs: 5 })
    await producer.close()
  }
  await send('one')
  const [record] = await read()
  const { offset } = record
  const object = { topic: 't', partition: 0, offset, timestampMs: 5, key: Buffer.from('k'), value: Buffer.from('one'), headers: [['h', Buffer.from('1')], ['n', null]] }
  assert.deepStrictEqual(record.toObject(), object)
  assert.deepStrictEqual(structuredClone(record.toObject()).value, new Uint8Array(Buffer.from('one')))
  assert.deepStrictEqual(ConsumerRecord.of(record.toObject()).toObject(), object)
  // Where it stood is all that goes through properties, and its identity, which nothing shows.
  assert.deepEqual(structuredClone(record), { topic: 't', partition: 0, offset, timestampMs: 5 })
  assert.deepEqual(Object.keys(record), ['topic', 'partition', 'offset', 'timestampMs'])
  assert.doesNotMatch(inspect(record) + JSON.stringify(record), /identity/)
  // The same record, read twice.
  assert.deepStrictEqual((await read())[0], record)
  // Another one at its place: the topic was made anew.
  await client.deleteTopic('t')
  await client.createTopic('t')
  await send('two')
  const [other] = await read()
  assert.equal(other.offset, offset)
  assert.notDeepStrictEqual(other, record)
  const parts = { value: 'v', key: 'k', headers: { h: '1' } }
  assert.deepStrictEqual(ConsumerRecord.of(parts), ConsumerRecord.of({ ...parts, value: Buffer.from('v') }))
  for (const differs of [{ value: 'w' }, { value: null }, { value: Buffer.from([0xff]) }, { key: 'l' }, { key: null }, { headers: { h: '2' } }, { headers: {} }, { offset: 1 }]) {
    assert.notDeepStrictEqual(ConsumerRecord.of(parts), ConsumerRecord.of({ ...parts, ...differs }), JSON.stringify(differs))
  }
  await client.close()
})

test('a value that is kept does not keep its batch', async (t) => {
  const record = ConsumerRecord.of({ value: 'x'.repeat(100), key: 'k'.repeat(100_000) })
  assert.ok(record.value.buffer.byteLength < 100_000)
  assert.equal(record.value.toString(), 'x'.repeat(100))
  const { key, headers: [[, header]] } = ConsumerRecord.of({ value: 'x'.repeat(100_000), key: 'k', headers: { h: '1' } })
  for (const kept of [key, header]) assert.ok(kept.buffer.byteLength < 100_000)
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const sent = Array.from({ length: 2_000 }, (_, i) => (i % 7 === 0 ? null : String(i).repeat(i % 500 === 1 ? 5_000 : i % 40)))
  const producer = client.producer('t', { batchBytes: 1 << 20 })
  await producer.sendBatch(sent.map((value, i) => ({ value, key: i % 3 === 0 ? null : 'k'.repeat(i % 30) })))
  await producer.close()
  const texts = []
  for await (const batch of client.consumer('t', { start: 'earliest', untilEnd: true }).batches()) {
    const values = batch.values()
    assert.deepEqual(values, batch.records().map((one) => one.value))
    for (const value of values) assert.ok(value === null || value.buffer.byteLength <= Math.max(8 << 10, value.length))
    // What is done with one is nothing to the batch, or is where that was asked for.
    for (const value of values) value?.fill('-')
    texts.push(...batch.values().map((value) => value?.toString() ?? null))
    const views = batch.values({ copy: false })
    assert.equal(new Set(views.filter((view) => view !== null).map((view) => view.buffer)).size, 1)
    assert.deepEqual(views, batch.values())
    assert.throws(() => batch.values({ copies: false }), TypeError)
    assert.throws(() => batch.values({ copy: 0 }), TypeError)
    // What a batch is made of is not to be seen.
    assert.deepEqual(Reflect.ownKeys(batch), ['topic', 'partition', 'offsets', 'timestamps'])
  }
  assert.deepEqual(texts, sent)
  await client.close()
})

test('topics by pattern, one that is made again, and a change of topics', async (t) => {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  for (const name of ['eu', 'us']) await client.createTopic(`flights-${name}`)
  const consumers = [client.consumer('^flights-', { start: 'earliest' }), client.consumer(['^flights-'], { group: 'g' })]
  for (const consumer of consumers) await consumer.open()
  const producer = client.producer()
  for (const name of ['eu', 'us']) await producer.send('1', { topic: `flights-${name}` })
  // What is sent before anybody has noticed the topic is read, too.
  await client.createTopic('flights-asia')
  await producer.send('1', { topic: 'flights-asia' })
  for (const consumer of consumers) {
    const found = []
    for (let i = 0; i < 3; i++) found.push((await consumer.next({ timeoutMs: 10_000 })).topic)
    assert.deepEqual(found.sort(), ['flights-asia', 'flights-eu', 'flights-us'])
    await consumer.subscribe('flights-eu')
    assert.deepEqual([consumer.topics, consumer.topic], [['flights-eu'], 'flights-eu'])
  }
  await producer.send('2', { topic: 'flights-us' })
  await producer.send('2', { topic: 'flights-eu' })
  for (const consumer of consumers) {
    const record = await consumer.next({ timeoutMs: 10_000 })
    assert.deepEqual([record.topic, record.text()], ['flights-eu', '2'])
    for (const wrong of [[], '^(', 'a/b']) await assert.rejects(consumer.subscribe(wrong), InvalidError)
    for (const wrong of [undefined, null, 3, [3]]) await assert.rejects(consumer.subscribe(wrong), TypeError)
  }
  const waiting = client.consumer('trains', { waitForTopics: true })
  // Whoever waits does not make it, though a broker for development would.
  await waiting.open()
  for (const value of ['1', '2', '3']) {
    await client.createTopic('trains')
    await producer.send(value, { topic: 'trains' })
    assert.equal((await waiting.next({ timeoutMs: 10_000 })).text(), value)
    await client.deleteTopic('trains')
  }
  // The last of several calls counts.
  const several = ['flights-eu', 'flights-us', 'flights-asia', '^flights'].map((topic) => consumers[0].subscribe(topic))
  await Promise.all(several)
  assert.deepEqual(consumers[0].topics, ['^flights'])
  await client.close()
})

test('what belongs to a group is refused without one', async (t) => {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  await client.createTopic('t')
  for (const options of [
    { instance: 'a' }, { sessionTimeoutMs: 5_000 }, { autoCommitMs: null }, { assignor: 'range' }, { maxProcessingMs: 1_000 }, { onRebalance() {} },
  ]) {
    await assert.rejects(client.consumer('t', options).open(), (e) => e instanceof InvalidError && /belongs to a group/.test(e.message))
    await (await client.consumer('t', { ...options, group: `g${Object.keys(options)}` }).open()).close()
  }
  await client.close()
})

test('a group goes on without the member of a worker that was ended while it read', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  t.after(() => client.close())
  await client.createTopic('t')
  const code = `
    const { parentPort, workerData } = require('node:worker_threads')
    const { connect } = require(workerData.library)
    connect(workerData.address, { ca: workerData.ca }).then(async (client) => {
      const consumer = await client.consumer('t', { group: 'g' }).open()
      consumer.next().catch(() => {})
      setTimeout(() => parentPort.postMessage('reads'), 100)
    })`
  const library = fileURLToPath(new URL('../lib/index.js', import.meta.url))
  const worker = new Worker(code, { eval: true, workerData: { library, address: broker.address, ca: broker.ca } })
  await once(worker, 'message')
  assert.equal((await client.describeGroup('g')).members.length, 1)
  await worker.terminate()
  const deadline = performance.now() + 10_000
  while ((await client.describeGroup('g')).members.length > 0) {
    assert.ok(performance.now() < deadline, 'the member is still there')
    await sleep(50)
  }
})
