// A real broker for the tests.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

import * as kit from '../lib/testing/index.js'

export const root = fileURLToPath(new URL('../..', import.meta.url))
export const plugins = process.env.THALWEG_PLUGINS ?? join(root, 'target/plugins/wasm32-unknown-unknown/release')
export const vectors = JSON.parse(readFileSync(join(root, 'tests/conformance/vectors.json'), 'utf8'))
process.env.THALWEG_BIN ??= join(root, 'target/fast/thalweg')

/** A broker that ends with its test. */
export async function startBroker(t) {
  const broker = await kit.startBroker()
  t.after(() => broker.close())
  return broker
}
