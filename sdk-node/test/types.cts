// Compiled by `tsc --strict`, never run: what CommonJS gets by `require`.

import { ConsumerRecord, connect } from '../lib/index.js'
import testing = require('../lib/testing/index.js')

export async function first(topic: string): Promise<string | null> {
  await using broker = await testing.startBroker()
  const client = await connect(broker.address, { ca: broker.ca })
  for await (const record of client.consumer(topic, { start: 'earliest' })) return (record satisfies ConsumerRecord).text()
  return null
}
