// The guide's programs, run as they stand: a service that is stopped by SIGTERM loses nothing.
//
// `THALWEG_RESTARTS` is how often each of them is stopped and started again; 10 without it. That the guide shows these programs is
// tested beside the Python SDK, for all languages.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { connect } from '../lib/index.js'
import { startBroker } from './broker.js'

const restarts = Number(process.env.THALWEG_RESTARTS ?? 10)
const partitions = 3

/** A folder as a user's: the programs, and the package where npm would put it. */
function userFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'thalweg-guide-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(fileURLToPath(new URL('..', import.meta.url)), join(folder, 'node_modules/thalweg'))
  for (const name of ['first.mjs', 'service.mjs', 'worker.mjs']) {
    copyFileSync(new URL(`../../docs/guides/node/${name}`, import.meta.url), join(folder, name))
  }
  return folder
}

/** A program in a process of its own, and what it says. */
function start(folder, name, broker, shipped) {
  const env = { ...process.env, THALWEG_BROKER: broker.address, THALWEG_CA: broker.ca, SHIPPED: shipped, PORT: '0' }
  const child = spawn(process.execPath, [name], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] })
  const program = { child, port: undefined, said: '', ended: once(child, 'close') }
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({ input: stream }).on('line', (line) => {
      program.said += `${line}\n`
      const found = /listening on (\d+)/.exec(line)
      if (found) program.port = Number(found[1])
    })
  }
  return program
}

/** Asks a program to end, and waits until it has. */
async function stop(program) {
  program.child.kill('SIGTERM')
  const hanging = setTimeout(() => program.child.kill('SIGKILL'), 30_000)
  const [code, signal] = await program.ended
  clearTimeout(hanging)
  return code ?? signal
}

/** Orders that a program has done: ids by "partition offset". Nothing is done twice in one run. */
function shipments(file) {
  if (!existsSync(file)) return new Map()
  const lines = readFileSync(file, 'utf8').split('\n').slice(0, -1)
  const done = new Map(lines.map((line) => line.split(' ')).map(([partition, offset, id]) => [`${partition} ${offset}`, id]))
  assert.equal(done.size, lines.length, file)
  return done
}

async function eventually(what, isSo) {
  const started = performance.now()
  while (!(await isSo())) {
    assert.ok(performance.now() - started < 30_000, typeof what === 'function' ? what() : what)
    await sleep(10)
  }
}

/** Sends orders all the time, over HTTP where there is a service, else by the SDK; `taken` is what was answered. */
function startLoad(client, work) {
  const load = { program: undefined, isOver: false, taken: new Map() }
  const take = (id, at) => load.taken.set(`${at.partition} ${at.offset}`, id)
  const byHttp = async (number) => {
    for (let count = 0; !load.isOver; count++) {
      if (load.program?.port === undefined) {
        await sleep(10)
        continue
      }
      const order = { id: `${number}-${count}`, customer: `customer ${count % 17}` }
      let status, answer
      try {
        const response = await fetch(`http://127.0.0.1:${load.program.port}/orders`, { method: 'POST', body: JSON.stringify(order) })
        status = response.status
        answer = await response.json()
      } catch {
        // Whether it was stored, nobody knows.
        await sleep(10)
        continue
      }
      assert.equal(status, 201, JSON.stringify(answer))
      take(order.id, answer)
    }
  }
  const bySdk = async (number) => {
    const producer = client.producer('orders')
    for (let count = 0; !load.isOver; count += 20) {
      const ids = Array.from({ length: 20 }, (_, i) => `${number}-${count + i}`)
      const outcomes = await producer.sendBatch(ids.map((id) => ({ value: { id, customer: 'c' } })))
      outcomes.forEach((at, i) => take(ids[i], at))
      await sleep(20)
    }
    await producer.close()
  }
  load.work = Promise.all(work === 'http' ? [0, 1, 2, 3].map(byHttp) : [bySdk(0)])
  load.end = async () => {
    load.isOver = true
    await load.work
  }
  return load
}

async function readAll(client, topic) {
  const records = []
  for await (const record of client.consumer(topic, { start: 'earliest', untilEnd: true })) records.push(record)
  return records
}

for (const { name, work, batch } of [
  { name: 'service.mjs', work: 'http', batch: 1 },
  { name: 'worker.mjs', work: 'sdk', batch: 100 },
]) {
  test(`${name}, stopped at any moment, loses nothing`, async (t) => {
    const broker = await startBroker(t)
    const folder = userFolder(t)
    const client = await connect(broker.address, { ca: broker.ca })
    for (const topic of ['orders', 'orders-rejected']) await client.createTopic(topic, { partitions })
    const load = startLoad(client, work)
    t.after(() => load.end())
    const shipped = new Map()
    let stored
    let again = 0
    for (let run = 0; run <= restarts; run++) {
      const file = join(folder, `shipped-${run}`)
      const program = (load.program = start(folder, name, broker, file))
      t.after(() => program.child.kill('SIGKILL'))
      if (run < restarts) {
        // Now and then before it has begun.
        const isEarly = Math.random() < 0.1
        if (!isEarly) await eventually(() => program.said, () => existsSync(file))
        await sleep(Math.random() * (isEarly ? 500 : 1000))
      } else {
        await load.end()
        stored = new Map((await readAll(client, 'orders')).map((r) => [`${r.partition} ${r.offset}`, r.json().id]))
        for (let left = stored.size; left > 0; ) {
          const done = shipments(file)
          const now = [...stored.keys()].filter((at) => !shipped.has(at) && !done.has(at)).length
          if (now > 0) await eventually(`${now} are not shipped`, () => shipments(file).size > done.size)
          left = now
        }
      }
      const ended = await stop(program)
      assert.doesNotMatch(program.said, /Error|failed/)
      // One that is stopped before it has begun ends as any process does.
      assert.ok(ended === 0 || ended === 'SIGTERM', `${ended}: ${program.said}`)
      const repeated = Array.from({ length: partitions }, () => 0)
      for (const [at, id] of shipments(file)) {
        if (shipped.has(at)) repeated[Number(at.split(' ')[0])] += 1
        shipped.set(at, id)
      }
      assert.ok(Math.max(...repeated) <= batch, `run ${run}: ${repeated} came again`)
      again += repeated.reduce((a, b) => a + b)
    }
    // What was answered is there, all that is there was shipped, and nothing else.
    for (const [at, id] of load.taken) assert.equal(stored.get(at), id)
    assert.deepEqual(new Map([...shipped].sort()), new Map([...stored].sort()))
    t.diagnostic(`${restarts} restarts, ${load.taken.size} answered, ${stored.size} stored and shipped, ${again} of them again`)
    await client.close()
  })
}

test('the first record', async (t) => {
  const broker = await startBroker(t)
  const program = start(userFolder(t), 'first.mjs', broker, '')
  assert.deepEqual(await program.ended, [0, null], program.said)
  assert.match(program.said, /^stored in partition 0 at offset \d+\n\d+ me \{ hello: 'world' \}\n$/)
})

test('what is no order is put aside, or refused', async (t) => {
  const broker = await startBroker(t)
  const folder = userFolder(t)
  const client = await connect(broker.address, { ca: broker.ca })
  const producer = client.producer('orders')
  await producer.send('no order', { key: 'k' })
  await producer.send({ id: '1', customer: 'c' })
  await producer.close()
  const program = start(folder, 'service.mjs', broker, join(folder, 'shipped'))
  t.after(() => program.child.kill('SIGKILL'))
  await eventually(() => program.said, () => existsSync(join(folder, 'shipped')) && program.port !== undefined)
  for (const body of ['{', '{"id":"2"}', 'null']) {
    const response = await fetch(`http://127.0.0.1:${program.port}/orders`, { method: 'POST', body })
    assert.equal(response.status, 400)
    await response.json()
  }
  assert.equal(await stop(program), 0, program.said)
  const [record, ...others] = await readAll(client, 'orders-rejected')
  assert.deepEqual([record.key.toString(), record.text(), record.headers[0][0], others.length], ['k', 'no order', 'error', 0])
  await client.close()
})
