// Certificates and keys: given as they are, or by the path of their file.

'use strict'

const { readFile } = require('node:fs/promises')

const { checkText, kindOf, viewOf } = require('./data.js')
const { InvalidError } = require('./errors.js')

/** The bytes of PEM that was given as text, as bytes, or as a path. No message shows what was given: it may be a key. */
async function pemOf(name, given) {
  if (given === undefined) return undefined
  const view = viewOf(given)
  if (view === undefined && typeof given !== 'string') throw new TypeError(`${name} is ${kindOf(given)}; PEM as a string or bytes, or a path, is expected`)
  const text = view === undefined ? given : Buffer.from(view).toString('latin1')
  if (text.includes('-----BEGIN ')) return Buffer.from(view ?? given)
  if (view !== undefined || text.includes('\n')) throw new InvalidError(`${name} is not in PEM form: it has no -----BEGIN`)
  checkText(text, name)
  return await readFile(text)
}

module.exports = { pemOf }
