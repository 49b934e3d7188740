// A real broker for the tests.

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))
const binary = process.env.THALWEG_BIN ?? join(root, 'target/fast/thalweg')
export const plugins = process.env.THALWEG_PLUGINS ?? join(root, 'target/plugins/wasm32-unknown-unknown/release')
export const vectors = JSON.parse(readFileSync(join(root, 'tests/conformance/vectors.json'), 'utf8'))

export async function startBroker(t) {
  const directory = mkdtempSync(join(tmpdir(), 'thalweg-node-'))
  const environment = { ...process.env, XDG_STATE_HOME: join(directory, 'state'), THALWEG_LOG: 'error' }
  const child = spawn(binary, ['dev', '--port', '0', '--http-port', '0', '--data-dir', directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
    env: environment,
  })
  t.after(() => {
    child.kill('SIGKILL')
    rmSync(directory, { recursive: true, force: true })
  })
  let address
  for await (const line of createInterface({ input: child.stdout })) {
    address ??= line.split(' ').pop()
    if (line.startsWith('Ctrl-C')) break
  }
  return { address, ca: join(directory, 'tls/ca.pem'), child }
}
