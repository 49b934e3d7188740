// Compiled by `tsc --strict`, never run: the README's example and the rest of the faces.

import { after, before } from 'node:test'

import { Batch, Client, Consumer, ConsumerRecord, type Delivery, InvalidError, type Message, type Place, Producer, type Rebalance, type RecordObject, type Start, ThalwegError, connect } from '../lib/index.js'
import { type Broker, BrokerError, startBroker, startCluster, unique, useBroker } from '../lib/testing/index.js'

const client = await connect('thalweg://localhost:9460', { timeoutMs: 1000 })
await client.createTopic('flights', { partitions: 6, partitioner: 'by-carrier@1' })
const producer = client.producer('flights', { compression: 'lz4' })
const at: Delivery = await producer.send({ carrier: 'UA', dep_delay: 61 }, { key: 'N14228' })
const outcomes = await producer.sendBatch([{ value: 'x', headers: { a: null } }])
for (const outcome of outcomes) if (outcome instanceof ThalwegError) console.log(outcome.code, outcome.retriable)
const controller = new AbortController()
for await (const record of client.consumer('flights', { filter: 'late@1', start: { timestamp: 0 }, signal: controller.signal })) {
  const key: Buffer | null = record.key
  console.log(key, record.json(), record.offset + 1, at.offset)
}
for await (const batch of client.consumer('flights').batches()) console.log(batch.length, batch.values(), batch.values({ copy: false }))
const onRebalance = async ({ kind, partitions }: Rebalance) => console.log(kind, partitions.length)
const member = client.consumer('flights', { group: 'g', start: { timestamp: new Date() }, onRebalance })
const object: RecordObject | undefined = (await member.next({ timeoutMs: 10 }))?.toObject()
console.log(object?.key, ConsumerRecord.of(object ?? {}).toObject().headers)
await client.uploadPlugin('late', new URL('late.wasm', import.meta.url))
const error: Error = new InvalidError('x')
console.log(error)
await client.close()

const broker = useBroker({ before, after }, { startTimeoutMs: 10_000 })
const own: Broker = await startBroker({ port: 9460, arguments: ['--module-bytes-max', '100'] })
const elsewhere: Client = await connect(broker.address, { ca: broker.ca })
await elsewhere.close()
await own.restart()
await (await own.connect({ timeoutMs: 100 })).close()
await own[Symbol.asyncDispose]()
const cluster = await startCluster({ brokers: 3 })
await cluster.brokers[0]?.kill()
console.log(own.log(), own.pid, unique('t'), cluster.address, new BrokerError('x').log)
// @ts-expect-error hooks come in pairs
useBroker({ before, afterAll: after })

// What is JSON compiles, whatever it is declared as; what is refused when it is sent does not.
interface Order {
  readonly id: string
  lines?: Array<{ sku: string; count: number }>
}
class Shipment {
  constructor(readonly order: Order) {}
}
const order: Order = { id: '1' }
async function publish<T extends object>(value: T, known: Record<string, unknown>, some: any, sealed: Readonly<Order>, either: Order | null) {
  for (const one of [value, known, some, sealed, either]) await producer.send(one)
}
await publish(order, { a: 1 }, order, order, null)
for (const value of [order, [order], [1, 'two', null], new Shipment(order), { then: 'later', at: 1 }]) await producer.send(value)
for (const value of ['text', Buffer.from('x'), new Uint8Array(1), new ArrayBuffer(1), new DataView(new ArrayBuffer(1)), null]) await producer.enqueue(value)
await producer.sendBatch([{ value: order }, { value: Object.freeze({ a: 1 }) }, { value: Object.create(null) }])
// @ts-expect-error a Map is no JSON
await producer.send(new Map())
// @ts-expect-error nor is a Set
await producer.send(new Set([1]))
// @ts-expect-error nor is a Date
await producer.send(new Date())
// @ts-expect-error an await is missing
await producer.send(Promise.resolve({ a: 1 }))
// @ts-expect-error nor is a function
await producer.send(() => order)
// @ts-expect-error nor is a number
await producer.send(1)
// @ts-expect-error in a message as well
await producer.enqueueBatch([{ value: new Map() }])

// What is only read may be readonly, and what may be left out may be undefined (with exactOptionalPropertyTypes too).
const [messages, topics]: [readonly Message[], readonly string[]] = [[{ value: 'x' }], ['a']]
const pairs: ReadonlyArray<readonly [string, string]> = [['a', 'b']]
const starts = new Map<Place, Start>([[0, 5], [{ topic: 't', partition: 1 }, 'earliest']])
async function readOnly(map: ReadonlyMap<string, string>, maybe: string | undefined, none: number | undefined) {
  await producer.sendBatch(messages)
  await producer.enqueueBatch(messages)
  for (const headers of [pairs, map, { a: 'b' } as const]) await producer.send('x', { headers, key: maybe, partition: none, topic: maybe, timestampMs: none })
  await producer.enqueue('x', { onDelivery: undefined })
  await producer.flush({ timeoutMs: none })
  const reader = client.consumer(topics, { start: starts as ReadonlyMap<Place, Start>, partitions: [0] as const, group: maybe, maxProcessingMs: none })
  await reader.subscribe(topics)
  await reader.commit([{ topic: maybe, partition: 0, offset: 1 }] as const)
  await reader.next({ timeoutMs: none })
  await client.createTopic('t', { partitions: none, partitioner: maybe })
  await client.resetGroup('g', 't', 'earliest', { partitions: [0] as const, dryRun: undefined })
  await connect('thalweg://localhost:9460', { ca: maybe, timeoutMs: none })
}
console.log(readOnly)
// @ts-expect-error nor is a RegExp
await producer.send(/x/)

// Blocks that are left close what they opened; what is made by calls has no constructor.
async function block() {
  await using client = await connect('thalweg://localhost:9460')
  await using producer = await client.producer('t').open()
  await using consumer = client.consumer('t')
  await using cluster = await startCluster()
  await producer.send('x')
  return [(await consumer.next())?.offset, cluster.address]
}
console.log(await block())
// @ts-expect-error connect makes it
new Client()
// @ts-expect-error a client makes it
new Producer()
// @ts-expect-error a client makes it
new Consumer()
// @ts-expect-error it is read, or made by ConsumerRecord.of
new ConsumerRecord()
// @ts-expect-error it is read
new Batch()
// Options of other clients, and numbers that are something else.
// @ts-expect-error it is group
client.consumer('t', { groupId: 'g' })
// @ts-expect-error it is start
client.consumer('t', { group: 'g', fromBeginning: true })
// @ts-expect-error it is timestampMs
await producer.send('x', { timestamp: 5 })
// @ts-expect-error a key is data
await producer.send('x', { key: 7 })
// @ts-expect-error what is sent has a value
await producer.send()
// @ts-expect-error an offset is a number
await client.consumer('t', { group: 'g' }).commit([{ partition: 0, offset: '5' }])
