// Client of the Thalweg streaming platform.

export { Client, connect } from './client.js'
export { Consumer } from './consumer.js'
export {
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
} from './errors.js'
export { Producer } from './producer.js'
export { Batch, ConsumerRecord } from './record.js'
