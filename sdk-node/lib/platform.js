// The packages of this platform, which hold what is compiled: `@thalweg/native-…` the client, `@thalweg/cli-…` the command.

'use strict'

const { createRequire } = require('node:module')
const { dirname, join } = require('node:path')

/** As package names have it: linux-x64-gnu, linux-arm64-musl, darwin-arm64. */
function platform() {
  const { platform, arch } = process
  if (platform !== 'linux') return `${platform}-${arch}`
  // Only glibc says its version.
  const { header } = process.report.getReport()
  return `${platform}-${arch}-${header.glibcVersionRuntime ? 'gnu' : 'musl'}`
}

const nativePackage = () => `@thalweg/native-${platform()}`
const commandPackage = () => `@thalweg/cli-${platform()}`

/** The command in the package of this platform, or undefined. */
function packagedCommand() {
  const manifest = `${commandPackage()}/package.json`
  // From the caller's folder as well: a package that is linked into node_modules stands elsewhere.
  for (const from of [__filename, join(process.cwd(), 'package.json')]) {
    try {
      return join(dirname(createRequire(from).resolve(manifest)), 'bin/thalweg')
    } catch (error) {
      if (error.code !== 'MODULE_NOT_FOUND') throw error
    }
  }
}

module.exports = { commandPackage, nativePackage, packagedCommand }
