// Real brokers for the tests of what uses Thalweg: the `thalweg` command in processes of their own.

'use strict'

const { randomUUID } = require('node:crypto')

const { checkString, kindOf } = require('../data.js')
const { BinaryNotFoundError, BrokerError, findBinary } = require('./binary.js')
const { Broker, Cluster } = require('./broker.js')

async function startBroker(options = {}) {
  return new Broker(options).start()
}

async function startCluster(options = {}) {
  return new Cluster(options).start()
}

function useBroker(hooks, options = {}) {
  const begin = hooks?.before ?? hooks?.beforeAll
  const end = hooks?.after ?? hooks?.afterAll
  if (typeof begin !== 'function' || typeof end !== 'function') {
    throw new TypeError(`hooks is ${kindOf(hooks)}; { before, after } of node:test, or { beforeAll, afterAll } of vitest, is expected`)
  }
  const broker = new Broker(options)
  // Without an answer: vitest would take one for a clean-up.
  begin(async () => void (await broker.start()))
  end(() => broker.close())
  return broker
}

function unique(prefix = 'test') {
  checkString('prefix', prefix)
  return `${prefix}-${randomUUID().replaceAll('-', '').slice(0, 12)}`
}

module.exports = { BinaryNotFoundError, Broker, BrokerError, Cluster, findBinary, startBroker, startCluster, unique, useBroker }
