// A consumer as the source of a Node stream: which forms hold that a record counts as done only when the last stage has ended it.

import assert from 'node:assert/strict'
import { Transform, Writable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { connect } from '../lib/index.js'
import { unique } from '../lib/testing/index.js'
import { startBroker } from './broker.js'

const COUNT = 40
const FAILS_AT = 4

/** Writes `row` down, late and after others could have overtaken it; the fifth one fails. */
async function store(row, written) {
  await sleep(5)
  if (row === String(FAILS_AT)) throw new Error('the database is down')
  written.push(row)
}

/** A sink that stores what it is given, one after the other, as Node's do. */
function sinkOf(written, options, stored = async () => {}) {
  return new Writable({
    objectMode: true,
    ...options,
    write(record, _, done) {
      store(record.text(), written)
        .then(() => stored(record))
        .then(() => done(), done)
    },
  })
}

async function* rows(records) {
  for await (const record of records) yield record.text()
}

const forms = {
  'a function as the last stage': (consumer, written) =>
    pipeline(consumer, async (records) => {
      for await (const record of records) await store(record.text(), written)
    }),
  'generators in between': (consumer, written) =>
    pipeline(consumer, rows, async (texts) => {
      for await (const text of texts) await store(text, written)
    }),
  'a sink that takes one record at a time': (consumer, written) => pipeline(consumer, sinkOf(written, { highWaterMark: 1 })),
  'batches, and a sink that takes one at a time': (consumer, written) =>
    pipeline(
      consumer.batches({ maxRecords: 1 }),
      new Writable({ objectMode: true, highWaterMark: 1, write: (batch, _, done) => void store(batch.at(0).text(), written).then(() => done(), done) }),
    ),
}

/** What a group has yet to read. */
async function restOf(client, group) {
  const rest = []
  for await (const record of client.consumer('t', { group, untilEnd: true })) rest.push(Number(record.text()))
  return rest
}

test('a pipeline commits nothing that its last stage has not ended, in the forms that the guide names', async (t) => {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: COUNT }, (_, i) => ({ value: String(i) })))
  await producer.close()
  const check = async (name, run, options) => {
    const [group, written] = [unique(), []]
    const consumer = client.consumer('t', { group, autoCommitMs: 1, ...options })
    await assert.rejects(run(consumer, written), /the database is down/, name)
    await consumer.close()
    assert.deepEqual(written, ['0', '1', '2', '3'], name)
    assert.deepEqual(await restOf(client, group), Array.from({ length: COUNT - FAILS_AT }, (_, i) => FAILS_AT + i), name)
  }
  for (const [name, run] of Object.entries(forms)) await check(name, run)
  // Whatever is asked for ahead, and whatever stands between: the sink says itself what is done.
  const byHand = (consumer, written) => {
    const through = new Transform({ objectMode: true, transform: (record, _, done) => done(null, record) })
    return pipeline(consumer, through, sinkOf(written, {}, (record) => consumer.commit(record)))
  }
  await check('a sink that commits', byHand, { autoCommitMs: null })
  await client.close()
})

test('a sink that takes several records ahead makes them done: what the guide warns of', async (t) => {
  const broker = await startBroker(t)
  const client = await connect(broker.address, { ca: broker.ca })
  const producer = client.producer('t')
  await producer.enqueueBatch(Array.from({ length: COUNT }, (_, i) => ({ value: String(i) })))
  await producer.close()
  const consumer = client.consumer('t', { group: 'g' })
  await assert.rejects(pipeline(consumer, sinkOf([], { highWaterMark: 16 })), /the database is down/)
  await consumer.close()
  assert.notEqual((await restOf(client, 'g'))[0], FAILS_AT)
  await client.close()
})
