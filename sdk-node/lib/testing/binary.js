// Where the `thalweg` command is.

import { X_OK } from 'node:constants'
import { accessSync, readFileSync, statSync } from 'node:fs'
import { createRequire } from 'node:module'
import { delimiter, dirname, join, resolve } from 'node:path'

export class BrokerError extends Error {
  constructor(message, log = '') {
    super(message)
    this.name = new.target.name
    this.log = log
  }
}

export class BinaryNotFoundError extends BrokerError {}

const REMEDY =
  'In a checkout, `cargo build --profile fast -p thalweg-cli` makes target/fast/thalweg: put it into PATH, set THALWEG_BIN to it, or pass binary'

export function findBinary(binary = undefined) {
  for (const [what, given] of [['binary', binary], ['THALWEG_BIN', process.env.THALWEG_BIN]]) {
    if (!given) continue
    const found = given.includes('/') ? runnable(resolve(given)) : inPath(given)
    if (found === undefined) throw new BinaryNotFoundError(`${what} is ${given}, which is no program. ${REMEDY}`)
    return found
  }
  const found = packaged() ?? inPath('thalweg')
  if (found === undefined) {
    throw new BinaryNotFoundError(
      `the \`thalweg\` command is missing: THALWEG_BIN is not set, the package thalweg-cli has none, and it is not in PATH. ${REMEDY}`,
    )
  }
  return found
}

/** The command of thalweg-cli, as its package.json names it. */
function packaged() {
  // From the tests' folder as well: a package that is linked into node_modules stands elsewhere.
  for (const from of [import.meta.url, join(process.cwd(), 'package.json')]) {
    try {
      const manifest = createRequire(from).resolve('thalweg-cli/package.json')
      const { bin } = JSON.parse(readFileSync(manifest, 'utf8'))
      const found = runnable(join(dirname(manifest), typeof bin === 'string' ? bin : bin.thalweg))
      if (found !== undefined) return found
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND') throw error
    }
  }
}

function inPath(name) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
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
