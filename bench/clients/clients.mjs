// The measurements of clients.py that run in Node: `node --expose-gc clients.mjs WORK SETTINGS`, one a process, which says what it has used as JSON.

import { readFileSync, writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

const VALUE = Buffer.alloc(100, 'x')
const PARTITIONS = 4
const GATHERED = 1_000
const READ = 600_000
const [PENDING, PENDING_BYTES, BUFFER_BYTES] = [100_000, 1 << 10, 32 << 20]

const upTo = (n) => Array.from({ length: n }, (_, i) => i)

/** CPU time of this process, all threads, from now to the call of what is returned. */
function clock() {
  globalThis.gc()
  const since = process.cpuUsage()
  return (records) => {
    const { user, system } = process.cpuUsage(since)
    return { records, cpu_s: (user + system) / 1e6 }
  }
}

/** Measures a way to send so many, when it is warm. */
async function measured(send, warm, records) {
  await send(warm)
  const result = clock()
  await send(records)
  return result(records)
}

async function gathered(send, records) {
  for (let i = 0; i < records; i += GATHERED) {
    const sending = []
    for (let one = 0; one < GATHERED; one++) sending.push(send())
    await Promise.all(sending)
  }
}

/** What the process has grown by with so many sends on their way. It ends without them. */
/** Memory of the process without what stands in files, as its program does. */
function anonymous() {
  const [, resident, shared] = readFileSync('/proc/self/statm', 'utf8').split(' ')
  return (resident - shared) * 4096
}

async function grown(at, send, valueOf) {
  process.kill(at.pid, 'SIGSTOP')
  // What V8 sets aside for short-lived objects is its own matter, and is there before: its size is fixed (clients.py), and it is used once.
  for (let i = 0; i < 2_000_000; i++) globalThis.garbage = new Array(8)
  globalThis.gc()
  const before = anonymous()
  const sending = []
  for (let i = 0; i < PENDING; i++) sending.push(send(valueOf(String(i))))
  // Of two of them only: what waits for a promise takes memory too.
  if ((await Promise.race([sending[0], sending.at(-1), sleep(2_000, 'late')])) !== 'late') throw new Error('a send has an outcome, without a broker')
  globalThis.gc()
  return { held_bytes: anonymous() - before }
}

async function ours(at, work, exists = false) {
  const { connect } = await import('thalweg')
  const client = await connect(at.address, { ca: at.ca })
  if (!exists) await client.createTopic(at.topic, { partitions: PARTITIONS })
  const result = await work(client)
  if (result.held_bytes === undefined) await client.close()
  return result
}

function reading(inGroup, byBatches) {
  return (at) =>
    ours(
      at,
      async (client) => {
        const result = clock()
        let count = 0
        const consumer = client.consumer(at.filled, { start: 'earliest', untilEnd: true, ...(inGroup ? { group: at.topic } : {}) })
        if (byBatches) for await (const batch of consumer.batches()) count += batch.values().length
        else for await (const record of consumer) count += record.value === null ? 0 : 1
        await consumer.close()
        if (count !== READ) throw new Error(`${count} records were read`)
        return result(count)
      },
      true,
    )
}

async function kafka(at, work) {
  const { Kafka, logLevel } = (await import('kafkajs')).default
  const client = new Kafka({ brokers: at.address.split(','), logLevel: logLevel.NOTHING })
  const producer = client.producer()
  await producer.connect()
  const result = await work(producer)
  if (result.held_bytes === undefined) await producer.disconnect()
  return result
}

const kafkaSend = (at, producer, value) => producer.send({ topic: at.topic, messages: [{ value }] })

const works = {
  'thalweg-send': (at) =>
    ours(at, async (client) => {
      const producer = client.producer(at.topic)
      return measured((records) => gathered(() => producer.send(VALUE), records), 50_000, 300_000)
    }),
  'thalweg-enqueue': (at) =>
    ours(at, async (client) => {
      const producer = client.producer(at.topic)
      const enqueue = async (records) => {
        for (let i = 0; i < records; i++) await producer.enqueue(VALUE)
        await producer.flush()
      }
      return measured(enqueue, 50_000, 600_000)
    }),
  'thalweg-memory': (at) =>
    ours(at, async (client) => {
      const producer = client.producer(at.topic, { bufferBytes: BUFFER_BYTES })
      await producer.send(VALUE)
      // The bytes are taken at the call: one value serves for all, and leaves no garbage behind.
      const value = Buffer.alloc(PENDING_BYTES)
      return grown(at, (each) => producer.send(each), (text) => value.fill(text))
    }),
  'thalweg-records': reading(false, false),
  'thalweg-batches': reading(false, true),
  'thalweg-group-records': reading(true, false),
  'thalweg-group-batches': reading(true, true),
  'kafkajs-send': (at) =>
    kafka(at, async (producer) => measured((records) => gathered(() => kafkaSend(at, producer, VALUE), records), 2_000, 10_000)),
  // It has no buffer to enqueue to: batches that its caller makes.
  'kafkajs-batch': (at) =>
    kafka(at, async (producer) => {
      const send = async (records) => {
        for (let i = 0; i < records; i += 1_000) {
          await producer.send({ topic: at.topic, messages: upTo(1_000).map(() => ({ value: VALUE })) })
        }
      }
      return measured(send, 20_000, 200_000)
    }),
  'kafkajs-memory': (at) =>
    kafka(at, async (producer) => {
      await kafkaSend(at, producer, VALUE)
      return grown(at, (each) => kafkaSend(at, producer, each), (text) => Buffer.alloc(PENDING_BYTES, text))
    }),
}

const [work, settings] = process.argv.slice(2)
const result = await works[work](JSON.parse(settings))
writeSync(1, `${JSON.stringify(result)}\n`)
process.exit(0)
