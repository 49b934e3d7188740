// Makes what is published: `thalweg` without anything compiled, and two packages for each platform, which npm installs with it where they fit.
//
//   node pack.mjs FOLDER TARGET NATIVE COMMAND [TARGET NATIVE COMMAND …]
//
// TARGET is Rust's name of a platform, NATIVE its library, COMMAND its `thalweg` command; the .tgz files come to FOLDER.

import { execFileSync } from 'node:child_process'
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

/** What npm asks of a machine before it installs a package, by Rust's name of the platform. */
const PLATFORMS = {
  'x86_64-unknown-linux-gnu': { os: 'linux', cpu: 'x64', libc: 'glibc' },
  'aarch64-unknown-linux-gnu': { os: 'linux', cpu: 'arm64', libc: 'glibc' },
  'x86_64-unknown-linux-musl': { os: 'linux', cpu: 'x64', libc: 'musl' },
  'aarch64-unknown-linux-musl': { os: 'linux', cpu: 'arm64', libc: 'musl' },
  'aarch64-apple-darwin': { os: 'darwin', cpu: 'arm64' },
}

const [to, ...triples] = process.argv.slice(2)
if (to === undefined || triples.length === 0 || triples.length % 3 !== 0) throw new Error('pack.mjs FOLDER TARGET NATIVE COMMAND …')

const here = fileURLToPath(new URL('.', import.meta.url))
const { devDependencies: _, scripts: __, ...manifest } = JSON.parse(readFileSync(join(here, 'package.json'), 'utf8'))
const { version, license } = manifest
const temporary = mkdtempSync(join(tmpdir(), 'thalweg-pack-'))

/** Packs what `fill` puts into a folder. */
function pack(manifest, fill) {
  const folder = join(temporary, manifest.name)
  mkdirSync(folder, { recursive: true })
  fill(folder)
  writeFileSync(join(folder, 'package.json'), `${JSON.stringify(manifest, null, 2)}\n`)
  cpSync(join(here, '../LICENSE'), join(folder, 'LICENSE'))
  execFileSync('npm', ['pack', '--silent', '--pack-destination', resolve(to)], { cwd: folder, stdio: ['ignore', 'ignore', 'inherit'] })
}

/** Packs one file of one platform; answers with the package's name. */
function packFile(target, kind, what, file, at) {
  const platform = PLATFORMS[target]
  if (platform === undefined) throw new Error(`${target} is no platform of these packages; there are ${Object.keys(PLATFORMS).join(', ')}`)
  const { os, cpu, libc } = platform
  const platformName = [os, cpu, ...(libc === undefined ? [] : [libc === 'glibc' ? 'gnu' : libc])].join('-')
  const name = `@thalweg/${kind}-${platformName}`
  const description = `${what} for ${platformName}; comes with the package thalweg`
  const where = { os: [os], cpu: [cpu], ...(libc === undefined ? {} : { libc: [libc] }) }
  const main = kind === 'native' ? { main: at } : {}
  pack({ name, version, description, license, ...where, ...main, files: [at] }, (folder) => {
    mkdirSync(join(folder, 'bin'))
    cpSync(file, join(folder, at))
    chmodSync(join(folder, at), 0o755)
    writeFileSync(join(folder, 'README.md'), `# ${name}\n\n${description}.\n`)
  })
  return name
}

try {
  const names = []
  for (let i = 0; i < triples.length; i += 3) {
    const [target, native, command] = triples.slice(i)
    names.push(packFile(target, 'native', "Thalweg's client", native, 'bin/thalweg.node'))
    names.push(packFile(target, 'cli', 'The thalweg command', command, 'bin/thalweg'))
  }
  const files = manifest.files.filter((file) => file !== 'thalweg.node')
  const optionalDependencies = Object.fromEntries(names.map((name) => [name, version]))
  pack({ ...manifest, files, optionalDependencies }, (folder) => {
    cpSync(join(here, 'lib'), join(folder, 'lib'), { recursive: true })
    cpSync(join(here, 'README.md'), join(folder, 'README.md'))
  })
} finally {
  rmSync(temporary, { recursive: true, force: true })
}
