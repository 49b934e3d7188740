// Real brokers for the tests of what uses Thalweg: the `thalweg` command in processes of their own.

import { randomUUID } from 'node:crypto'

import { Broker, Cluster } from './broker.js'

export { BinaryNotFoundError, BrokerError, findBinary } from './binary.js'
export { Broker, Cluster }

export async function startBroker(options = {}) {
  return new Broker(options).start()
}

export async function startCluster(options = {}) {
  return new Cluster(options).start()
}

export function useBroker(hooks, options = {}) {
  const begin = hooks.before ?? hooks.beforeAll
  const end = hooks.after ?? hooks.afterAll
  if (typeof begin !== 'function' || typeof end !== 'function') {
    throw new TypeError('hooks is { before, after } of node:test, or { beforeAll, afterAll } of vitest')
  }
  const broker = new Broker(options)
  // Without an answer: vitest would take one for a clean-up.
  begin(async () => void (await broker.start()))
  end(() => broker.close())
  return broker
}

export function unique(prefix = 'test') {
  return `${prefix}-${randomUUID().replaceAll('-', '').slice(0, 12)}`
}
