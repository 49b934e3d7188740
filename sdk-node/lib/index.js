// Client of the Thalweg streaming platform.

export { Client, connect } from './client.js'
export { Consumer } from './consumer.js'
export {
  DamagedError,
  DeniedError,
  DisconnectedError,
  InternalError,
  InvalidError,
  NotFoundError,
  PluginFailedError,
  RebalancedError,
  StorageFullError,
  ThalwegError,
  TimedOutError,
  UnsupportedError,
} from './errors.js'
export { Producer } from './producer.js'
export { Batch, Record } from './record.js'
