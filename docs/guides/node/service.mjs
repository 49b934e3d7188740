// An HTTP service that takes orders and ships them. `node service.mjs` runs it, SIGTERM ends it.

import { once } from 'node:events'
import { appendFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { json } from 'node:stream/consumers'

import { ThalwegError, connect } from 'thalweg'

const shipped = process.env.SHIPPED ?? 'shipped.txt'

const client = await connect(process.env.THALWEG_BROKER ?? 'thalweg://localhost:9460')
const producer = await client.producer('orders', { deliveryTimeoutMs: 10_000 }).open()
const rejected = await client.producer('orders-rejected', { deliveryTimeoutMs: 10_000 }).open()
const consumer = await client.consumer('orders', { group: 'shipping' }).open()

/** A line in a file stands here for your database. */
async function ship(record, order) {
  await appendFile(shipped, `${record.partition} ${record.offset} ${order.id}\n`, { flush: true })
}

/** The order, or an error that says what is wrong with it. */
function checked(order) {
  if (typeof order?.id !== 'string' || typeof order?.customer !== 'string') {
    throw new TypeError('an order has an id and a customer')
  }
  return order
}

async function work() {
  for await (const record of consumer) {
    let order
    try {
      order = checked(record.json())
    } catch (error) {
      // It will not get better by itself, and must not keep the others.
      await rejected.send(record.value, { key: record.key, headers: { error: String(error) } })
      continue
    }
    await ship(record, order)
  }
}

async function takeOrder(request) {
  let order
  try {
    order = checked(await json(request))
  } catch (error) {
    return [400, { error: String(error) }]
  }
  try {
    return [201, await producer.send(order, { key: order.customer })]
  } catch (error) {
    const isRetriable = error instanceof ThalwegError && error.retriable
    return [isRetriable ? 503 : 500, { error: error.message }]
  }
}

const server = createServer(async (request, response) => {
  const isOrder = request.method === 'POST' && request.url === '/orders'
  const [status, answer] = isOrder ? await takeOrder(request) : [404, { error: 'POST /orders is what there is' }]
  response.writeHead(status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(answer))
})
server.listen(Number(process.env.PORT ?? 8000), () => console.log(`listening on ${server.address().port}`))

let isStopping = false

async function stop() {
  if (isStopping) return
  isStopping = true
  // No new connections; on those that there are, the next answer is the last one.
  server.prependListener('request', (_, response) => response.setHeader('connection', 'close'))
  const idle = setInterval(() => server.closeIdleConnections(), 100)
  server.close()
  await once(server, 'close')
  clearInterval(idle)
  // What the worker has in hand may be finished; then its loop ends. Without a broker that answers, the rest is closed all the same.
  await consumer.close().catch(console.error)
  await worker
  await producer.close()
  await rejected.close()
  await client.close()
}

process.on('SIGTERM', stop)
process.on('SIGINT', stop)

// A service whose worker has failed would take orders that nobody ships.
const worker = work().catch((error) => {
  console.error('the worker failed:', error)
  process.exitCode = 1
  void stop()
})
