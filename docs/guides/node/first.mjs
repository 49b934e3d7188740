// The first record: sends one, and reads what is there.

import { connect } from 'thalweg'

const client = await connect(process.env.THALWEG_BROKER ?? 'thalweg://localhost:9460')
const producer = client.producer('greetings')
const at = await producer.send({ hello: 'world' }, { key: 'me' })
console.log(`stored in partition ${at.partition} at offset ${at.offset}`)
await producer.close()
for await (const record of client.consumer('greetings', { start: 'earliest', untilEnd: true })) {
  console.log(record.offset, record.key?.toString(), record.json())
}
await client.close()
