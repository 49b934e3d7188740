// What may be sent, and its bytes. They are taken at the call: whatever the caller changes afterwards changes nothing.

'use strict'

const { types } = require('node:util')

const { InvalidError } = require('./errors.js')

/** What a partition's number may be: [smallest, largest, whole]. */
const PARTITION = [0, 0x7fffffff, true]
/** What a time may be, in ms: up to a hundred years. */
const DURATION = [0, 3_155_760_000_000, false]
/** The longest that a timer of Node's can be set to, in ms, 24 days: what is longer waits for so long. */
const TIMER_MAX_MS = 0x7fffffff

/** The kind of a value in a word: a Map, a Date, an Error or a Promise has a name of its own, in every realm. */
function tagOf(value) {
  if (value === null) return 'null'
  if (typeof value !== 'object') return typeof value
  return Object.prototype.toString.call(value).slice(8, -1)
}

/** The same in words, for who passed it. */
function kindOf(value) {
  return isPromise(value) ? `${tagOf(value)} (is an await missing?)` : tagOf(value)
}

function isPromise(value) {
  return typeof value === 'object' && typeof value?.then === 'function'
}

/** A view of the bytes of an ArrayBuffer or of any view of one, of whichever realm; undefined for anything else. */
function viewOf(data, what) {
  try {
    if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    if (types.isAnyArrayBuffer(data)) return new Uint8Array(data)
  } catch (cause) {
    throw new TypeError(`${what} has no bytes any more: its ArrayBuffer was transferred (detached), or has shrunk`, { cause })
  }
  return undefined
}

/** Throws for text that has no bytes in UTF-8: other characters would be stored in its place. */
function checkText(text, what) {
  if (!text.isWellFormed()) throw new InvalidError(`${what} is not valid text: it holds half of a surrogate pair, which UTF-8 has no bytes for`)
}

/** Text as it is, or a view of bytes; null stays null. */
function dataOf(data, what) {
  if (data === null) return data
  if (typeof data === 'string') {
    checkText(data, what)
    return data
  }
  const view = viewOf(data, what)
  if (view === undefined) throw new TypeError(`${what} is ${kindOf(data)}; a string or bytes are expected`)
  return view
}

/** A record's value: text or bytes as they are, arrays and objects as JSON. */
function valueOf(value) {
  if (value === null || typeof value === 'string') return dataOf(value, 'value')
  const view = viewOf(value, 'value')
  if (view !== undefined) return view
  const isJson = Array.isArray(value) || tagOf(value) === 'Object'
  if (!isJson || isPromise(value)) {
    throw new TypeError(`value is ${kindOf(value)}; a string, bytes, null, or an object or array for JSON are expected`)
  }
  const text = jsonOf(value)
  if (text === undefined) throw new TypeError('value has no JSON: its toJSON() returns undefined')
  return text
}

/** What JSON has no form for (a circle, a BigInt, what is nested too deep) names the value; an error of its own `toJSON` stays that. */
function jsonOf(value) {
  try {
    return JSON.stringify(value)
  } catch (cause) {
    const isTooDeep = cause instanceof RangeError && cause.message.includes('call stack')
    if (!(cause instanceof TypeError || isTooDeep)) throw cause
    throw new TypeError(`value has no JSON: ${cause.message}`, { cause })
  }
}

/** Pairs of a name and its data. */
function headersOf(headers) {
  if (headers === undefined || headers === null) return []
  let pairs
  if (Array.isArray(headers) || types.isMap(headers) || tagOf(headers) === 'Headers') pairs = [...headers]
  else if (tagOf(headers) === 'Object') pairs = Object.entries(headers)
  else throw new TypeError(`headers is ${kindOf(headers)}; an object, a Map, or pairs of name and value are expected`)
  return pairs.map((pair) => {
    if (!Array.isArray(pair) || pair.length !== 2 || typeof pair[0] !== 'string') {
      throw new TypeError('headers holds something that is no pair of a name (a string) and a value')
    }
    checkText(pair[0], "a header's name")
    return [pair[0], dataOf(pair[1], `header ${JSON.stringify(pair[0])}`)]
  })
}

/** Milliseconds since the epoch, NaN where none are given. */
function timestampOf(at) {
  if (at === undefined || at === null) return NaN
  const ms = types.isDate(at) ? at.getTime() : at
  if (typeof ms !== 'number') throw new TypeError(`timestampMs is ${kindOf(at)}; milliseconds or a Date are expected`)
  // Which of them a topic takes, the core knows.
  if (!Number.isSafeInteger(ms)) {
    throw new InvalidError(`timestampMs is ${ms}; whole milliseconds since 1970 are expected`)
  }
  return ms
}

/** A partition's number. */
function partitionOf(partition) {
  checkNumber('partition', partition, PARTITION)
  return partition
}

/** Throws for an argument that is no text, or has no bytes. */
function checkString(what, value) {
  if (typeof value !== 'string') throw new TypeError(`${what} is ${kindOf(value)}; a string is expected`)
  checkText(value, what)
}

/** The same for a name, which nothing has that is empty. */
function checkName(what, value) {
  checkString(what, value)
  if (value === '') throw new InvalidError(`${what} is empty`)
}

/** Throws for options that are no text, or have no bytes; they may be left out. */
function checkStrings(options, names) {
  for (const name of names) if (options[name] !== undefined && options[name] !== null) checkString(name, options[name])
}

/** A number of things by their name: "1 record", "2 records". */
function counted(count, name) {
  return `${count} ${name}${count === 1 ? '' : 's'}`
}

/** The options that were given: null is as good as left out. */
function presentOf(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined && value !== null))
}

/** Throws for options that are neither true nor false, nor left out. */
function checkBooleans(options, names) {
  for (const name of names) {
    const value = options[name]
    if (value === undefined || value === null) continue
    if (typeof value !== 'boolean') throw new TypeError(`${name} is ${kindOf(value)}; true or false is expected`)
  }
}

/** Throws for what is no list of partitions' numbers; it may be left out. */
function checkPartitions(partitions) {
  if (partitions === undefined || partitions === null) return
  if (!Array.isArray(partitions)) throw new TypeError(`partitions is ${kindOf(partitions)}; an array of numbers is expected`)
  partitions.forEach((partition, i) => checkNumber(`partitions[${i}]`, partition, PARTITION))
}

/** Bytes of an argument that is text or bytes; undefined where it is left out. */
function bytesOf(data, what) {
  return data === undefined || data === null ? undefined : Buffer.from(dataOf(data, what))
}

/** Throws for an option that does not exist: a typo must not be ignored. */
function checkNames(what, options, known) {
  if (typeof options !== 'object' || options === null) {
    throw new TypeError(`${what} are ${kindOf(options)}; an object is expected`)
  }
  const names = Object.keys(options)
  // Of a Map or an array, nothing would be heeded.
  if (names.length === 0 && tagOf(options) !== 'Object') throw new TypeError(`${what} are ${kindOf(options)}; an object is expected`)
  for (const name of names) {
    if (!known.includes(name)) {
      throw new TypeError(`${what} have no ${JSON.stringify(name)}; there are ${known.join(', ')}`)
    }
  }
}

/** Throws for numbers that cannot be meant, among options, which may be left out. `ranges`: name to [smallest, largest, whole]. */
function checkNumbers(options, ranges) {
  for (const [name, range] of Object.entries(ranges)) {
    const value = options[name]
    if (value !== undefined && value !== null) checkNumber(name, value, range)
  }
}

/** Throws for a number that cannot be meant: nothing is rounded, wrapped or cut in silence. */
function checkNumber(name, value, [least, most, isWhole]) {
  if (typeof value !== 'number') throw new TypeError(`${name} is ${kindOf(value)}; a number is expected`)
  const isGood = value >= least && value <= most && (!isWhole || Number.isInteger(value))
  if (!isGood) throw new InvalidError(`${name} is ${value}; a ${isWhole ? 'whole ' : ''}number from ${least} to ${most} is expected`)
}

/** The names of topics, one or several: of a Map or a String object, others would be read than are meant. */
function topicsOf(topics) {
  if (typeof topics === 'string') {
    checkString('topics', topics)
    return [topics]
  }
  if (!Array.isArray(topics) && !types.isSet(topics)) throw new TypeError(`topics is ${kindOf(topics)}; a string, or an array of strings, is expected`)
  const names = [...topics]
  names.forEach((name, i) => checkString(`topics[${i}]`, name))
  return names
}

module.exports = {
  bytesOf,
  checkBooleans,
  checkName,
  checkNames,
  checkNumber,
  checkNumbers,
  checkPartitions,
  checkString,
  checkStrings,
  checkText,
  counted,
  dataOf,
  DURATION,
  headersOf,
  kindOf,
  PARTITION,
  partitionOf,
  presentOf,
  tagOf,
  TIMER_MAX_MS,
  timestampOf,
  topicsOf,
  valueOf,
  viewOf,
}
