// One class per kind of error; the kind tells what to do about it.

'use strict'

class ThalwegError extends Error {
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

class TimedOutError extends ThalwegError {
  static code = 'timeout'
  static retriable = true
}
class DisconnectedError extends ThalwegError {
  static code = 'disconnected'
  static retriable = true
}
class NotFoundError extends ThalwegError {
  static code = 'not_found'
}
class DeniedError extends ThalwegError {
  static code = 'denied'
}
class InvalidError extends ThalwegError {
  static code = 'invalid'
}
class RebalancedError extends ThalwegError {
  static code = 'rebalanced'
}
class PluginFailedError extends ThalwegError {
  static code = 'plugin_failed'
}
class StorageFullError extends ThalwegError {
  static code = 'storage_full'
  static retriable = true
}
class DamagedError extends ThalwegError {
  static code = 'damaged'
}
class InternalError extends ThalwegError {
  static code = 'internal'
}
class UnsupportedError extends ThalwegError {
  static code = 'unsupported'
}
class OffsetOutOfRangeError extends ThalwegError {
  static code = 'offset_out_of_range'
}
class BadRecordError extends ThalwegError {
  static code = 'bad_record'
}

class AlreadyExistsError extends ThalwegError {
  static code = 'already_exists'
}
class ClosedError extends ThalwegError {
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
function makeError(code, message, about) {
  const Class = classes.get(code) ?? InternalError
  return new Class(message, about)
}

// Names of options that the core and brokers spell as Rust and Python do, in what they say of them. Names that users gave stand in quotes there.
const SPELLINGS = {
  batch_bytes: 'batchBytes',
  buffer_bytes: 'bufferBytes',
  delivery_timeout: 'deliveryTimeoutMs',
  filter_config: 'filterConfig',
  max_processing: 'maxProcessingMs',
  max_records: 'maxRecords',
  on_filter_failure: 'onFilterFailure',
  partitioner_config: 'partitionerConfig',
  segment_bytes: 'segmentBytes',
  segment_ms: 'segmentMs',
  session_timeout: 'sessionTimeoutMs',
}
const SPELLED = new RegExp(`(?<![\\w"-])(${Object.keys(SPELLINGS).join('|')})(?= is )`, 'g')

/** A message with the names that options have here. */
function spelled(message) {
  return message.replace(SPELLED, (name) => SPELLINGS[name]).replace('Name its CA with ca= or', 'Name its CA with the option ca, or')
}

/** The error of a native error's text. */
function errorOf(text) {
  // The native half puts the code and what it is about before the message, with this mark between them.
  const [code, json, message] = text.split('\u0001')
  if (message === undefined) return undefined
  const about = JSON.parse(json)
  if (about.key !== undefined) about.key = Buffer.from(about.key, 'hex')
  return makeError(code, spelled(message), about)
}

/** Turns a native error into the class of its kind. What a callback or a signal's reason gives may be anything, null too, and stays what it is. */
function raised(error) {
  return (typeof error?.message === 'string' ? errorOf(error.message) : undefined) ?? error
}

/** Throws where a class was called that only the SDK makes objects of; `how` says by what. */
function checkMade(isMade, Class, how) {
  if (!isMade) throw new TypeError(`new ${Class.name}() is not for users: ${how}`)
}

/** Waits for a native call and turns its error into the class of its kind. */
async function call(promise) {
  try {
    return await promise
  } catch (error) {
    throw raised(error)
  }
}

module.exports = {
  AlreadyExistsError,
  BadRecordError,
  call,
  checkMade,
  ClosedError,
  DamagedError,
  DeniedError,
  DisconnectedError,
  errorOf,
  InternalError,
  InvalidError,
  makeError,
  NotFoundError,
  OffsetOutOfRangeError,
  PluginFailedError,
  raised,
  RebalancedError,
  StorageFullError,
  ThalwegError,
  TimedOutError,
  UnsupportedError,
}
