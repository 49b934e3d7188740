// Loads the native half. It stands beside this package (a checkout, or `npm pack` in one), or in the package of this platform.

'use strict'

const { existsSync } = require('node:fs')
const { join } = require('node:path')

const { nativePackage } = require('./platform.js')

const local = join(__dirname, '../thalweg.node')

function load() {
  if (existsSync(local)) return require(local)
  const name = nativePackage()
  try {
    return require(name)
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error
  }
  throw new Error(
    `thalweg: the native library is missing. Neither ${local} nor the package ${name} is there. ` +
      `It comes with \`npm install thalweg\` unless optional dependencies are left out; in a bundle, keep thalweg external; ` +
      'in a checkout, `cargo xtask node` builds it.',
  )
}

module.exports = { native: load() }
