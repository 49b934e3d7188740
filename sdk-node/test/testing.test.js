// The kit for tests of what uses Thalweg: brokers that start, say why they do not, and never stay behind.

import assert from 'node:assert/strict'
import { execFile, spawn, spawnSync } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { after, before, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

import { ThalwegError } from '../lib/index.js'
import { commandPackage } from '../lib/platform.js'
import { BinaryNotFoundError, Broker, BrokerError, Cluster, findBinary, startBroker, startCluster, unique, useBroker } from '../lib/testing/index.js'
import { root } from './broker.js'

const shared = useBroker({ before, after })

/** A folder in which `thalweg` is this package, as where it is installed. */
function project(t) {
  const folder = mkdtempSync(join(tmpdir(), 'kit-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  mkdirSync(join(folder, 'node_modules'))
  symlinkSync(fileURLToPath(new URL('..', import.meta.url)), join(folder, 'node_modules/thalweg'))
  return folder
}

/** Sets variables of the environment until the end of a test. */
function environment(t, values) {
  const before = Object.keys(values).map((name) => [name, process.env[name]])
  const set = ([name, value]) => (value === undefined ? delete process.env[name] : (process.env[name] = value))
  t.after(() => before.forEach(set))
  Object.entries(values).forEach(set)
}

async function read(client, topic) {
  const texts = []
  for await (const record of client.consumer(topic, { start: 'earliest', untilEnd: true })) texts.push(record.text())
  return texts
}

test('a missing command names the remedy', async (t) => {
  const folder = project(t)
  const noProgram = join(folder, 'thalweg')
  writeFileSync(noProgram, '')
  await assert.rejects(startBroker({ binary: noProgram }), (e) => e instanceof BinaryNotFoundError && /binary is .*no program/.test(e.message))
  // What was named counts, and not what is found elsewhere.
  environment(t, { PATH: `${dirname(process.env.THALWEG_BIN)}:${process.env.PATH}`, THALWEG_BIN: noProgram })
  await assert.rejects(startCluster(), /THALWEG_BIN is .*no program/)
  delete process.env.THALWEG_BIN
  assert.match(findBinary(), /\/thalweg$/)
  process.env.PATH = folder
  await assert.rejects(startBroker(), (e) => e instanceof BrokerError && /is missing.*cargo build/.test(e.message))
})

test('the command of an installed package is found', (t) => {
  const folder = project(t)
  const installed = join(folder, 'node_modules', commandPackage())
  mkdirSync(join(installed, 'bin'), { recursive: true })
  writeFileSync(join(installed, 'package.json'), JSON.stringify({ name: commandPackage() }))
  writeFileSync(join(installed, 'bin/thalweg'), '#!/bin/sh\n')
  chmodSync(join(installed, 'bin/thalweg'), 0o755)
  writeFileSync(join(folder, 'find.mjs'), "import { findBinary } from 'thalweg/testing'\nconsole.log(findBinary())\n")
  const { THALWEG_BIN: _, ...env } = process.env
  const done = spawnSync(process.execPath, ['find.mjs'], { cwd: folder, env, encoding: 'utf8' })
  assert.equal(done.stdout, `${join(installed, 'bin/thalweg')}\n`, done.stderr)
})

test('a broker that does not start shows its log', async () => {
  const taken = createSocket('udp4').bind(0, '127.0.0.1')
  await once(taken, 'listening')
  await assert.rejects(startBroker({ port: taken.address().port }), (e) => {
    assert.match(e.message, /ended at its start \(exit code 1\)[^]*in use/)
    assert.match(e.log, /in use/)
    return e instanceof BrokerError && !(e instanceof ThalwegError)
  })
  taken.close()
  await assert.rejects(startBroker({ startTimeoutMs: 0 }), /not ready within 0 ms/)
  assert.throws(() => new Broker({ prot: 1 }), TypeError)
  assert.throws(() => useBroker({ before }), TypeError)
})

test('a restart keeps data and port, and close removes them', async () => {
  const broker = new Broker()
  assert.throws(() => broker.address, /has not been started/)
  await assert.rejects(async () => broker.connect(), BrokerError)
  await broker.start()
  const { address, directory, pid } = broker
  assert.match(broker.metrics, /^http.*metrics$/)
  assert.match(broker.log(), /ready/)
  await assert.rejects(broker.start(), /runs already/)
  const client = await broker.connect()
  const producer = client.producer('t')
  for (const end of [() => broker.kill(), () => broker.stop(), () => {}]) {
    await producer.send('x')
    await end()
    await broker.restart()
    assert.equal(broker.address, address)
  }
  assert.deepEqual(await read(client, 't'), ['x', 'x', 'x'])
  await client.close()
  await broker.close()
  assert.ok(!runs(pid) && broker.pid === null && !existsSync(directory))
})

test('a directory that was given stays', async (t) => {
  const directory = join(project(t), 'd')
  for (const expected of [['x'], ['x', 'x']]) {
    const broker = await startBroker({ directory })
    const client = await broker.connect()
    await client.producer('t').send('x')
    assert.deepEqual(await read(client, 't'), expected)
    await client.close()
    await broker.close()
  }
})

for (const kind of ['startBroker', 'startCluster']) {
  for (const ending of ["process.kill(process.pid, 'SIGKILL')", 'process.exit(0)', '']) {
    test(`no broker outlives the process that started it: ${kind}, ${ending || 'forgotten'}`, async (t) => {
      const folder = project(t)
      const script = `import { ${kind} } from 'thalweg/testing'
const kept = await ${kind}()
console.log(kept.ca, ...(kept.brokers ?? [kept]).map((b) => b.pid))
${ending}\n`
      writeFileSync(join(folder, 'start.mjs'), script)
      const parent = spawn(process.execPath, ['start.mjs'], { cwd: folder, stdio: ['ignore', 'pipe', 'inherit'] })
      const ended = once(parent, 'exit')
      const [line] = await once(createInterface({ input: parent.stdout }), 'line')
      const [ca, ...pids] = line.split(' ')
      assert.equal(pids.length, kind === 'startBroker' ? 1 : 3)
      await ended
      const directory = dirname(ca).replace(/\/data\/tls$/, '')
      const deadline = performance.now() + 15_000
      while (pids.some((pid) => runs(Number(pid))) || existsSync(directory)) {
        assert.ok(performance.now() < deadline)
        await sleep(50)
      }
    })
  }
}

test('what is set for clients does not reach the broker', async (t) => {
  environment(t, { THALWEG_LISTEN: '127.0.0.1:1', THALWEG_DATA_DIR: '/nowhere' })
  const cluster = await new Cluster({ brokers: 1 }).start()
  t.after(() => cluster.close())
  const client = await cluster.connect()
  assert.deepEqual(await client.topics(), [])
  await client.close()
})

test('a cluster goes on without one of three', async (t) => {
  const cluster = await startCluster()
  t.after(() => cluster.close())
  assert.equal(cluster.address.split(',').length, 3)
  const client = await cluster.connect({ timeoutMs: 20_000 })
  await client.createTopic('t', { replicationFactor: 3 })
  const producer = client.producer('t')
  for (const broker of cluster.brokers) {
    await broker.kill()
    await producer.send('x')
    await broker.restart()
  }
  assert.deepEqual(await read(client, 't'), ['x', 'x', 'x'])
  await client.close()
})

test('a broker of the hooks is there, and names differ', async () => {
  assert.notEqual(unique('a'), unique('a'))
  const client = await shared.connect()
  const topic = await client.createTopic(unique('a'))
  assert.match(topic.name, /^a-/)
  await client.close()
})

test('the example of the guide passes', async (t) => {
  const guide = readFileSync(join(root, 'docs/sdk.md'), 'utf8')
  const example = guide.split('## Testing your service')[1].split('```js\n')[1].split('```')[0]
  const folder = project(t)
  writeFileSync(join(folder, 'guide.test.mjs'), example)
  // Without the mark of this runner, whose children answer in its own format.
  const { NODE_TEST_CONTEXT: _, ...env } = process.env
  const [error, out] = await new Promise((done) => {
    const options = { cwd: folder, env, timeout: 60_000 }
    execFile(process.execPath, ['--test', '--test-reporter=tap', 'guide.test.mjs'], options, (e, o) => done([e, o]))
  })
  assert.ok(error === null && /^# pass 2$/m.test(out), out)
})

/** Whether a process is alive; one that waits to be reaped by an init that does not is not. */
function runs(pid) {
  const state = spawnSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' }).stdout.trim()
  return state !== '' && !state.startsWith('Z')
}
