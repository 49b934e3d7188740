// The client: topics and plugins, and where producers and consumers come from.

'use strict'

const { readFile } = require('node:fs/promises')

const { Consumer, position, positions } = require('./consumer.js')
const { checkNames, checkNumbers } = require('./data.js')
const { ClosedError, InvalidError, call, raised } = require('./errors.js')
const { startLog } = require('./log.js')
const { native } = require('./native.js')
const { pemOf } = require('./pem.js')
const { Producer } = require('./producer.js')

const PRODUCER_OPTIONS = ['lingerMs', 'batchBytes', 'compression', 'acks', 'deliveryTimeoutMs', 'bufferBytes']

const CONSUMER_OPTIONS = [
  'partitions', 'start', 'untilEnd', 'filter', 'filterConfig', 'onFilterFailure', 'onBadRecord', 'outOfRange', 'bufferBytes', 'group', 'instance',
  'sessionTimeoutMs', 'autoCommitMs', 'assignor', 'maxProcessingMs', 'waitForTopics', 'onRebalance', 'closeTimeoutMs', 'signal',
]
const TOPIC_OPTIONS = [
  'partitions', 'partitioner', 'partitionerConfig', 'retentionMs', 'retentionBytes', 'segmentBytes', 'segmentMs', 'timestampAheadMaxMs', 'replicationFactor',
]
// What numbers may be: [smallest, largest, whole].
const COUNT = [1, 0xffffffff, true]
const BYTES = [1, Number.MAX_SAFE_INTEGER, true]
/** A hundred years, in ms. */
const DURATION = [0, 3_155_760_000_000, false]
const UNLIMITED = [-1, Number.MAX_SAFE_INTEGER, true]
const TOPIC_NUMBERS = {
  partitions: COUNT, replicationFactor: COUNT, retentionMs: UNLIMITED, retentionBytes: UNLIMITED, segmentBytes: BYTES, segmentMs: BYTES,
  timestampAheadMaxMs: UNLIMITED,
}
const PRODUCER_NUMBERS = { lingerMs: DURATION, batchBytes: BYTES, bufferBytes: BYTES, deliveryTimeoutMs: DURATION }
const CONSUMER_NUMBERS = {
  bufferBytes: BYTES, sessionTimeoutMs: DURATION, autoCommitMs: DURATION, maxProcessingMs: DURATION, closeTimeoutMs: DURATION,
}
const CONNECT_OPTIONS = ['clientId', 'ca', 'cert', 'key', 'timeoutMs']

const toBuffer = (data) => (typeof data === 'string' ? Buffer.from(data) : data)

async function connect(address, options = {}) {
  checkNames('options of connect', options, CONNECT_OPTIONS)
  const { clientId = 'thalweg-node', ca, cert, key, timeoutMs = 10_000 } = options
  if (typeof clientId !== 'string') throw new TypeError(`clientId is a ${typeof clientId}; a string is expected`)
  checkNumbers(options, { timeoutMs: DURATION })
  if ((cert === undefined) !== (key === undefined)) {
    throw new InvalidError('cert and key go together: a certificate and its private key, in PEM form')
  }
  startLog()
  const [caPem, certPem, keyPem] = await Promise.all([pemOf('ca', ca), pemOf('cert', cert), pemOf('key', key)])
  return new Client(await call(native.connect(address, clientId, caPem, timeoutMs, certPem, keyPem)))
}

class Client {
  #native
  /** Weakly: who drops a consumer without closing it has left its group once it is collected. */
  #consumers = new Set()

  constructor(client) {
    this.#native = client
  }

  get #open() {
    if (!this.#native) throw new ClosedError('the client is closed')
    return this.#native
  }

  async createTopic(name, options = {}) {
    checkNames('options of a topic', options, TOPIC_OPTIONS)
    checkNumbers(options, TOPIC_NUMBERS)
    const config = options.partitionerConfig
    const made = await call(this.#open.createTopic(name, { ...options, partitionerConfig: toBuffer(config) }))
    return { ...made, partitioner: made.partitioner ?? null }
  }

  async deleteTopic(name) {
    await call(this.#open.deleteTopic(name))
  }

  async topics() {
    const topics = await call(this.#open.topics())
    return topics.map((t) => ({ ...t, partitioner: t.partitioner ?? null }))
  }

  async offsets(topic, at) {
    const [kind, value] = position(at)
    const offsets = await call(this.#open.offsets(topic, kind, value))
    return new Map(offsets.map((o) => [o.partition, o.offset]))
  }

  async uploadPlugin(name, module) {
    const data = module instanceof Uint8Array ? module : await readFile(module)
    return call(this.#open.uploadPlugin(name, Buffer.from(data)))
  }

  async plugins() {
    return call(this.#open.plugins())
  }

  producer(topic, options = {}) {
    if (typeof topic === 'object' && topic !== null) [topic, options] = [undefined, topic]
    if (topic !== undefined && typeof topic !== 'string') throw new TypeError(`topic is a ${typeof topic}; a string is expected`)
    checkNames('options of a producer', options, PRODUCER_OPTIONS)
    checkNumbers(options, PRODUCER_NUMBERS)
    try {
      return new Producer(topic, this.#open.producer(topic, options))
    } catch (error) {
      throw raised(error)
    }
  }

  consumer(topics, given = {}) {
    checkNames('options of a consumer', given, CONSUMER_OPTIONS)
    checkNumbers(given, CONSUMER_NUMBERS)
    for (const number of given.partitions ?? []) checkNumbers({ partitions: number }, { partitions: [0, 0x7fffffff, true] })
    if (given.onRebalance !== undefined && typeof given.onRebalance !== 'function') throw new TypeError('onRebalance is no function')
    if (given.signal !== undefined && typeof given.signal?.throwIfAborted !== 'function') throw new TypeError('signal is no AbortSignal')
    const { signal, start, filterConfig, autoCommitMs, onRebalance, closeTimeoutMs, ...options } = given
    const client = this.#open
    const names = typeof topics === 'string' ? [topics] : [...topics]
    const starts = positions(start)
    const [startKind, startValue] = start === undefined || starts ? [] : position(start)
    const all = { ...options, startKind, startValue, starts: starts ?? [], filterConfig: toBuffer(filterConfig), tells: onRebalance !== undefined }
    if (autoCommitMs !== undefined) all.autoCommitMs = autoCommitMs === null ? -1 : autoCommitMs
    const consumer = new Consumer(names, () => client.consumer(names, all), { signal, onRebalance, closeTimeoutMs, group: options.group })
    for (const ref of this.#consumers) if (ref.deref() === undefined) this.#consumers.delete(ref)
    this.#consumers.add(new WeakRef(consumer))
    return consumer
  }

  async setPartitioner(topic, partitioner, partitionerConfig) {
    await call(this.#open.setPartitioner(topic, partitioner ?? undefined, toBuffer(partitionerConfig)))
  }

  async groups() {
    return call(this.#open.groups())
  }

  async describeGroup(group) {
    const found = await call(this.#open.describeGroup(group))
    const members = found.members.map((m) => ({ ...m, instance: m.instance ?? null }))
    const offsets = found.offsets.map((o) => ({ ...o, committed: o.committed ?? null, lag: o.lag ?? null }))
    return { ...found, filter: found.filter ?? null, members, offsets }
  }

  async deleteGroup(group) {
    await call(this.#open.deleteGroup(group))
  }

  async resetGroup(group, topic, to, { partitions = [], dryRun = false } = {}) {
    const [kind, value] = position(to)
    const moved = await call(this.#open.resetGroup(group, topic, partitions, kind, value, dryRun))
    return new Map(moved.map((o) => [o.partition, o.offset]))
  }

  /** Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed. */
  async close() {
    this.#native = undefined
    const consumers = [...this.#consumers].map((ref) => ref.deref())
    this.#consumers.clear()
    // Where a coordinator does not answer, its members count as gone when their sessions end.
    await Promise.allSettled(consumers.map((consumer) => consumer?.close()))
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }
}

module.exports = { connect, Client }
