// What may be sent, and its bytes. They are taken at the call: whatever the caller changes afterwards changes nothing.

'use strict'

const { types } = require('node:util')

const { InvalidError } = require('./errors.js')

/** A word for what somebody passed. */
function kindOf(value) {
  if (value === null) return 'null'
  if (typeof value !== 'object') return typeof value
  return Object.prototype.toString.call(value).slice(8, -1)
}

/** A view of the bytes of an ArrayBuffer or of any view of one, of whichever realm; undefined for anything else. */
function viewOf(data) {
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  if (types.isAnyArrayBuffer(data)) return new Uint8Array(data)
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
  const view = viewOf(data)
  if (view === undefined) throw new TypeError(`${what} is ${kindOf(data)}; a string or bytes are expected`)
  return view
}

/** A record's value: text or bytes as they are, arrays and objects as JSON. */
function valueOf(value) {
  if (value === null || typeof value === 'string') return dataOf(value, 'value')
  const view = viewOf(value)
  if (view !== undefined) return view
  const isPromise = typeof value?.then === 'function'
  // By its own name: a Map, a Date, an Error or a Promise has another one, in every realm.
  const isJson = Array.isArray(value) || (typeof value === 'object' && kindOf(value) === 'Object')
  if (!isJson || isPromise) {
    const hint = isPromise ? ' (is an await missing?)' : ''
    throw new TypeError(`value is ${kindOf(value)}${hint}; a string, bytes, null, or an object or array for JSON are expected`)
  }
  const text = JSON.stringify(value)
  if (text === undefined) throw new TypeError('value has no JSON: its toJSON() returns undefined')
  return text
}

/** Pairs of a name and its data. */
function headersOf(headers) {
  if (headers === undefined || headers === null) return []
  let pairs
  if (Array.isArray(headers) || types.isMap(headers) || kindOf(headers) === 'Headers') pairs = [...headers]
  else if (kindOf(headers) === 'Object') pairs = Object.entries(headers)
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
  checkNumbers({ partition }, { partition: [0, 0x7fffffff, true] })
  return partition
}

/** Throws for an option that does not exist: a typo must not be ignored. */
function checkNames(what, options, known) {
  if (typeof options !== 'object' || options === null) {
    throw new TypeError(`${what} are ${kindOf(options)}; an object is expected`)
  }
  for (const name of Object.keys(options)) {
    if (!known.includes(name)) {
      throw new TypeError(`${what} have no ${JSON.stringify(name)}; there are ${known.join(', ')}`)
    }
  }
}

/** Throws for a number that cannot be meant: nothing is rounded, wrapped or cut in silence. `ranges`: name to [smallest, largest, whole]. */
function checkNumbers(options, ranges) {
  for (const [name, [least, most, isWhole]] of Object.entries(ranges)) {
    const value = options[name]
    if (value === undefined || value === null) continue
    if (typeof value !== 'number') throw new TypeError(`${name} is ${kindOf(value)}; a number is expected`)
    const isGood = value >= least && value <= most && (!isWhole || Number.isInteger(value))
    if (!isGood) throw new InvalidError(`${name} is ${value}; a ${isWhole ? 'whole ' : ''}number from ${least} to ${most} is expected`)
  }
}

module.exports = { viewOf, checkText, dataOf, valueOf, headersOf, timestampOf, partitionOf, checkNames, checkNumbers }
