// Client of the Thalweg streaming platform. CommonJS, which `require` and `import` both take: there is one copy of each class, whoever asks.

'use strict'

const { Client, connect } = require('./client.js')
const { Consumer } = require('./consumer.js')
const {
  AlreadyExistsError,
  BadRecordError,
  ClosedError,
  DamagedError,
  DeniedError,
  DisconnectedError,
  InternalError,
  InvalidError,
  NotFoundError,
  OffsetOutOfRangeError,
  PluginFailedError,
  RebalancedError,
  StorageFullError,
  ThalwegError,
  TimedOutError,
  UnsupportedError,
} = require('./errors.js')
const { Producer } = require('./producer.js')
const { Batch, ConsumerRecord } = require('./record.js')

// Names, one by one: `import { connect }` reads them without running this file.
module.exports = {
  AlreadyExistsError,
  BadRecordError,
  Batch,
  Client,
  ClosedError,
  connect,
  Consumer,
  ConsumerRecord,
  DamagedError,
  DeniedError,
  DisconnectedError,
  InternalError,
  InvalidError,
  NotFoundError,
  OffsetOutOfRangeError,
  PluginFailedError,
  Producer,
  RebalancedError,
  StorageFullError,
  ThalwegError,
  TimedOutError,
  UnsupportedError,
}
