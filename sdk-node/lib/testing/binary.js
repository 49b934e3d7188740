// Where the `thalweg` command is.

'use strict'

const { X_OK } = require('node:constants')
const { accessSync, statSync } = require('node:fs')
const { delimiter, resolve } = require('node:path')

const { checkStrings } = require('../data.js')
const { commandPackage, packagedCommand } = require('../platform.js')

class BrokerError extends Error {
  constructor(message, log = '') {
    super(message)
    this.name = new.target.name
    this.log = log
  }
}

class BinaryNotFoundError extends BrokerError {}

const REMEDY =
  '`npm install thalweg` brings it unless optional dependencies are left out. In a checkout, `cargo build --profile fast -p thalweg-cli` makes target/fast/thalweg: put it into PATH, set THALWEG_BIN to it, or pass binary'

function findBinary(binary = undefined) {
  checkStrings({ binary }, ['binary'])
  for (const [what, given] of [['binary', binary], ['THALWEG_BIN', process.env.THALWEG_BIN]]) {
    if (!given) continue
    const found = given.includes('/') ? runnable(resolve(given)) : inPath(given)
    if (found === undefined) throw new BinaryNotFoundError(`${what} is ${given}, which is no program. ${REMEDY}`)
    return found
  }
  const packaged = packagedCommand()
  const found = (packaged && runnable(packaged)) ?? inPath('thalweg')
  if (found === undefined) {
    throw new BinaryNotFoundError(
      `the \`thalweg\` command is missing: THALWEG_BIN is not set, the package ${commandPackage()} is not installed, and it is not in PATH. ${REMEDY}`,
    )
  }
  return found
}

function inPath(name) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    // npm puts what stands there in front: this package's own lib/cli.js, which has no command where there is no package of this platform.
    if (folder.endsWith('node_modules/.bin')) continue
    const found = runnable(resolve(folder, name))
    if (found !== undefined) return found
  }
}

function runnable(path) {
  try {
    accessSync(path, X_OK)
    return statSync(path).isFile() ? path : undefined
  } catch {
    return undefined
  }
}

module.exports = { BrokerError, BinaryNotFoundError, findBinary }
