// One class per kind of error; the kind tells what to do about it.

export class ThalwegError extends Error {
  static code = 'internal'
  static retriable = false

  constructor(message, about = undefined) {
    super(message)
    this.name = new.target.name
    this.code = new.target.code
    this.retriable = new.target.retriable
    // Topic, partition, offset, both ends of the log, key and count of the records, plugin and reason: as far as it is about them.
    if (about !== undefined) Object.assign(this, about)
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

export class AlreadyExistsError extends ThalwegError {
  static code = 'already_exists'
}
export class ClosedError extends ThalwegError {
  static code = 'closed'
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
    AlreadyExistsError,
    ClosedError,
  ].map((c) => [c.code, c]),
)

/** The error of a kind. */
export function makeError(code, message, about) {
  const Class = classes.get(code) ?? InternalError
  return new Class(message, about)
}

/** The error of a native error's text. */
export function errorOf(text) {
  // The native half puts the code and what it is about before the message, with this mark between them.
  const [code, json, message] = text.split('\u0001')
  if (message === undefined) return undefined
  const about = JSON.parse(json)
  if (about.key !== undefined) about.key = Buffer.from(about.key, 'hex')
  return makeError(code, message, about)
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
