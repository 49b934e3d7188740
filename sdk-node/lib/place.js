// Places in a log as users name them: partitions, and positions in them. What is of another type is a TypeError that names the argument, what is out of range an InvalidError.

'use strict'

const { inspect, types } = require('node:util')

const { checkNames, checkNumber, checkString, kindOf, PARTITION, tagOf } = require('./data.js')
const { InvalidError } = require('./errors.js')

const OFFSET = [0, Number.MAX_SAFE_INTEGER, true]
const POSITION = "'earliest', 'latest', an offset or { timestamp } (milliseconds or a Date)"

/** The name of an argument's field. */
const field = (what, name) => (what.includes(' ') ? `${name} of ${what}` : `${what}.${name}`)

/** A position as the native half wants it: kind and number. `what` is the argument's name. */
function position(at, what, expected = POSITION) {
  if (at === 'earliest' || at === 'latest') return [at, 0]
  if (typeof at !== 'string' && typeof at !== 'number' && tagOf(at) !== 'Object') throw new TypeError(`${what} is ${kindOf(at)}; ${expected} is expected`)
  if (Number.isSafeInteger(at) && at >= 0) return ['offset', at]
  if (typeof at === 'object') {
    checkNames(`fields of ${what}`, at, ['timestamp'])
    const { timestamp } = at
    const ms = types.isDate(timestamp) ? timestamp.getTime() : timestamp
    if (typeof ms !== 'number') throw new TypeError(`${field(what, 'timestamp')} is ${kindOf(ms)}; milliseconds or a Date are expected`)
    if (Number.isSafeInteger(ms) && ms >= 0) return ['timestamp', ms]
  }
  throw new InvalidError(`${what} is ${inspect(at)}, which is no position; ${expected} is expected`)
}

/** Positions of single partitions; undefined for a position that is meant for all. */
function positions(starts) {
  if (!types.isMap(starts)) return undefined
  return [...starts].map(([at, start]) => {
    const [[topic, partition], [kind, value]] = [place(at, 'a key of start'), position(start, 'a value of start')]
    return { topic, partition, kind, value }
  })
}

/** Where a consumer starts that begins everywhere at the same position. */
function startOf(start) {
  return position(start, 'start', `${POSITION}, or a Map of partitions and those,`)
}

/** Topic and partition as the native half wants them; a number alone where one topic is read. */
function place(at, what) {
  if (typeof at === 'number') {
    checkNumber(what, at, PARTITION)
    return [undefined, at]
  }
  if (tagOf(at) !== 'Object') throw new TypeError(`${what} is ${kindOf(at)}; a partition's number, or { topic, partition }, is expected`)
  const { topic, partition } = at
  if (topic !== undefined) checkString(field(what, 'topic'), topic)
  checkNumber(field(what, 'partition'), partition, PARTITION)
  return [topic, partition]
}

/** A next offset of a partition, as it is committed. */
function placeAndOffset(one, what) {
  if (tagOf(one) !== 'Object') throw new TypeError(`${what} is ${kindOf(one)}; { partition, offset } is expected`)
  const [topic, partition] = place(one, what)
  const { offset } = one
  checkNumber(`${what}.offset`, offset, OFFSET)
  return { topic, partition, offset }
}

module.exports = { place, placeAndOffset, position, positions, startOf }
