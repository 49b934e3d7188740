// A worker without a server: reads orders in batches until SIGTERM or Ctrl-C.

import { appendFile } from 'node:fs/promises'

import { connect } from 'thalweg'

const shipped = process.env.SHIPPED ?? 'shipped.txt'

const client = await connect(process.env.THALWEG_BROKER ?? 'thalweg://localhost:9460')
const consumer = await client.consumer('orders', { group: 'shipping' }).open()

async function ship(batch) {
  const lines = batch.records().map((record) => `${record.partition} ${record.offset} ${record.json().id}\n`)
  await appendFile(shipped, lines.join(''), { flush: true })
}

for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => void consumer.close())

for await (const batch of consumer.batches({ maxRecords: 100 })) await ship(batch)
await consumer.close()
await client.close()
