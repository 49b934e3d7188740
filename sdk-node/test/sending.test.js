// The order of calls is the order of records, what is sent is taken at the call, and what is no data is refused.

import assert from 'node:assert/strict'
import { join } from 'node:path'
import { test } from 'node:test'
import { runInNewContext } from 'node:vm'

import { ClosedError, InvalidError, TimedOutError, connect } from '../lib/index.js'
import { Producer } from '../lib/producer.js'
import { plugins, startBroker } from './broker.js'

async function read(client, topic) {
  const records = []
  for await (const record of client.consumer(topic, { start: 'earliest', untilEnd: true })) records.push(record)
  return records
}

const numbers = async (client, topic) => (await read(client, topic)).map((r) => Number(r.text()))
const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')
const upTo = (n) => Array.from({ length: n }, (_, i) => i)

test('the order of calls is the order of records', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  // Not opened yet: the first ones wait for that, in line.
  await Promise.all(upTo(2000).map((i) => producer.send(String(i), { key: 'k' })))
  for (let i = 2000; i < 3000; i += 4) {
    producer.send(String(i))
    producer.enqueue(String(i + 1))
    producer.enqueueBatch([{ value: String(i + 2) }])
    producer.sendBatch([{ value: String(i + 3) }])
  }
  const sent = upTo(300).map((i) => producer.send(String(3000 + i)))
  await producer.close()
  await Promise.all(sent)
  await assert.rejects(producer.send('x'), /closed/)
  assert.deepEqual(await numbers(client, 't'), upTo(3300))
  const full = client.producer('full', { bufferBytes: 200_000 })
  await Promise.all(upTo(60).map((i) => full.send(String(i).padStart(100_000, '0'))))
  await full.close()
  assert.deepEqual(await numbers(client, 'full'), upTo(60))
  await client.close()
})

test('what was called for before a close is sent, though the producer was never open', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const sent = client.producer('sent')
  const deliveries = upTo(1000).map((i) => sent.send(String(i)))
  await sent.close()
  assert.equal((await Promise.all(deliveries)).length, 1000)
  const mixed = client.producer('mixed')
  for (let i = 0; i < 1000; i += 4) {
    mixed.enqueue(String(i))
    mixed.enqueueBatch([{ value: String(i + 1) }, { value: String(i + 2) }])
    mixed.sendBatch([{ value: String(i + 3) }])
  }
  await mixed[asyncDispose]()
  for (const topic of ['sent', 'mixed']) assert.deepEqual(await numbers(client, topic), upTo(1000), topic)
  for (const producer of [sent, mixed]) {
    const calls = [() => producer.send('x'), () => producer.enqueue('x'), () => producer.sendBatch([{ value: 'x' }]), () => producer.enqueueBatch([{ value: 'x' }])]
    for (const call of [...calls, () => producer.open()]) await assert.rejects(call, ClosedError)
    await producer.close()
  }
  await client.close()
})

test('text that has no bytes is refused by name, and does not keep the others', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const half = '\ud800'
  const bad = [
    [/^(messages\[1\]: )?a header's name is/, 'x', { headers: { [half]: 'x' } }],
    [/^(messages\[1\]: )?a header's name is/, 'x', { headers: new Map([[`a${half}`, null]]) }],
    [/^(messages\[1\]: )?header "h" is/, 'x', { headers: [['h', half]] }],
    [/^(messages\[1\]: )?key is/, 'x', { key: `k${half}` }],
    [/^(messages\[1\]: )?topic is/, 'x', { topic: half }],
    [/^(messages\[1\]: )?value is/, `cut${half}`, undefined],
    [/^(messages\[1\]: )?value is/, half, { key: 'k' }],
  ]
  for (const [message, value, options] of bad) {
    const isRefused = (e) => e instanceof InvalidError && message.test(e.message) && /surrogate/.test(e.message)
    const good = [producer.send('0', { key: 'grüße', headers: { 日本: '😀' } })]
    const refused = [producer.send(value, options), producer.enqueue(value, options), producer.sendBatch([{ value: '9' }, { value, ...options }])]
    refused.push(producer.enqueueBatch([{ value: '2' }, { value, ...options }]))
    good.push(producer.send('1'))
    await Promise.all(refused.map((call) => assert.rejects(call, isRefused)))
    await Promise.all(good)
  }
  // In JSON it has a form of its own.
  await producer.send({ half })
  await producer.close()
  const records = await read(client, 't')
  assert.deepEqual(records.pop().json(), { half })
  assert.deepEqual(records.map((r) => r.text()), bad.flatMap(() => ['0', '1']))
  await client.close()
})

test('records that the native half refuses have an outcome', async () => {
  const native = {
    submit() {
      throw new Error('refused')
    },
    pending: () => 0,
    untold: () => null,
    flush: async () => {},
    refuse() {},
    close: async () => {},
  }
  const producer = new Producer('t', native)
  const outcomes = await Promise.allSettled(upTo(2000).map((i) => producer.send(String(i))))
  assert.ok(outcomes.every((outcome) => outcome.reason?.message === 'refused'))
  assert.deepEqual((await producer.sendBatch([{ value: 'x' }, { value: 'y' }])).map((error) => error.message), ['refused', 'refused'])
  const told = new Promise((resolve) => producer.enqueue('x', { onDelivery: resolve }))
  assert.equal((await told).message, 'refused')
  await producer.enqueue('x')
  await assert.rejects(producer.flush(), /refused/)
  await producer.enqueueBatch([{ value: 'x' }])
  await assert.rejects(producer.close(), /refused/)
})

test('one producer sends to the topics that its records name', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer({ bufferBytes: 1 << 20 })
  assert.equal(producer.topic, null)
  const sent = upTo(400).map((i) => producer.send(String(i), { key: 'k', topic: 'ab'[i % 2] }))
  await producer.enqueueBatch(upTo(200).map((i) => ({ value: String(400 + i), topic: 'ab'[i % 2] })))
  await producer.enqueue('600', { topic: 'a' })
  await Promise.all(sent)
  await assert.rejects(producer.send('x'), (e) => e instanceof InvalidError && /names no topic/.test(e.message))
  await assert.rejects(producer.send('x', { topic: 7 }), TypeError)
  assert.throws(() => client.producer(7), TypeError)
  const [refused, delivered] = await producer.sendBatch([{ value: 'x' }, { value: '601', topic: 'b' }])
  assert.ok(refused instanceof InvalidError)
  assert.equal(delivered.partition, 0)
  await producer.close()
  await assert.rejects(producer.send('x', { topic: 'a' }), /any topic is closed/)
  assert.deepEqual(await numbers(client, 'a'), upTo(301).map((i) => 2 * i))
  assert.deepEqual(await numbers(client, 'b'), upTo(301).map((i) => 2 * i + 1))
  const own = client.producer('a')
  await own.send('x', { topic: 'a' })
  await assert.rejects(own.send('x', { topic: 'b' }), /sends to that alone/)
  await client.close()
})

test('what is sent is taken at the call', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const [buffer, order] = [Buffer.from('AAAA'), { a: 1 }]
  const sent = [producer.send(buffer, { key: buffer }), producer.send(order)]
  buffer.fill('B')
  order.a = 2
  await Promise.all(sent)
  const [first, second] = await read(client, 't')
  assert.deepEqual([first.text(), first.key.toString(), second.json()], ['AAAA', 'AAAA', { a: 1 }])
  await client.close()
})

test('every call takes value, key and headers as they are, open or not', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  for (const isOpen of [false, true]) {
    const topic = isOpen ? 'open' : 'unopened'
    const producer = client.producer(topic)
    if (isOpen) await producer.open()
    const bytes = Buffer.from('AAAA')
    const order = { a: [1] }
    const message = (value) => ({ value, key: bytes, headers: [['h', bytes]], timestampMs: new Date(5) })
    const given = upTo(8).map((i) => message(i < 4 ? bytes : order))
    const calls = given.map(({ value, ...options }, i) => {
      if (i % 4 === 0) return producer.send(value, options)
      if (i % 4 === 1) return producer.enqueue(value, options)
      return i % 4 === 2 ? producer.sendBatch([given[i]]) : producer.enqueueBatch([given[i]])
    })
    bytes.fill('B')
    order.a.push(2)
    for (const one of given) {
      one.value = one.key = 'C'
      one.headers[0][0] = 'c'
      one.timestampMs.setTime(6)
    }
    await Promise.all(calls)
    await producer.close()
    const stored = (await read(client, topic)).map((r) => [r.text(), r.key.toString(), r.headers.map(([name, data]) => [name, data.toString()]), r.timestampMs])
    const expected = ['AAAA', '{"a":[1]}'].flatMap((text) => upTo(4).map(() => [text, 'AAAA', [['h', 'AAAA']], 5]))
    assert.deepEqual(stored, expected, topic)
  }
  await client.close()
})

test('bytes are bytes, of whichever kind and realm', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const bytes = [1, 2, 255]
  const same = [
    Buffer.from(bytes),
    new Uint8Array(bytes),
    new Uint8ClampedArray(bytes),
    new Uint8Array(bytes).buffer,
    new DataView(new Uint8Array([0, ...bytes]).buffer, 1),
    runInNewContext('new Uint8Array([1, 2, 255])'),
    runInNewContext('new Uint8Array([1, 2, 255]).buffer'),
  ]
  for (const value of same) await producer.send(value, { headers: new Map([['h', value]]), timestampMs: new Date(5) })
  await producer.send(runInNewContext('({ a: [1] })'), { headers: [['h', null]] })
  await producer.close()
  const records = await read(client, 't')
  assert.deepEqual(records.pop().json(), { a: [1] })
  for (const record of records) {
    assert.deepEqual([...record.value], bytes)
    assert.deepEqual([...record.headers[0][1]], bytes)
    assert.equal(record.timestampMs, 5)
  }
  await client.close()
})

test('what is no data is refused, and nothing is stored', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const noData = [42, true, 5n, Symbol('s'), undefined, () => 1, new Map([['a', 1]]), new Set(), new Date(), new Error('x'), /x/]
  noData.push(new Blob(['x']), Promise.resolve('x'), { then: () => {} }, runInNewContext('new Map()'), { toJSON: () => undefined })
  for (const value of noData) {
    await assert.rejects(producer.send(value), (e) => e instanceof TypeError && e.message.startsWith('value '))
    await assert.rejects(producer.enqueue(value), TypeError)
    await assert.rejects(producer.sendBatch([{ value: 'fine' }, { value }]), TypeError)
    await assert.rejects(producer.enqueueBatch([{ value: 'fine' }, { value }]), TypeError)
    if (value !== undefined) await assert.rejects(producer.send('x', { key: value }), /key is /)
    await assert.rejects(producer.send('x', { headers: { h: value } }), /header "h" is /)
  }
  await assert.rejects(producer.send('x', { headers: 'abc' }), /headers is string/)
  await assert.rejects(producer.send('x', { partitions: 7 }), /options of send have no "partitions"/)
  await assert.rejects(producer.enqueue('x', { Key: 'k' }), /have no "Key"/)
  await assert.rejects(producer.sendBatch('abc'), /messages is string; an array/)
  await assert.rejects(producer.sendBatch([{ value: 'x', timestamp: 5 }]), /have no "timestamp"/)
  for (const timestampMs of [NaN, Infinity, -2, 1.5, 1e20, new Date(NaN)]) {
    await assert.rejects(producer.send('x', { timestampMs }), InvalidError)
  }
  await assert.rejects(producer.send('x', { timestampMs: '5' }), TypeError)
  assert.throws(() => client.producer('t', { linger: 5 }), /have no "linger"/)
  assert.throws(() => client.producer('t', { acks: 'some' }), InvalidError)
  await producer.send(null)
  await producer.close()
  assert.deepEqual((await read(client, 't')).map((r) => r.value), [null])
  await client.close()
})

test('headers are what fetch calls so too, and what is no pair or no JSON is refused', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  await producer.send('x', { headers: new Headers({ a: '1' }) })
  await producer.send('x', { headers: runInNewContext("new Map([['a', '1']])") })
  for (const name of [null, undefined, 7, Buffer.from('h'), Symbol('s')]) {
    await assert.rejects(producer.send('x', { headers: [[name, 'v']] }), (e) => e instanceof TypeError && /no pair of a name/.test(e.message))
  }
  for (const pairs of [['h'], ['hv'], [['h']], [['h', 'v', 'w']], [null], [{ h: 'v' }]]) await assert.rejects(producer.send('x', { headers: pairs }), TypeError)
  const circular = {}
  circular.itself = circular
  const getter = {
    get a() {
      throw new RangeError('mine')
    },
  }
  for (const [value, expected] of [[{ a: 1n }, TypeError], [circular, TypeError], [getter, RangeError]]) {
    await assert.rejects(producer.send(value), expected)
    await assert.rejects(producer.enqueue(value), expected)
    await assert.rejects(producer.sendBatch([{ value: 'fine' }, { value }]), expected)
    await assert.rejects(producer.enqueueBatch([{ value: 'fine' }, { value }]), expected)
  }
  await producer.close()
  const stored = await read(client, 't')
  assert.deepEqual(stored.map((r) => r.headers.map(([name, data]) => [name, data.toString()])), [[['a', '1']], [['a', '1']]])
  await client.close()
})

test('one bad record does not keep the others, and a flush says how many were lost', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  const producer = client.producer('t')
  const outcomes = await producer.sendBatch([{ value: 'a' }, { value: Buffer.alloc(2_000_000) }, { value: 'b' }])
  assert.deepEqual(outcomes.map((o) => o instanceof InvalidError), [false, true, false])
  await producer.enqueueBatch([{ value: 'c' }, { value: Buffer.alloc(2_000_000) }, { value: Buffer.alloc(2_000_000) }])
  await assert.rejects(producer.flush(), /2 records were not delivered/)
  await producer.flush()
  await producer.close()
  assert.deepEqual((await read(client, 't')).map((r) => r.text()), ['a', 'b', 'c'])
  await client.close()
})

test('a send is bounded from the call on, though nothing is open', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await broker.kill()
  const since = performance.now()
  await assert.rejects(client.producer('t', { deliveryTimeoutMs: 1500 }).send('x'), TimedOutError)
  assert.ok(performance.now() - since < 3000)
  await client.close()
})

test('what waits for its topic to be found is bounded too, for whoever flushes or closes', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await broker.kill()
  for (const end of ['flush', 'close']) {
    const producer = client.producer('t', { deliveryTimeoutMs: 1500 })
    await producer.enqueue('x')
    const since = performance.now()
    await assert.rejects(producer[end](), TimedOutError)
    assert.ok(performance.now() - since < 3000, end)
    assert.equal(producer.pending, 0)
    await producer.close()
  }
  await client.close()
})

test('the error of a flush says how many records were lost, and which was the first', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  for (const end of ['flush', 'close']) {
    const producer = client.producer('t')
    await producer.enqueue('fine', { key: 'none' })
    for (const key of ['one', 'two', 'three']) await producer.enqueue(Buffer.alloc(2_000_000), { key })
    await assert.rejects(producer[end](), (e) => {
      assert.ok(e instanceof InvalidError)
      assert.match(e.message, /3 records were not delivered/)
      assert.deepEqual([e.topic, e.key.toString(), e.records], ['t', 'one', 3])
      return true
    })
    await producer.close()
  }
  assert.deepEqual((await read(client, 't')).map((r) => r.text()), ['fine', 'fine'])
  await client.close()
})

test('each enqueued record may be told of, and a flush has a time', async (t) => {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  const producer = client.producer('t', { deliveryTimeoutMs: 3_000 })
  const told = []
  for (let i = 0; i < 1_000; i++) await producer.enqueue(String(i), { onDelivery: (outcome) => told.push([i, outcome]) })
  await producer.enqueue('not told of')
  await producer.enqueue(Buffer.alloc(2 << 20), { onDelivery: (outcome) => told.push([-1, outcome]) })
  await producer.flush({ timeoutMs: 30_000 })
  await new Promise(setImmediate)
  assert.equal(producer.pending, 0)
  const outcomes = new Map(told)
  assert.equal(told.length, 1_001)
  assert.ok(outcomes.get(-1) instanceof InvalidError)
  const offsets = Array.from({ length: 1_000 }, (_, i) => outcomes.get(i).offset)
  assert.deepEqual(offsets, [...offsets].sort((a, b) => a - b))
  await assert.rejects(producer.enqueue('x', { onDelivery: 3 }), TypeError)
  await broker.kill()
  await producer.enqueue('y')
  await assert.rejects(producer.flush({ timeoutMs: 100 }), (e) => e.code === 'timeout' && /1 record of .* has no outcome/.test(e.message))
  assert.equal(producer.pending, 1)
  // What a flush that was given up would have found is the next one's.
  await assert.rejects(producer.flush(), (e) => e.code === 'timeout' && /delivery time-out/.test(e.message))
  assert.equal(producer.pending, 0)
  await producer.close()
  await client.close()
})

test('a record may name its partition, and errors say what they are about', async (t) => {
  const { address, ca } = await startBroker(t)
  const client = await connect(address, { ca })
  await client.createTopic('six', { partitions: 6 })
  const producer = client.producer('six')
  const at = await Promise.all([0, 1, 2, 3, 4, 5].map((partition) => producer.send('x', { key: 'same', partition })))
  const second = at[4].offset + 1
  assert.deepEqual(at.map((d) => d.partition), [0, 1, 2, 3, 4, 5])
  await producer.enqueueBatch([{ value: 'y', partition: 4 }])
  await producer.flush()
  await assert.rejects(producer.send('x', { key: 'k', partition: 6 }), (e) => {
    assert.match(e.message, /partition 6 is asked for, and the topic has 6/)
    assert.deepEqual([e.code, e.topic, e.key, e.records], ['invalid', 'six', Buffer.from('k'), 1])
    return true
  })
  await assert.rejects(producer.send('x', { partition: -1 }), /partition is -1/)
  await assert.rejects(producer.send('x', { partition: '1' }), TypeError)
  await client.uploadPlugin('by-carrier', join(plugins, 'by_carrier.wasm'))
  await client.createTopic('pinned', { partitions: 6, partitioner: 'by-carrier' })
  const pinned = client.producer('pinned')
  await assert.rejects(pinned.send({ carrier: 'UA' }, { partition: 1 }), /the topic's partitioner decides/)
  await assert.rejects(pinned.send('no flight'), (e) => e.plugin.startsWith('by-carrier@1') && e.reason.length > 0)
  // Partitions may start where each of them is told to.
  const first = async (start) => {
    const found = []
    for await (const record of client.consumer('six', { start, untilEnd: true })) found.push([record.partition, record.text()])
    return found.sort()
  }
  assert.deepEqual(await first(new Map([[0, 'earliest'], [4, second]])), [[0, 'x'], [4, 'y']])
  assert.deepEqual(await first(new Map([[{ topic: 'six', partition: 5 }, { timestamp: 0 }]])), [[5, 'x']])
  await assert.rejects(first(new Map([[6, 0]])), /which is not read/)
  await assert.rejects(client.consumer('six', { group: 'g', start: new Map([[0, 1]]) }).open(), /a group goes on/)
  await client.close()
})

test('a flush ends after whoever is told of a delivery has been told', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  t.after(() => client.close())
  const producer = client.producer('t')
  for (const [count, end] of [[1, () => producer.flush()], [500, () => producer.flush()], [10, () => producer.close()]]) {
    let told = 0
    for (let i = 0; i < count; i++) producer.enqueue('x', { onDelivery: () => (told += 1) })
    await end()
    assert.equal(told, count)
  }
})

test('an error of a record names its topic and the partition that was asked for', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  t.after(() => client.close())
  await client.createTopic('t')
  await assert.rejects(client.producer('t').send('x', { partition: 9 }), (e) => e.topic === 't' && e.partition === 9)
  await assert.rejects(client.producer('t').send('x', { topic: 'u' }), (e) => e.topic === 't')
  await assert.rejects(client.producer().send('x'), (e) => e.topic === undefined)
})

test('what is called for leaves within a turn that does not end', async (t) => {
  const broker = await startBroker(t)
  const client = await broker.connect()
  await client.createTopic('t')
  const producer = await client.producer('t').open()
  await producer.send('first')
  const work = (ms) => {
    for (const end = performance.now() + ms; performance.now() < end; );
  }
  const enqueue = async () => void (await producer.enqueue('x'))
  const send = async () => void producer.send('x')
  for (const [call, ms] of [[enqueue, 1], [enqueue, 20], [send, 1], [send, 20]]) {
    // Nothing lets go of the thread but a call of the producer's.
    let hasEnded = false
    setImmediate(() => (hasEnded = true))
    const count = 800 / ms
    let least = Infinity
    for (let i = 1; i <= count; i++) {
      await call()
      work(ms)
      if (i > count / 2) least = Math.min(least, producer.pending)
    }
    // An enqueue that hands over ends the turn: timers and signals come in between.
    assert.equal(hasEnded, call === enqueue)
    assert.ok(least < 20, `${call}: ${least} of ${count} were on their way at the least, with ${ms} ms of work for each`)
    await producer.flush()
  }
  assert.equal((await read(client, 't')).length, 1 + 2 * (800 + 40))
  await producer.close()
  await client.close()
})
