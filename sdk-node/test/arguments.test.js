// An argument of the wrong type is a TypeError that names it, and text that has no bytes an InvalidError: nothing comes of it, and nothing is stored under another name.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { inspect } from 'node:util'

import './broker.js'
import thalweg, { ConsumerRecord, InvalidError, connect } from '../lib/index.js'
import { Broker, Cluster, findBinary, unique, useBroker } from '../lib/testing/index.js'

const broker = useBroker({ before, after })
const HALF = 'a\ud800'

/** Things of every type, by the names that are used below. */
const THINGS = new Map([
  ['undefined', undefined],
  ['null', null],
  ['boolean', true],
  ['number', 7],
  ['bigint', 5n],
  ['string', 'x'],
  ['symbol', Symbol('s')],
  ['function', () => 1],
  ['object', {}],
  ['array', []],
  ['map', new Map()],
  ['promise', Promise.resolve(0)],
])

/**
 * Calls with everything but what an argument may be; each time it is a TypeError that names the argument, and asks for an await where that is what is missing. Text that is no
 * position is of the right type.
 */
async function refuses(method, argument, may, call) {
  for (const [type, thing] of THINGS) {
    if (may.split(' ').includes(type)) continue
    const isRefused = (error) => {
      const said = `${method}, ${argument} is ${type}: ${error}`
      if (type === 'string' && error instanceof InvalidError) return assert.match(error.message, / is 'x', which is no position; /, said) ?? true
      assert.ok(error instanceof TypeError, said)
      assert.ok(error.message.includes(argument), said)
      assert.equal(error.message.includes('is an await missing?'), type === 'promise', said)
      return true
    }
    await assert.rejects(async () => call(thing), isRefused, `${method}, ${argument} is ${type}`)
  }
}

/** The same for options, which may be left out. */
async function refusesOptions(method, types, call) {
  for (const [name, may] of Object.entries(types)) {
    for (const one of name.split(' ')) await refuses(method, one, `undefined null ${may}`, (value) => call({ [one]: value }))
  }
}

const DATA = 'string'

test('of several messages, the one that is no record is named', async () => {
  const client = await broker.connect()
  const topic = unique('batch')
  const producer = client.producer(topic)
  const good = { value: 'x' }
  const own = new TypeError('of my own')
  for (const [wrong, said, Class] of [
    [{ value: 5 }, /^messages\[1\]: value is number;/, TypeError],
    [{ value: 'x', key: {} }, /^messages\[1\]: key is Object;/, TypeError],
    [{ value: 'x', headers: 7 }, /^messages\[1\]: headers is number;/, TypeError],
    [{ value: 'x', headers: { a: 7 } }, /^messages\[1\]: header "a" is number;/, TypeError],
    [{ value: 'x', partition: -1 }, /^messages\[1\]: partition is -1;/, InvalidError],
    [{ value: 'x', timestampMs: 0.5 }, /^messages\[1\]: timestampMs is 0.5;/, InvalidError],
    [{ value: 'x', topic: 7 }, /^messages\[1\]: topic is number;/, TypeError],
    [{ valu: 'x' }, /^messages\[1\]: fields have no "valu";/, TypeError],
    [undefined, /^messages\[1\]: fields are undefined;/, TypeError],
    [{ value: { toJSON: () => { throw own } } }, /^messages\[1\]: value has no JSON: of my own/, TypeError],
  ]) {
    for (const send of ['sendBatch', 'enqueueBatch']) {
      await assert.rejects(async () => producer[send]([good, wrong, good]), (e) => e instanceof Class && said.test(e.message), inspect(wrong))
    }
  }
  await producer.flush()
  assert.deepEqual((await producer.sendBatch([good])).map(({ partition }) => partition), [0])
  await producer.close()
  await client.deleteTopic(topic)
  await client.close()
})

test('a class that only the SDK makes objects of says what makes them', () => {
  const { Client, Producer, Consumer, Batch } = thalweg
  const how = new Map([
    [Client, /connect\(address\)/], [Producer, /client\.producer\(/], [Consumer, /client\.consumer\(/], [ConsumerRecord, /ConsumerRecord\.of\(/], [Batch, /consumer\.batches\(/],
  ])
  for (const [Class, said] of how) {
    class Mock extends Class {}
    for (const make of [() => new Class(), () => new Class('t', null), () => new Class('t', {}), () => new Mock()]) {
      assert.throws(make, (e) => e instanceof TypeError && said.test(e.message), Class.name)
    }
  }
})

test('the client refuses what is of another type', async () => {
  const { address, ca } = broker
  const client = await broker.connect()
  await refuses('connect', 'address', 'string', (x) => connect(x, { ca }))
  await refuses('connect', 'options', 'undefined object', (x) => connect(address, x))
  await refusesOptions('connect', { 'clientId ca': 'string', timeoutMs: 'number' }, (o) => connect(address, { ca, ...o }))
  for (const pem of ['cert', 'key']) await refuses('connect', pem, 'undefined null string', (x) => connect(address, { ca, cert: ca, key: ca, [pem]: x }))
  await refuses('createTopic', 'name', 'string', (x) => client.createTopic(x))
  await refuses('createTopic', 'options', 'undefined object', (x) => client.createTopic('t', x))
  const numbers = 'partitions retentionMs retentionBytes segmentBytes segmentMs timestampAheadMaxMs replicationFactor'
  await refusesOptions('createTopic', { [numbers]: 'number', partitioner: 'string', partitionerConfig: DATA }, (o) => client.createTopic('t', o))
  await refuses('deleteTopic', 'name', 'string', (x) => client.deleteTopic(x))
  await refuses('addPartitions', 'topic', 'string', (x) => client.addPartitions(x, 3))
  await refuses('addPartitions', 'total', 'number', (x) => client.addPartitions('t', x))
  await refuses('offsets', 'topic', 'string', (x) => client.offsets(x, 'latest'))
  await refuses('offsets', 'at', 'number', (x) => client.offsets('t', x))
  await refuses('uploadPlugin', 'name', 'string', (x) => client.uploadPlugin(x, Buffer.from('x')))
  await refuses('uploadPlugin', 'module', 'string', (x) => client.uploadPlugin('p', x))
  await refuses('setPartitioner', 'topic', 'string', (x) => client.setPartitioner(x, null))
  await refuses('setPartitioner', 'partitioner', 'string null', (x) => client.setPartitioner('t', x))
  await refuses('setPartitioner', 'partitionerConfig', `undefined null ${DATA}`, (x) => client.setPartitioner('t', null, x))
  await refuses('describeGroup', 'group', 'string', (x) => client.describeGroup(x))
  await refuses('deleteGroup', 'group', 'string', (x) => client.deleteGroup(x))
  await refuses('resetGroup', 'group', 'string', (x) => client.resetGroup(x, 't', 'latest'))
  await refuses('resetGroup', 'topic', 'string', (x) => client.resetGroup('g', x, 'latest'))
  await refuses('resetGroup', 'to', 'number', (x) => client.resetGroup('g', 't', x))
  await refuses('resetGroup', 'options', 'undefined object', (x) => client.resetGroup('g', 't', 'latest', x))
  await refusesOptions('resetGroup', { partitions: 'array', dryRun: 'boolean' }, (o) => client.resetGroup('g', 't', 'latest', o))
  await refuses('resetGroup', 'partitions[0]', 'number', (x) => client.resetGroup('g', 't', 'latest', { partitions: [x] }))
  assert.deepEqual(await client.topics(), [])
  // null is as good as left out.
  const none = Object.fromEntries(numbers.split(' ').map((name) => [name, null]))
  await client.createTopic('t', { ...none, partitioner: null, partitionerConfig: null })
  await (await connect(address, { ca, clientId: null, cert: null, key: null, timeoutMs: null })).close()
  await client.deleteTopic('t')
  await client.close()
})

test('producers refuse what is of another type', async () => {
  const client = await broker.connect()
  await refuses('producer', 'topic', 'undefined string object array map', (x) => client.producer(x))
  await refuses('producer', 'options', 'undefined object', (x) => client.producer('t', x))
  await refusesOptions('producer', { 'lingerMs batchBytes deliveryTimeoutMs bufferBytes': 'number', 'compression acks': 'string' }, (o) => client.producer('t', o))
  const producer = client.producer(unique(), { lingerMs: null, batchBytes: null, compression: null, acks: null, deliveryTimeoutMs: null, bufferBytes: null })
  for (const send of ['send', 'enqueue']) {
    await refuses(send, 'value', `null object array ${DATA}`, (x) => producer[send](x))
    await refuses(send, 'options', 'undefined object', (x) => producer[send]('x', x))
    const types = { key: DATA, headers: 'object array map', timestampMs: 'number', partition: 'number' }
    await refusesOptions(send, types, (o) => producer[send]('x', o))
    await refuses(send, 'topic', 'undefined string', (topic) => producer[send]('x', { topic }))
  }
  await refuses('enqueue', 'onDelivery', 'undefined function', (onDelivery) => producer.enqueue('x', { onDelivery }))
  for (const send of ['sendBatch', 'enqueueBatch']) {
    await refuses(send, 'messages', 'array map', (x) => producer[send](x))
    await refuses(send, 'message', 'object', (x) => producer[send]([x]))
  }
  await refuses('flush', 'options', 'undefined object', (x) => producer.flush(x))
  await refuses('flush', 'timeoutMs', 'undefined null number', (timeoutMs) => producer.flush({ timeoutMs }))
  await producer.send('x')
  await producer.enqueue('x')
  await producer.flush({ timeoutMs: null })
  assert.equal(producer.pending, 0)
  await producer.close()
  await client.close()
})

test('consumers refuse what is of another type', async () => {
  const client = await broker.connect()
  const topic = unique()
  await client.createTopic(topic)
  await refuses('consumer', 'topics', 'string array', (x) => client.consumer(x))
  for (const topics of [new String('ab'), new Map([['t', 1]]), new Uint8Array(2), ['t'].values()]) {
    assert.throws(() => client.consumer(topics), (e) => e instanceof TypeError && e.message.startsWith(`topics is ${Object.prototype.toString.call(topics).slice(8, -1)}; `))
  }
  await refuses('consumer', 'topics[1]', 'string', (x) => client.consumer([topic, x]))
  await refuses('consumer', 'options', 'undefined object', (x) => client.consumer(topic, x))
  const types = {
    partitions: 'array',
    start: 'number map',
    'untilEnd waitForTopics': 'boolean',
    'filter filterConfig onFilterFailure onBadRecord outOfRange group instance assignor': 'string',
    'bufferBytes sessionTimeoutMs autoCommitMs maxProcessingMs closeTimeoutMs': 'number',
    onRebalance: 'function',
    signal: '',
  }
  await refusesOptions('consumer', types, (o) => client.consumer(topic, o))
  await refuses('consumer', 'partitions[0]', 'number', (x) => client.consumer(topic, { partitions: [x] }))
  const none = Object.fromEntries(Object.keys(types).flatMap((names) => names.split(' ').map((name) => [name, null])))
  // To commit by hand, as null says, is a group's matter.
  delete none.autoCommitMs
  await (await client.consumer(topic, none).open()).close()
  const consumer = await client.consumer(topic, { group: 'g' }).open()
  for (const read of ['next', 'nextBatch', 'batches']) await refuses(read, 'options', 'undefined object', (x) => consumer[read](x))
  for (const read of ['nextBatch', 'batches']) await refuses(read, 'maxRecords', 'undefined null number', (maxRecords) => consumer[read]({ maxRecords }))
  for (const read of ['next', 'nextBatch']) {
    await refuses(read, 'timeoutMs', 'undefined null number', (timeoutMs) => consumer[read]({ timeoutMs }))
    // No time is not a time of nothing.
    const waiting = consumer[read]({ timeoutMs: null })
    const producer = client.producer(topic)
    await producer.send('x')
    await producer.close()
    assert.notEqual(await waiting, null)
  }
  for (const about of ['pause', 'resume', 'position', 'lag', 'committed', 'seek']) {
    await refuses(about, 'at', 'number', (x) => consumer[about](x, 0))
    await refuses(about, 'at.topic', 'undefined string', (x) => consumer[about]({ topic: x, partition: 0 }, 0))
    await refuses(about, 'at.partition', 'number', (x) => consumer[about]({ topic, partition: x }, 0))
  }
  await refuses('seek', 'to', 'number', (x) => consumer.seek(0, x))
  await refuses('commit', 'offsets', 'undefined array', (x) => consumer.commit(x))
  await refuses('commit', 'offsets[0]', '', (x) => consumer.commit([x]))
  await refuses('commit', 'offsets[0].topic', 'undefined string', (x) => consumer.commit([{ topic: x, partition: 0, offset: 0 }]))
  await refuses('commit', 'offsets[0].partition', 'number', (partition) => consumer.commit([{ partition, offset: 0 }]))
  await refuses('commit', 'offsets[0].offset', 'number', (offset) => consumer.commit([{ partition: 0, offset }]))
  await refuses('consumer', 'a key of start', 'number', (x) => client.consumer(topic, { start: new Map([[x, 0]]) }))
  await refuses('consumer', 'partition of a key of start', 'number', (partition) => client.consumer(topic, { start: new Map([[{ partition }, 0]]) }))
  await refuses('consumer', 'a value of start', 'number', (x) => client.consumer(topic, { start: new Map([[0, x]]) }))
  await refuses('consumer', 'start.timestamp', 'number', (timestamp) => client.consumer(topic, { start: { timestamp } }))
  await refuses('offsets', 'at.timestamp', 'number', (timestamp) => client.offsets(topic, { timestamp }))
  await refuses('resetGroup', 'to.timestamp', 'number', (timestamp) => client.resetGroup('g', topic, { timestamp }))
  await refuses('seek', 'to.timestamp', 'number', (timestamp) => consumer.seek(0, { timestamp }))
  await refuses('subscribe', 'topics', 'string array', (x) => consumer.subscribe(x))
  // Fields that do not exist are as options that do not.
  for (const at of [{ timestamp: 1, offset: 5 }, { timestamps: 1 }, { offset: 5 }]) {
    const unknown = (what) => (e) => e instanceof TypeError && e.message.startsWith(`fields of ${what} have no "${Object.keys(at).find((name) => name !== 'timestamp')}"; `)
    assert.throws(() => client.consumer(topic, { start: at }), unknown('start'))
    assert.throws(() => client.consumer(topic, { start: new Map([[0, at]]) }), unknown('a value of start'))
    await assert.rejects(client.offsets(topic, at), unknown('at'))
    await assert.rejects(client.resetGroup('g', topic, at), unknown('to'))
    await assert.rejects(consumer.seek(0, at), unknown('to'))
  }
  // What is of the right type and out of range stays a matter of the request.
  for (const n of [-1, 0.5, 2 ** 31, 2 ** 32, NaN]) {
    const named = (name) => (e) => e instanceof InvalidError && e.message.startsWith(`${name} is ${n}; a whole number from 0 to `)
    for (const about of ['pause', 'resume', 'position', 'lag', 'committed', 'seek']) {
      await assert.rejects(consumer[about](n, 0), named('at'))
      await assert.rejects(consumer[about]({ topic, partition: n }, 0), named('at.partition'))
    }
    await assert.rejects(consumer.commit([{ partition: n, offset: 0 }]), named('offsets[0].partition'))
  }
  for (const n of [-1, 0.5, 2 ** 53, NaN, 'middle', { timestamp: -1 }, { timestamp: 2 ** 53 }, { timestamp: new Date(NaN) }]) {
    const named = (name) => (e) => e instanceof InvalidError && e.message.startsWith(`${name} is ${inspect(n)}, which is no position; `)
    await assert.rejects(async () => client.consumer(topic, { start: n }), named('start'))
    await assert.rejects(client.offsets(topic, n), named('at'))
    await assert.rejects(client.resetGroup('g', topic, n), named('to'))
    await assert.rejects(consumer.seek(0, n), named('to'))
    if (typeof n === 'number') await assert.rejects(consumer.commit([{ partition: 0, offset: n }]), (e) => e instanceof InvalidError && e.message.startsWith(`offsets[0].offset is ${n}; `))
  }
  // Taken at the call, as records are.
  const at = { topic, partition: 0 }
  const paused = consumer.pause(at)
  at.partition = 5
  await paused
  assert.deepEqual(await consumer.paused(), [{ topic, partition: 0 }])
  await consumer.close()
  await client.close()
})

test('what has no bytes or no JSON, and a file that is not there, names the argument', async () => {
  const { address, ca } = broker
  const client = await broker.connect()
  const topic = unique()
  await client.createTopic(topic)
  const producer = client.producer(topic)
  const detached = () => {
    const bytes = new Uint8Array(8)
    structuredClone(bytes, { transfer: [bytes.buffer] })
    return bytes
  }
  const gone = (name) => (e) => e instanceof TypeError && e.message.startsWith(`${name} has no bytes any more`)
  for (const bytes of [detached(), detached().buffer, new DataView(new ArrayBuffer(8))]) {
    if (bytes instanceof DataView) structuredClone(bytes.buffer, { transfer: [bytes.buffer] })
    for (const send of ['send', 'enqueue']) {
      await assert.rejects(producer[send](bytes), gone('value'))
      await assert.rejects(producer[send]('x', { key: bytes }), gone('key'))
      await assert.rejects(producer[send]('x', { headers: { h: bytes } }), gone('header "h"'))
    }
    await assert.rejects(producer.sendBatch([{ value: bytes }]), gone('messages[0]: value'))
    assert.throws(() => ConsumerRecord.of({ value: bytes }), gone('value'))
    for (const pem of ['ca', 'cert', 'key']) await assert.rejects(connect(address, { ca, cert: ca, key: ca, [pem]: bytes }), gone(pem))
    await assert.rejects(client.uploadPlugin('p', bytes), gone('module'))
    await assert.rejects(client.createTopic('u', { partitionerConfig: bytes }), gone('partitionerConfig'))
  }
  const circle = {}
  circle.self = circle
  let deep = []
  for (let i = 0; i < 100_000; i++) deep = [deep]
  for (const value of [circle, [circle], { n: 5n }, deep]) {
    const isNamed = (e) => e instanceof TypeError && /^value has no JSON: (Maximum call stack|Converting circular|Do not know how to serialize a BigInt)/.test(e.message)
    for (const send of ['send', 'enqueue']) await assert.rejects(producer[send](value), isNamed)
    assert.throws(() => ConsumerRecord.of({ value }), isNamed)
  }
  // Bytes that go while the call reads its options leave nothing in the next record.
  const late = new Uint8Array(8)
  const headers = { get h() { return (structuredClone(late, { transfer: [late.buffer] }), 'x') } }
  const sent = producer.send(late, { key: 'k', headers })
  const next = producer.send('next')
  await assert.rejects(sent, TypeError)
  const { offset } = await next
  const reader = client.consumer(topic, { start: offset })
  assert.equal((await reader.next()).text(), 'next')
  await reader.close()
  // An error of the user's own is theirs.
  const mine = new Error('mine')
  await assert.rejects(producer.send({ toJSON: () => { throw mine } }), (e) => e === mine)
  const no = '/nowhere/ca.pem'
  for (const pem of ['ca', 'cert', 'key']) {
    const unread = (path) => (e) => e instanceof InvalidError && e.message.startsWith(`${pem}: ${path} cannot be read as a file (`) && e.message.endsWith('; give the path of one that is there, or PEM as a string or bytes')
    const given = (path) => connect(address, { ca, cert: ca, key: ca, [pem]: path })
    for (const path of [no, '', '/tmp', 'a\0b']) await assert.rejects(given(path), unread(inspect(path)))
    // What may be a key is not shown.
    const secret = 'MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg'
    await assert.rejects(given(secret), (e) => unread('what was given')(e) && !inspect(e).includes(secret))
  }
  const module = (path) => (e) => e instanceof InvalidError && e.message.startsWith(`module: ${inspect(String(path))} cannot be read as a file (`) && e.message.endsWith('or its bytes')
  for (const path of ['/nowhere/p.wasm', new URL('file:///nowhere/p.wasm'), new URL('https://example.com/p.wasm')]) await assert.rejects(client.uploadPlugin('p', path), module(path))
  assert.equal(producer.pending, 0)
  await producer.send('x')
  await producer.close()
  await client.close()
})

test('a number out of its range is refused by name, and none is cut where it crosses', async () => {
  const { address, ca } = broker
  const client = await broker.connect()
  const topic = unique()
  await client.createTopic(topic)
  const consumer = await client.consumer(topic, { group: unique() }).open()
  const producer = client.producer(topic)
  const refused = async (name, numbers, call) => {
    for (const n of [NaN, Infinity, -Infinity, 1e308, 2 ** 53, ...numbers]) {
      const isRefused = (e) => e instanceof InvalidError && e.message.startsWith(`${name} is ${n}; a `)
      await assert.rejects(async () => call({ [name]: n }), isRefused, `${name} ${n}`)
    }
  }
  const [whole, time] = [[-1, 0, 1.5], [-1, 3_155_760_000_001]]
  const create = (o) => client.createTopic(unique(), o)
  for (const name of ['partitions', 'replicationFactor']) await refused(name, [...whole, 2 ** 32, 2 ** 32 + 1], create)
  for (const name of ['segmentBytes', 'segmentMs']) await refused(name, whole, create)
  for (const name of ['retentionMs', 'retentionBytes', 'timestampAheadMaxMs']) await refused(name, [-2, 0.5], create)
  const produce = (o) => client.producer(topic, o)
  await refused('batchBytes', [...whole, 2 ** 32, 2 ** 32 + 100], produce)
  await refused('bufferBytes', whole, produce)
  for (const name of ['lingerMs', 'deliveryTimeoutMs']) await refused(name, time, produce)
  const consume = (o) => client.consumer(topic, { group: 'g', ...o })
  await refused('bufferBytes', whole, consume)
  await refused('sessionTimeoutMs', [-1, 2 ** 32, 2 ** 32 + 10_000], consume)
  for (const name of ['autoCommitMs', 'maxProcessingMs', 'closeTimeoutMs']) await refused(name, time, consume)
  await refused('timeoutMs', time, (o) => connect(address, { ca, ...o }))
  await refused('timeoutMs', time, (o) => producer.flush(o))
  await refused('timeoutMs', time, (o) => consumer.next(o))
  await refused('timeoutMs', time, (o) => consumer.nextBatch(o))
  for (const read of ['nextBatch', 'batches']) await refused('maxRecords', whole, (o) => consumer[read](o))
  for (const send of ['send', 'enqueue']) await refused('partition', [-1, 0.5, 2 ** 31, 2 ** 32], (o) => producer[send]('x', o))
  await assert.rejects(producer.sendBatch([{ value: 'x', partition: 2 ** 32 }]), /^InvalidError: messages\[0\]: partition is 4294967296; a /)
  await assert.rejects(async () => consume({ partitions: [2 ** 32] }), /^InvalidError: partitions\[0\] is 4294967296; a /)
  // Every time may be as long, also beyond a timer's.
  const long = { timeoutMs: 2 ** 31 }
  await producer.send('x')
  await producer.flush(long)
  const reading = client.consumer(topic, { start: 'earliest', untilEnd: true })
  assert.equal((await reading.next(long)).text(), 'x')
  assert.equal(await reading.nextBatch(long), null)
  for (const lingerMs of [2 ** 31, 2 ** 32]) await client.producer(topic, { lingerMs, deliveryTimeoutMs: lingerMs }).send('x')
  await (await connect(address, { ca, timeoutMs: 2 ** 32 })).close()
  for (const one of [reading, consumer, producer, client]) await one.close()
})

test('records and brokers that tests make refuse what is of another type', async () => {
  await refuses('of', 'parts', 'undefined object', (x) => ConsumerRecord.of(x))
  const types = { value: 'string object array', key: DATA, headers: 'object array map', topic: 'string', 'partition offset timestampMs': 'number' }
  await refusesOptions('of', types, (o) => ConsumerRecord.of(o))
  for (const Kit of [Broker, Cluster]) {
    await refuses(Kit.name, 'options', 'undefined object', (x) => new Kit(x))
    const options = { 'directory binary': 'string', arguments: 'array', [Kit === Broker ? 'port' : 'brokers']: 'number', startTimeoutMs: 'number' }
    await refusesOptions(Kit.name, options, (o) => new Kit(o))
    await refuses(Kit.name, 'arguments[0]', 'string', (x) => new Kit({ arguments: [x] }))
  }
  await refuses('connect', 'options', 'undefined object', (x) => broker.connect(x))
  await refuses('connect', 'timeoutMs', 'undefined null number', (timeoutMs) => broker.connect({ timeoutMs }))
  await refuses('unique', 'prefix', 'undefined string', (x) => unique(x))
  await refuses('findBinary', 'binary', 'undefined null string', (x) => findBinary(x))
  await refuses('useBroker', 'hooks', '', (x) => useBroker(x))
})

test('text that holds half of a surrogate pair is refused by name', async () => {
  const { address, ca } = broker
  const client = await broker.connect()
  const topic = unique()
  await client.createTopic(topic)
  const consumer = await client.consumer(topic, { group: unique() }).open()
  const calls = {
    address: [() => connect(`thalweg://${HALF}`, { ca })],
    clientId: [() => connect(address, { ca, clientId: HALF })],
    ca: [() => connect(address, { ca: HALF })],
    cert: [() => connect(address, { ca, cert: HALF, key: ca })],
    name: [() => client.createTopic(HALF), () => client.deleteTopic(HALF), () => client.uploadPlugin(HALF, Buffer.from('x'))],
    module: [() => client.uploadPlugin('p', HALF)],
    partitioner: [() => client.createTopic('u', { partitioner: HALF }), () => client.setPartitioner(topic, HALF)],
    partitionerConfig: [() => client.createTopic('u', { partitionerConfig: HALF }), () => client.setPartitioner(topic, null, HALF)],
    topic: [
      () => client.offsets(HALF, 'latest'),
      () => client.setPartitioner(HALF, null),
      () => client.resetGroup('g', HALF, 'latest'),
      () => client.producer(HALF),
      () => ConsumerRecord.of({ topic: HALF }),
    ],
    'topic of a key of start': [() => client.consumer(topic, { start: new Map([[{ topic: HALF, partition: 0 }, 0]]) })],
    'at.topic': [() => consumer.seek({ topic: HALF, partition: 0 }, 0)],
    'offsets[0].topic': [() => consumer.commit([{ topic: HALF, partition: 0, offset: 0 }])],
    topics: [() => client.consumer(HALF)],
    'topics[1]': [() => client.consumer([topic, HALF])],
    group: [() => client.describeGroup(HALF), () => client.deleteGroup(HALF), () => client.resetGroup(HALF, topic, 'latest')],
  }
  for (const name of ['compression', 'acks']) calls[name] = [() => client.producer(topic, { [name]: HALF })]
  for (const name of ['filter', 'filterConfig', 'onFilterFailure', 'onBadRecord', 'outOfRange', 'group', 'instance', 'assignor']) {
    ;(calls[name] ??= []).push(() => client.consumer(topic, { group: 'g', [name]: HALF }))
  }
  for (const [name, some] of Object.entries(calls)) {
    for (const call of some) {
      await assert.rejects(async () => call(), (e) => e instanceof InvalidError && e.message.startsWith(`${name} is not valid text`), `${name}: ${call}`)
    }
  }
  // Whole pairs are text as any other; ids have the characters of topic names.
  for (const [what, options] of [['group id', { group: 'größe 😀' }], ['instance id', { group: 'g', instance: '日本' }]]) {
    await assert.rejects(client.consumer(topic, options).open(), (e) => e instanceof InvalidError && e.message.startsWith(`${what}: `))
  }
  await client.close()
})
