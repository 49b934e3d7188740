// What is published, and what is said where a part of it is missing.

import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const here = fileURLToPath(new URL('..', import.meta.url))
const root = fileURLToPath(new URL('../..', import.meta.url))

function temporary(t) {
  const folder = mkdtempSync(join(tmpdir(), 'packages-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return folder
}

test('what stands without its native library says what to do', (t) => {
  const folder = temporary(t)
  cpSync(join(here, 'lib'), join(folder, 'lib'), { recursive: true })
  for (const script of ["require('./lib/index.js')", "import('./lib/index.js')"]) {
    const result = spawnSync(process.execPath, ['-e', script], { cwd: folder, encoding: 'utf8' })
    assert.notEqual(result.status, 0)
    for (const words of [/native library is missing/, /npm install thalweg/, /in a bundle, keep thalweg external/, /cargo xtask node/]) assert.match(result.stderr, words)
  }
})

test('what is compiled is installed only where it runs', (t) => {
  const folder = temporary(t)
  writeFileSync(join(folder, 'compiled'), 'x')
  const triples = ['x86_64-unknown-linux-gnu', 'aarch64-unknown-linux-musl', 'aarch64-apple-darwin'].flatMap((target) => [target, 'compiled', 'compiled'])
  execFileSync(process.execPath, [join(here, 'pack.mjs'), folder, ...triples], { cwd: folder })
  const contents = (file) => execFileSync('tar', ['-tzf', file], { cwd: folder, encoding: 'utf8' }).trim().split('\n').sort()
  const manifest = (file) => JSON.parse(execFileSync('tar', ['-xzOf', file, 'package/package.json'], { cwd: folder, encoding: 'utf8' }))
  const files = readdirSync(folder).filter((file) => file.endsWith('.tgz'))
  const packages = new Map(files.map((file) => [manifest(file).name, { file, ...manifest(file) }]))
  const platforms = new Map([
    ['linux-x64-gnu', { os: ['linux'], cpu: ['x64'], libc: ['glibc'] }],
    ['linux-arm64-musl', { os: ['linux'], cpu: ['arm64'], libc: ['musl'] }],
    ['darwin-arm64', { os: ['darwin'], cpu: ['arm64'], libc: undefined }],
  ])
  assert.equal(packages.size, 1 + 2 * platforms.size)
  const { file, version, optionalDependencies, scripts, devDependencies, exports } = packages.get('thalweg')
  for (const [platform, where] of platforms) {
    for (const [kind, at] of [['native', 'bin/thalweg.node'], ['cli', 'bin/thalweg']]) {
      const name = `@thalweg/${kind}-${platform}`
      const { os, cpu, libc, main } = packages.get(name)
      assert.deepEqual({ os, cpu, libc }, where, name)
      assert.equal(main, kind === 'native' ? at : undefined)
      assert.equal(optionalDependencies[name], version)
      assert.deepEqual(contents(packages.get(name).file), ['package/LICENSE', 'package/README.md', `package/${at}`, 'package/package.json'].sort())
    }
  }
  assert.deepEqual([scripts, devDependencies], [undefined, undefined])
  const shipped = contents(file)
  assert.ok(!shipped.some((name) => name.includes('test/') || name.endsWith('.node')), shipped.join())
  for (const { types, default: code } of Object.values(exports)) for (const path of [types, code]) assert.ok(shipped.includes(join('package', path)), path)
})

test('every document that the README names is there', () => {
  const named = readFileSync(join(here, 'README.md'), 'utf8').match(/\b(?:docs|lib)\/[\w./-]*\w/g)
  assert.ok(named.length >= 4)
  for (const path of named) assert.ok(existsSync(join(path.startsWith('lib/') ? here : root, path)), path)
})
