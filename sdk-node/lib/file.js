// What is given by its bytes or by the path of its file: certificates, keys and modules.

'use strict'

const { readFile } = require('node:fs/promises')
const { inspect } = require('node:util')

const { checkText, kindOf, viewOf } = require('./data.js')
const { InvalidError } = require('./errors.js')

/** Text without any sign that it is a path: it may be what a file of PEM has between its first and last line, which no message shows. */
const SECRET = /^[\w+/=-]{40,}$/

/** The bytes of a file that was named by `path`, a string or a URL. */
async function bytesAt(name, path, instead) {
  if (typeof path === 'string') checkText(path, name)
  try {
    return await readFile(path)
  } catch (cause) {
    const shown = typeof path === 'string' && SECRET.test(path) ? 'what was given' : inspect(String(path))
    const why = cause.syscall === undefined ? cause.message : `${cause.code}`
    const error = new InvalidError(`${name}: ${shown} cannot be read as a file (${why}); give the path of one that is there, or ${instead}`)
    if (shown !== 'what was given') error.cause = cause
    throw error
  }
}

/** The bytes of PEM that was given as text, as bytes, or as a path. No message shows what was given, unless it is a path: it may be a key. */
async function pemOf(name, given) {
  if (given === undefined) return undefined
  const view = viewOf(given, name)
  if (view === undefined && typeof given !== 'string') throw new TypeError(`${name} is ${kindOf(given)}; PEM as a string or bytes, or a path, is expected`)
  const text = view === undefined ? given : Buffer.from(view).toString('latin1')
  if (text.includes('-----BEGIN ')) return Buffer.from(view ?? given)
  if (view !== undefined || text.includes('\n')) throw new InvalidError(`${name} is not in PEM form: it has no -----BEGIN`)
  return bytesAt(name, text, 'PEM as a string or bytes')
}

/** The bytes of a module that was given as they are, or by the path of its file. */
async function moduleOf(module) {
  const view = viewOf(module, 'module')
  if (view !== undefined) return Buffer.from(view)
  if (typeof module !== 'string' && !(module instanceof URL)) throw new TypeError(`module is ${kindOf(module)}; bytes, or the path of a file, are expected`)
  return bytesAt('module', module, 'its bytes')
}

module.exports = { moduleOf, pemOf }
