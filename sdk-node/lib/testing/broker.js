// Starts brokers, and ends them in any case.

'use strict'

const { execFile, spawn } = require('node:child_process')
const { createSocket } = require('node:dgram')
const { closeSync, existsSync, fstatSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync } = require('node:fs')
const { tmpdir } = require('node:os')
const { join, resolve } = require('node:path')
const { setTimeout: sleep } = require('node:timers/promises')

const { connect } = require('../client.js')
const { checkNames, checkNumbers, checkString, checkStrings, kindOf } = require('../data.js')
const { BrokerError, findBinary } = require('./binary.js')

// What runs `"$@"` in its own place, with a guard beside it that waits for the end of standard input. That comes when the process that holds the other
// end of the pipe is gone, by kill -9 as well, and on every Unix. The guard is of the broker's process group: whoever kills the group ends it too, and the
// number of the group cannot become another process's while it lives. $0 is a directory to remove, or empty.
const GUARDED = `
exec 3<&0 </dev/null
( read -r gone <&3; kill -9 $$; sleep 1; [ -z "$0" ] || rm -rf -- "$0"; kill -9 0 ) >/dev/null 2>&1 &
exec "$@" 3<&-
`

/** How long a broker may take to stop in order; then it is killed. */
const STOP_TIMEOUT_MS = 15_000
const LOG_LINES_SHOWN = 30

const OPTIONS = ['directory', 'binary', 'arguments', 'startTimeoutMs']
const START_TIMEOUT = [0, 3_600_000, false]
const asyncDispose = Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')

/** What a broker and the brokers of a cluster have in common. */
function checkOptions(what, options, names, ranges) {
  checkNames(what, options, [...OPTIONS, ...names])
  checkNumbers(options, { ...ranges, startTimeoutMs: START_TIMEOUT })
  checkStrings(options, ['directory', 'binary'])
  const given = options.arguments
  if (given === undefined || given === null) return
  if (!Array.isArray(given)) throw new TypeError(`arguments is ${kindOf(given)}; an array of strings is expected`)
  given.forEach((argument, i) => checkString(`arguments[${i}]`, argument))
}

/** Temporary directories; a process that ends in order leaves none. */
const temporary = new Set()
process.on('exit', () => temporary.forEach(remove))

function remove(directory) {
  temporary.delete(directory)
  try {
    rmSync(directory, { recursive: true, force: true })
  } catch {
    // A broker that was forgotten still writes: its guard removes the rest.
  }
}

/** A directory that was given, or a temporary one. */
class Directory {
  #path

  constructor(given) {
    this.isTemporary = given === undefined || given === null
    this.#path = this.isTemporary ? undefined : resolve(given)
  }

  get path() {
    if (this.#path === undefined) throw new BrokerError('it has not been started')
    return this.#path
  }

  make() {
    if (this.#path === undefined) temporary.add((this.#path = mkdtempSync(join(tmpdir(), 'thalweg-'))))
    mkdirSync(this.#path, { recursive: true })
    return this.#path
  }

  remove() {
    if (!this.isTemporary || this.#path === undefined) return
    remove(this.#path)
    this.#path = undefined
  }
}

/** What a broker and a cluster have in common. */
class Running {
  async connect(options = {}) {
    checkNames('options of connect', options, ['timeoutMs'])
    return connect(this.address, { ca: this.ca, timeoutMs: options.timeoutMs })
  }

  async [asyncDispose]() {
    await this.close()
  }
}

class Broker extends Running {
  #directory
  #port
  #binary
  #arguments
  #startTimeoutMs
  #child
  #ended
  #address
  #metrics
  /** Where in the log the present process begins, in bytes. */
  #logStart = 0

  constructor(options = {}) {
    super()
    checkOptions('options of a broker', options, ['port'], { port: [0, 65_535, true] })
    this.#directory = new Directory(options.directory)
    this.#port = options.port ?? 0
    this.#binary = options.binary
    this.#arguments = options.arguments ?? []
    this.#startTimeoutMs = options.startTimeoutMs ?? 30_000
  }

  async start() {
    this._spawn()
    try {
      await this._waitUntilReady()
    } catch (error) {
      await this.kill()
      throw error
    }
    return this
  }

  async stop() {
    const ended = this.#ended
    if (this.#child === undefined) return
    this.#child.kill('SIGTERM')
    this.#child.ref()
    await Promise.race([ended, sleep(STOP_TIMEOUT_MS, undefined, { ref: false })])
    await this.kill()
  }

  async kill() {
    const [child, ended] = [this.#child, this.#ended]
    this.#child = undefined
    if (child === undefined) return
    child.ref()
    try {
      process.kill(-child.pid, 'SIGKILL')
    } catch (error) {
      if (error.code !== 'ESRCH') throw error
    }
    await ended
    child.stdin.destroy()
  }

  async restart() {
    await this.stop()
    await this.start()
  }

  async close() {
    // What it would write in good order is removed in the next moment.
    await (this.#directory.isTemporary ? this.kill() : this.stop())
    this.#directory.remove()
  }

  get address() {
    if (this.#address === undefined) throw new BrokerError('the broker has not been started')
    return this.#address
  }

  get port() {
    return Number(this.address.split(':').pop())
  }

  get ca() {
    return join(this.directory, 'data/tls/ca.pem')
  }

  get metrics() {
    if (this.#metrics === undefined) throw new BrokerError('the broker has not been started')
    return this.#metrics
  }

  get directory() {
    return this.#directory.path
  }

  get pid() {
    return this.#child?.pid ?? null
  }

  log() {
    const path = join(this.directory, 'broker.log')
    return existsSync(path) ? readFileSync(path).subarray(this.#logStart).toString() : ''
  }

  /** What comes after `thalweg`. */
  _command() {
    return ['dev', '--port', String(this.#port), '--http-port', '0', '--data-dir', join(this.directory, 'data')]
  }

  /** What the guard removes; empty: nothing. */
  _removable() {
    return this.#directory.isTemporary ? this.directory : ''
  }

  _spawn() {
    if (this.#child !== undefined) throw new BrokerError('the broker runs already')
    const program = findBinary(this.#binary)
    const directory = this.#directory.make()
    // A file, not a pipe: nobody has to read it, and a test that hangs does not make the broker hang.
    const log = openSync(join(directory, 'broker.log'), 'a')
    this.#logStart = fstatSync(log).size
    const child = spawn('/bin/sh', ['-c', GUARDED, this._removable(), program, ...this._command(), ...this.#arguments], {
      stdio: ['pipe', log, log],
      env: environment(directory),
      // Ctrl-C is for the tests: they close their clients before the broker goes.
      detached: true,
    })
    closeSync(log)
    const ended = new Promise((done) => child.once('exit', done).once('error', done))
    if (child.pid === undefined) throw new BrokerError('no process can be started')
    this.#child = child
    this.#ended = ended
    // Who forgets to close it does not wait for it for ever.
    child.unref()
    child.stdin.on('error', () => {}).unref()
  }

  async _waitUntilReady() {
    const child = this.#child
    const deadline = performance.now() + this.#startTimeoutMs
    for (;;) {
      const ended = child.exitCode ?? child.signalCode
      const said = this.log()
      const ready = /^Thalweg broker.* on (thalweg:\/\/\S+)$[^]*?^ +metrics +(\S+)$/m.exec(said)
      if (ready !== null && ended === null) {
        ;[, this.#address, this.#metrics] = ready
        this.#port = this.port
        return
      }
      if (ended !== null) throw failed(`the broker ended at its start (${typeof ended === 'number' ? `exit code ${ended}` : ended})`, said)
      if (performance.now() > deadline) throw failed(`the broker was not ready within ${this.#startTimeoutMs} ms`, said)
      await sleep(10)
    }
  }
}

function environment(directory) {
  // What is set for clients, or for another broker, is not for this one.
  const others = Object.entries(process.env).filter(([name]) => !name.startsWith('THALWEG_') || name === 'THALWEG_LOG')
  // `thalweg dev` leaves its address where clients of this user find it. One of a test is not for them.
  return { THALWEG_LOG: 'info', ...Object.fromEntries(others), XDG_STATE_HOME: join(directory, 'state') }
}

function failed(what, log) {
  const lines = log.trimEnd().split('\n').slice(-LOG_LINES_SHOWN)
  return new BrokerError(`${what}. Its log:\n${log === '' ? '  (empty)' : lines.map((line) => `  ${line}`).join('\n')}`, log)
}

/** A broker of a cluster. */
class Member extends Broker {
  #root
  #removable

  constructor(root, number, removable, options) {
    super({ ...options, directory: join(root, `broker-${number}`) })
    this.#root = root
    this.#removable = removable
  }

  get ca() {
    return join(this.#root, 'ca.pem')
  }

  _command() {
    const config = join(this.directory, 'broker.toml')
    return ['serve', '--config', config, '--http', '127.0.0.1:0', '--topics-on-first-use', 'true']
  }

  _removable() {
    return this.#removable
  }
}

class Cluster extends Running {
  brokers = []
  #count
  #directory
  #options

  constructor(options = {}) {
    super()
    checkOptions('options of a cluster', options, ['brokers'], { brokers: [1, 9, true] })
    const { brokers, directory, ...others } = options
    this.#count = brokers ?? 3
    this.#directory = new Directory(directory)
    this.#options = others
  }

  async start() {
    if (this.brokers.length > 0) throw new BrokerError('the cluster runs already')
    const root = this.#directory.make()
    if (!existsSync(join(root, 'ca.key'))) await this.#init(root)
    const removable = this.#directory.isTemporary ? root : ''
    this.brokers = Array.from({ length: this.#count }, (_, i) => new Member(root, i + 1, removable, this.#options))
    try {
      // All before any is waited for: the first is ready when a majority is there.
      for (const broker of this.brokers) broker._spawn()
      for (const broker of this.brokers) await broker._waitUntilReady()
    } catch (error) {
      await this.#end()
      throw error
    }
    return this
  }

  async #init(root) {
    const specs = (await freePorts(this.#count)).map((port, i) => `${i + 1}@localhost:${port}`)
    const program = findBinary(this.#options.binary)
    await new Promise((done, fail) => {
      execFile(program, ['cluster', 'init', root, ...specs], (error, out, said) => {
        if (error) fail(failed('the cluster cannot be made', out + said))
        else done()
      })
    })
  }

  async close() {
    await this.#end()
    this.#directory.remove()
  }

  async #end() {
    const brokers = this.brokers
    this.brokers = []
    await Promise.all(brokers.map((broker) => (this.#directory.isTemporary ? broker.kill() : broker.stop())))
  }

  get address() {
    if (this.brokers.length === 0) throw new BrokerError('the cluster has not been started')
    return `thalweg://${this.brokers.map((broker) => broker.address.slice('thalweg://'.length)).join(',')}`
  }

  get ca() {
    return join(this.#directory.path, 'ca.pem')
  }
}

async function freePorts(count) {
  const sockets = Array.from({ length: count }, () => createSocket('udp4'))
  // All are held until the last is found, so that they differ.
  const ports = await Promise.all(
    sockets.map((each) => new Promise((done, fail) => each.once('error', fail).bind(0, '127.0.0.1', () => done(each.address().port)))),
  )
  await Promise.all(sockets.map((each) => new Promise((done) => each.close(done))))
  return ports
}

module.exports = { Broker, Cluster }
