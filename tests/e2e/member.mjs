// A member of a mixed group: says which records it gets, until it is told to leave or killed.
//
//   member.mjs SDK ADDRESS CA TOPIC GROUP

import { createInterface } from 'node:readline'

const [sdk, address, ca, topic, group] = process.argv.slice(2)
const { connect } = await import(sdk)
const client = await connect(address, { ca })
const onRebalance = ({ kind, partitions }) => partitions.forEach(p => console.log(kind, p.partition))
const consumer = client.consumer(topic, { group, onRebalance })
const input = createInterface({ input: process.stdin })
input.once('line', () => consumer.close())
for await (const record of consumer) console.log('record', record.partition, record.offset)
input.close()
await client.close()
