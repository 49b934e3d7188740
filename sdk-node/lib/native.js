// Loads the native half. It stands beside this package (a checkout, or `npm pack`), or in a package of this platform.

import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'

const require = createRequire(import.meta.url)
const local = fileURLToPath(new URL('../thalweg.node', import.meta.url))
const platformPackage = `@thalweg/${process.platform}-${process.arch}`

function load() {
  try {
    return require(local)
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error
  }
  try {
    return require(platformPackage)
  } catch (error) {
    if (error.code !== 'MODULE_NOT_FOUND') throw error
  }
  throw new Error(
    `thalweg: the native library is missing. Looked for ${local} and for the package ${platformPackage}. ` +
      'In a checkout, `cargo xtask node` builds it; elsewhere, install the package of your platform.',
  )
}

export const native = load()
