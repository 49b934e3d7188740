// The client: topics and plugins, and where producers and consumers come from.

'use strict'

const { Consumer, closeFor, isClosing } = require('./consumer.js')
const { bytesOf, checkBooleans, checkName, checkNames, checkNumber, checkNumbers, checkPartitions, checkString, checkStrings, DURATION, kindOf, presentOf, tagOf, topicsOf } = require('./data.js')
const { ClosedError, InvalidError, ThalwegError, call, checkMade, raised } = require('./errors.js')
const { moduleOf, pemOf } = require('./file.js')
const { startLog } = require('./log.js')
const { native } = require('./native.js')
const { position, positions, startOf } = require('./place.js')
const { Producer, watchExit } = require('./producer.js')

const PRODUCER_OPTIONS = ['lingerMs', 'batchBytes', 'compression', 'acks', 'deliveryTimeoutMs', 'bufferBytes']

const CONSUMER_OPTIONS = [
  'partitions', 'start', 'untilEnd', 'filter', 'filterConfig', 'onFilterFailure', 'onBadRecord', 'outOfRange', 'bufferBytes', 'group', 'instance',
  'sessionTimeoutMs', 'autoCommitMs', 'assignor', 'maxProcessingMs', 'waitForTopics', 'onRebalance', 'closeTimeoutMs', 'signal',
]
const TOPIC_OPTIONS = [
  'partitions', 'partitioner', 'partitionerConfig', 'retentionMs', 'retentionBytes', 'segmentBytes', 'segmentMs', 'timestampAheadMaxMs', 'replicationFactor',
]
// What numbers may be: [smallest, largest, whole]. None is more than what it crosses the border as; narrower limits are the core's.
const COUNT = [1, 0xffffffff, true]
const BYTES = [1, Number.MAX_SAFE_INTEGER, true]
const UNLIMITED = [-1, Number.MAX_SAFE_INTEGER, true]
const TOPIC_NUMBERS = {
  partitions: COUNT, replicationFactor: COUNT, retentionMs: UNLIMITED, retentionBytes: UNLIMITED, segmentBytes: BYTES, segmentMs: BYTES,
  timestampAheadMaxMs: UNLIMITED,
}
const PRODUCER_NUMBERS = { lingerMs: DURATION, batchBytes: COUNT, bufferBytes: BYTES, deliveryTimeoutMs: DURATION }
const CONSUMER_NUMBERS = {
  bufferBytes: BYTES, sessionTimeoutMs: [0, 0xffffffff, false], autoCommitMs: DURATION, maxProcessingMs: DURATION, closeTimeoutMs: DURATION,
}
const PRODUCER_TEXTS = ['compression', 'acks']
const CONSUMER_TEXTS = ['filter', 'onFilterFailure', 'onBadRecord', 'outOfRange', 'group', 'instance', 'assignor']
const CONNECT_OPTIONS = ['clientId', 'ca', 'cert', 'key', 'timeoutMs']

/**
 * A topic as the cluster knows it.
 *
 * @typedef {object} Topic
 * @property {string} name Its name.
 * @property {string} id Its identity, a UUID that is never given again.
 * @property {number} partitions How many partitions it has.
 * @property {string | null} partitioner "name@version", or null for the built-in one.
 * @property {number} retentionMs -1: for ever.
 * @property {number} retentionBytes Per partition; -1: unbounded.
 * @property {number} segmentBytes Size at which a segment is closed.
 * @property {number} segmentMs How long a segment stays open.
 * @property {number} timestampAheadMaxMs How far a record may be stamped ahead of the broker's clock; -1: any time.
 */

/**
 * A plugin as the cluster knows it.
 *
 * @typedef {object} Plugin
 * @property {string} name Its name.
 * @property {number} version Number of this upload under that name, from 1 on.
 * @property {'partitioner' | 'filter'} kind What it is for.
 * @property {string} digest SHA-256 of the module, in hexadecimal.
 * @property {number} bytes Size of the module.
 * @property {number} createdMs When it was uploaded, in milliseconds since 1970.
 */

/**
 * A consumer group in a list.
 *
 * @typedef {object} GroupInfo
 * @property {string} group The group id.
 * @property {'empty' | 'reconciling' | 'stable'} state 'empty' has no members; 'reconciling' is moving partitions.
 * @property {number} members How many members it has.
 */

async function connect(address, options = {}) {
  checkString('address', address)
  checkNames('options of connect', options, CONNECT_OPTIONS)
  checkNumbers(options, { timeoutMs: DURATION })
  const { clientId = 'thalweg-node', ca, cert, key, timeoutMs = 10_000 } = presentOf(options)
  checkString('clientId', clientId)
  if ((cert === undefined) !== (key === undefined)) {
    throw new InvalidError('cert and key go together: a certificate and its private key, in PEM form')
  }
  startLog()
  watchExit()
  const [caPem, certPem, keyPem] = await Promise.all([pemOf('ca', ca), pemOf('cert', cert), pemOf('key', key)])
  return new Client(address, await call(native.connect(address, clientId, caPem, timeoutMs, certPem, keyPem)))
}

class Client {
  #native
  /** Weakly: who drops a consumer without closing it has left its group once it is collected. */
  #consumers = new Set()

  constructor(address, client) {
    checkMade(typeof client?.call === 'function', Client, 'await connect(address) makes a client')
    this.address = address
    this.#native = client
  }

  get #open() {
    if (!this.#native) throw new ClosedError('the client is closed')
    return this.#native
  }

  /** A call of the core, by its name there. null is as good as left out. */
  async #call(name, args = {}) {
    return call(this.#open.call(name, presentOf(args)))
  }

  /**
   * Makes a topic. AlreadyExistsError: there is one of that name; NotFoundError: there is no such partitioner; DeniedError: this client may not change the cluster.
   * @param {string} name
   * @param {TopicOptions} [options]
   * @returns {Promise<Topic>}
   */
  async createTopic(name, options = {}) {
    checkName('name', name)
    checkNames('options of a topic', options, TOPIC_OPTIONS)
    checkNumbers(options, TOPIC_NUMBERS)
    checkStrings(options, ['partitioner'])
    const partitionerConfig = bytesOf(options.partitionerConfig, 'partitionerConfig')
    return this.#call('createTopic', { name, ...options, partitionerConfig })
  }

  /**
   * Gives a topic more partitions: so many that it has `total`. Asked for as many as it has, nothing changes, so that the call may be repeated.
   *
   * Keys are placed among all partitions from then on: a key may go to another partition than before, and its order holds within each of them, as in Kafka.
   * What stands in the topic stays where it is. Producers and consumers follow without a restart; new partitions are read from their first records.
   *
   * InvalidError: it has more than `total`, or `total` is above 10,000; DisconnectedError: too few brokers can be reached within `timeoutMs`; NotFoundError; UnsupportedError: a broker is of an older version; DeniedError.
   * @param {string} topic
   * @param {number} total
   * @returns {Promise<Topic>}
   */
  async addPartitions(topic, total) {
    checkName('topic', topic)
    checkNumber('total', total, COUNT)
    return this.#call('addPartitions', { topic, total })
  }

  /**
   * Removes a topic and its records, for ever. NotFoundError, DeniedError.
   * @param {string} name
   * @returns {Promise<void>}
   */
  async deleteTopic(name) {
    checkName('name', name)
    await this.#call('deleteTopic', { name })
  }

  /**
   * All topics, in the order of their names.
   * @returns {Promise<Topic[]>}
   */
  async topics() {
    return this.#call('topics')
  }

  /**
   * Offsets of a position by partition; 'latest' is the end (exclusive). Offsets are not dense: 'latest' less 'earliest' is no count of records. NotFoundError.
   * @param {string} topic
   * @param {Start} at
   * @returns {Promise<Map<number, number>>}
   */
  async offsets(topic, at) {
    checkName('topic', topic)
    return new Map(await this.#call('offsets', { topic, position: position(at, 'at') }))
  }

  /**
   * Uploads a module (bytes, or the path of a file) as the next version of `name`; the same module keeps its version. A broker that answers has a minute to try it. InvalidError: it is no plugin; DeniedError.
   * @param {string} name
   * @param {ArrayBufferView | ArrayBufferLike | string | URL} module
   * @returns {Promise<Plugin>}
   */
  async uploadPlugin(name, module) {
    checkName('name', name)
    return this.#call('uploadPlugin', { name, module: await moduleOf(module) })
  }

  /**
   * All plugins in all versions.
   * @returns {Promise<Plugin[]>}
   */
  async plugins() {
    return this.#call('plugins')
  }

  producer(topic, options = {}) {
    if (tagOf(topic) === 'Object') [topic, options] = [undefined, topic]
    if (topic !== undefined) checkName('topic', topic)
    checkNames('options of a producer', options, PRODUCER_OPTIONS)
    checkNumbers(options, PRODUCER_NUMBERS)
    checkStrings(options, PRODUCER_TEXTS)
    try {
      return new Producer(topic, this.#open.producer(topic, presentOf(options)))
    } catch (error) {
      throw raised(error)
    }
  }

  consumer(topics, options = {}) {
    const names = topicsOf(topics)
    checkNames('options of a consumer', options, CONSUMER_OPTIONS)
    const given = presentOf(options)
    checkNumbers(given, CONSUMER_NUMBERS)
    checkStrings(given, CONSUMER_TEXTS)
    checkBooleans(given, ['untilEnd', 'waitForTopics'])
    checkPartitions(given.partitions)
    if (given.onRebalance !== undefined && typeof given.onRebalance !== 'function') throw new TypeError(`onRebalance is ${kindOf(given.onRebalance)}; a function is expected`)
    if (given.signal !== undefined && typeof given.signal?.throwIfAborted !== 'function') throw new TypeError(`signal is ${kindOf(given.signal)}; an AbortSignal is expected`)
    const { signal, start, onRebalance, closeTimeoutMs, ...others } = given
    const filterConfig = bytesOf(given.filterConfig, 'filterConfig')
    const client = this.#open
    const starts = positions(start)
    const [startKind, startValue] = start === undefined || starts ? [] : startOf(start)
    const all = { ...others, startKind, startValue, starts: starts ?? [], filterConfig, tells: onRebalance !== undefined }
    if (options.autoCommitMs === null) all.autoCommitMs = -1
    const consumer = new Consumer(names, () => client.consumer(names, all), { signal, onRebalance, closeTimeoutMs, group: given.group })
    for (const ref of this.#consumers) if (ref.deref() === undefined) this.#consumers.delete(ref)
    this.#consumers.add(new WeakRef(consumer))
    return consumer
  }

  /**
   * Places a topic's records in another way from now on; null: by key hash and in turn. What stands in it stays where it is. NotFoundError, DeniedError; InvalidError: `partitioner` is
   * empty, or there are parameters without one.
   * @param {string} topic
   * @param {string | null} partitioner
   * @param {Data} [partitionerConfig]
   * @returns {Promise<void>}
   */
  async setPartitioner(topic, partitioner, partitionerConfig) {
    checkName('topic', topic)
    // One that was forgotten must not take the topic's partitioner away.
    if (partitioner !== null) checkString('partitioner', partitioner)
    await this.#call('setPartitioner', { topic, partitioner, config: bytesOf(partitionerConfig, 'partitionerConfig') })
  }

  /**
   * All consumer groups.
   * @returns {Promise<GroupInfo[]>}
   */
  async groups() {
    return this.#call('groups')
  }

  /**
   * A group with its members and offsets. NotFoundError.
   * @param {string} group
   * @returns {Promise<Group>}
   */
  async describeGroup(group) {
    checkName('group', group)
    return this.#call('describeGroup', { group })
  }

  /**
   * Forgets a group without members, and how far it has come. NotFoundError; InvalidError: it has members.
   * @param {string} group
   * @returns {Promise<void>}
   */
  async deleteGroup(group) {
    checkName('group', group)
    await this.#call('deleteGroup', { group })
  }

  /**
   * Moves a group without members in all partitions of a topic, or in some; answers with the offset of each. With `dryRun` it only answers. A group that does not exist is made, and
   * begins there. NotFoundError: there is no such topic or partition; InvalidError: it has members, or `partitions` is empty.
   * @param {string} group
   * @param {string} topic
   * @param {Start} to
   * @param {{ partitions?: readonly number[] | undefined; dryRun?: boolean | undefined }} [options]
   * @returns {Promise<Map<number, number>>}
   */
  async resetGroup(group, topic, to, options = {}) {
    checkName('group', group)
    checkName('topic', topic)
    const at = position(to, 'to')
    checkNames('options of resetGroup', options, ['partitions', 'dryRun'])
    checkPartitions(options.partitions)
    checkBooleans(options, ['dryRun'])
    const { partitions, dryRun } = options
    return new Map(await this.#call('resetGroup', { group, topic, partitions, to: at, dryRun: dryRun ?? false }))
  }

  /** Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed. */
  async close() {
    this.#native = undefined
    const consumers = [...this.#consumers].map((ref) => ref.deref()).filter((consumer) => consumer !== undefined)
    this.#consumers.clear()
    const errors = []
    const close = async (consumer) => {
      const isHeard = isClosing(consumer)
      await closeFor(consumer).catch((error) => {
        // Where a coordinator does not answer, its members count as gone when their sessions end. What else fails is a callback of the user's.
        if (!isHeard && !(error instanceof ThalwegError)) errors.push(error)
      })
    }
    await Promise.all(consumers.map(close))
    if (errors.length > 0) throw errors[0]
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }
}

module.exports = { connect, Client }
