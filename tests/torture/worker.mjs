// A producer or a consumer of the torture test: see mod.rs for what it says and hears.
//
//   worker.mjs SDK ADDRESS CA produce NAME
//   worker.mjs SDK ADDRESS CA consume

import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { crc32 } from 'node:zlib'

const BATCH = 20
const BATCHES = 20
const [sdk, address, ca, what, name] = process.argv.slice(2)
const { connect } = await import(sdk)

const input = createInterface({ input: process.stdin })
const heard = new Promise(resolve => {
  input.once('line', resolve)
  input.once('close', () => resolve(''))
})

async function produce(client) {
  let stopped = false
  heard.then(() => { stopped = true })
  const producer = await client.producer('load').open()
  for (let done = 0; !stopped;) {
    const first = done
    for (let batch = 0; batch < BATCHES; batch++, done += BATCH) {
      await producer.enqueueBatch(Array.from({ length: BATCH }, (_, i) => ({
        value: `${name}-${String(done + i).padStart(8, '0')}`,
        key: `${name}-${(done + i) % 7}`
      })))
      await sleep(10)
    }
    // Throws the first error of what was enqueued.
    await producer.flush()
    console.log(`acked ${first} ${done - first}`)
  }
  await producer.close()
}

async function consume(client) {
  const partitions = {}
  const last = new Map()
  let until
  const reached = () => Object.entries(until).every(([p, end]) => (last.get(Number(p)) ?? -1) >= end)
  const consumer = client.consumer('load', { start: 'earliest' })
  const reading = (async () => {
    for await (const record of consumer) {
      const p = record.partition
      if (record.offset <= (last.get(p) ?? -1)) throw new Error(`partition ${p}: offset ${record.offset} follows ${last.get(p)}`)
      last.set(p, record.offset)
      const state = (partitions[p] ??= [0, 0])
      state[0] += 1
      state[1] = crc32(record.value, state[1])
      if (until && reached()) return
    }
  })()
  until = JSON.parse(await heard)
  if (!reached()) await reading
  console.log(JSON.stringify(partitions))
  process.exit(0)
}

const client = await connect(address, { ca })
await (what === 'produce' ? produce(client) : consume(client))
await client.close()
process.exit(0)
