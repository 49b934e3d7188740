// One class per kind of error; the kind tells what to do about it.

export class ThalwegError extends Error {
  static code = 'internal'
  static retriable = false

  constructor(message, place = undefined) {
    super(message)
    this.name = new.target.name
    this.code = new.target.code
    this.retriable = new.target.retriable
    // Topic, partition, offset, and both ends of the log, where it is about a place and as far as that is known.
    if (place !== undefined) Object.assign(this, place)
  }
}

export class TimedOutError extends ThalwegError {
  static code = 'timeout'
  static retriable = true
}
export class DisconnectedError extends ThalwegError {
  static code = 'disconnected'
  static retriable = true
}
export class NotFoundError extends ThalwegError {
  static code = 'not_found'
}
export class DeniedError extends ThalwegError {
  static code = 'denied'
}
export class InvalidError extends ThalwegError {
  static code = 'invalid'
}
export class RebalancedError extends ThalwegError {
  static code = 'rebalanced'
}
export class PluginFailedError extends ThalwegError {
  static code = 'plugin_failed'
}
export class StorageFullError extends ThalwegError {
  static code = 'storage_full'
  static retriable = true
}
export class DamagedError extends ThalwegError {
  static code = 'damaged'
}
export class InternalError extends ThalwegError {
  static code = 'internal'
}
export class UnsupportedError extends ThalwegError {
  static code = 'unsupported'
}
export class OffsetOutOfRangeError extends ThalwegError {
  static code = 'offset_out_of_range'
}
export class BadRecordError extends ThalwegError {
  static code = 'bad_record'
}

const classes = new Map(
  [
    TimedOutError,
    DisconnectedError,
    NotFoundError,
    DeniedError,
    InvalidError,
    RebalancedError,
    PluginFailedError,
    StorageFullError,
    DamagedError,
    InternalError,
    UnsupportedError,
    OffsetOutOfRangeError,
    BadRecordError,
  ].map((c) => [c.code, c]),
)

/** The error of a kind. */
export function makeError(code, message, place) {
  const Class = classes.get(code) ?? InternalError
  return new Class(message, place)
}

/** The error of a native error's text. */
export function errorOf(text) {
  // The native half puts code and place before the message, with this mark between them.
  const [code, place, message] = text.split('\u0001')
  return message === undefined ? undefined : makeError(code, message, place === '' ? undefined : JSON.parse(place))
}

/** Turns a native error into the class of its kind. */
export function raised(error) {
  return errorOf(String(error.message)) ?? error
}

/** Waits for a native call and turns its error into the class of its kind. */
export async function call(promise) {
  try {
    return await promise
  } catch (error) {
    throw raised(error)
  }
}
