// The Node part of the demo.
//
//   worker.mjs ADDRESS produce TOPIC FILE FROM TO
//   worker.mjs ADDRESS consume TOPIC [FILTER]
//   worker.mjs ADDRESS share TOPIC GROUP
//
// Prints one JSON object; progress goes to standard error.

import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { performance } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'

import { connect } from 'thalweg'

const CHUNK = 2000
// What a batch takes, so that there is time to die in the middle.
const WORK_MS = 40

async function produce(client, topic, file, first, last) {
  const started = performance.now()
  const producer = await client.producer(topic).open()
  let chunk = []
  let bytes = 0
  let at = 0
  const send = async () => {
    await producer.enqueueBatch(chunk)
    chunk = []
    if ((at - first) % 20000 === 0) console.error(`progress ${at - first}`)
  }
  for await (const line of createInterface({ input: createReadStream(file), crlfDelay: Infinity })) {
    if (at >= last) break
    if (at++ < first) continue
    bytes += Buffer.byteLength(line)
    chunk.push({ value: line, key: JSON.parse(line).tailnum })
    if (chunk.length === CHUNK) await send()
  }
  if (chunk.length > 0) await send()
  await producer.close()
  return { records: last - first, bytes, seconds: (performance.now() - started) / 1000 }
}

async function consume(client, topic, filter) {
  const started = performance.now()
  const partitions = {}
  let bytes = 0
  let records = 0
  const consumer = client.consumer(topic, { start: 'earliest', untilEnd: true, filter })
  let counts
  for await (const batch of consumer.batches()) {
    const state = (partitions[batch.partition] ??= [0, 0])
    for (const record of batch) {
      const value = record.value
      state[0] += 1
      state[1] = crc32(value, state[1])
      bytes += value.length
      records += 1
      if (records % 50000 === 0) console.error(`progress ${records}`)
    }
  }
  counts = await consumer.counts()
  await consumer.close()
  return { records, bytes, seconds: (performance.now() - started) / 1000, scanned: counts.scanned, filtered: counts.filtered, partitions }
}

/** Reads as a member of a group, and says which offsets it has got. */
async function share(client, topic, group) {
  const started = performance.now()
  const consumer = client.consumer(topic, { group, untilEnd: true })
  let records = 0
  for await (const batch of consumer.batches()) {
    await sleep(WORK_MS)
    let first = batch.offsets[0]
    batch.offsets.forEach((offset, i) => {
      if (batch.offsets[i + 1] === offset + 1) return
      console.error(`got ${batch.partition} ${first} ${offset}`)
      first = batch.offsets[i + 1]
    })
    records += batch.length
  }
  await consumer.close()
  return { records, bytes: 0, seconds: (performance.now() - started) / 1000 }
}

const [address, what, topic, ...rest] = process.argv.slice(2)
const client = await connect(address)
const work = {
  produce: () => produce(client, topic, rest[0], Number(rest[1]), Number(rest[2])),
  consume: () => consume(client, topic, rest[0]),
  share: () => share(client, topic, rest[0]),
}
const result = await work[what]()
console.log(JSON.stringify(result))
await client.close()
