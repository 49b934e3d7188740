// The client: topics and plugins, and where producers and consumers come from.

import { readFile } from 'node:fs/promises'

import { Consumer, position } from './consumer.js'
import { checkNames } from './data.js'
import { InvalidError, call, raised } from './errors.js'
import { native } from './native.js'
import { Producer } from './producer.js'

const PRODUCER_OPTIONS = ['lingerMs', 'batchBytes', 'compression', 'acks', 'deliveryTimeoutMs', 'bufferBytes']

const toBuffer = (data) => (typeof data === 'string' ? Buffer.from(data) : data)

export async function connect(address, { ca, cert, key, timeoutMs = 10_000 } = {}) {
  if ((cert === undefined) !== (key === undefined)) {
    throw new InvalidError('cert and key go together: a certificate and its private key, PEM files')
  }
  const read = async (path) => (path === undefined ? undefined : await readFile(path))
  return new Client(await call(native.connect(address, await read(ca), timeoutMs, await read(cert), await read(key))))
}

export class Client {
  #native

  constructor(client) {
    this.#native = client
  }

  get #open() {
    if (!this.#native) throw new InvalidError('the client is closed')
    return this.#native
  }

  async createTopic(name, options = {}) {
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
    checkNames('options of a producer', options, PRODUCER_OPTIONS)
    try {
      return new Producer(topic, this.#open.producer(topic, options))
    } catch (error) {
      throw raised(error)
    }
  }

  consumer(topics, { signal, start, filterConfig, autoCommitMs, onRebalance, ...options } = {}) {
    const client = this.#open
    const names = typeof topics === 'string' ? [topics] : [...topics]
    const [startKind, startValue] = start === undefined ? [] : position(start)
    const all = { ...options, startKind, startValue, filterConfig: toBuffer(filterConfig) }
    if (autoCommitMs !== undefined) all.autoCommitMs = autoCommitMs === null ? -1 : autoCommitMs
    return new Consumer(names, () => client.consumer(names, all), { signal, onRebalance, group: options.group })
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

  /** Lets the connection go; producers and consumers that are open keep theirs until they are closed. */
  async close() {
    this.#native = undefined
  }

  async [Symbol.asyncDispose ?? Symbol.for('Symbol.asyncDispose')]() {
    await this.close()
  }
}
