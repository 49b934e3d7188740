// The API reference is made from lib/index.d.ts (`npm run reference`): everything exported, and each member of it, has a doc comment.

import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'

import thalweg from '../lib/index.js'

const lines = readFileSync(new URL('../lib/index.d.ts', import.meta.url), 'utf8').split('\n')
const isDeclaration = /^export (?:declare )?(?:abstract )?(?:class|interface|function|type|const) (\w+)/
const isMember = /^ {2,}(?:readonly |static |get )*(\[Symbol\.\w+\]|\w+)\??[:(]/
// What they do is the language's.
const ordinary = ['constructor', '[Symbol.asyncDispose]', '[Symbol.iterator]']

/** Names that are declared, each with whether a doc comment stands above it. */
function declared() {
  const found = []
  let of = ''
  let open = 0
  lines.forEach((line, at) => {
    const name = isDeclaration.exec(line)?.[1]
    if (name !== undefined) of = name
    // Within the parentheses of a call there are its parameters, which its comment tells of.
    const member = name === undefined && open === 0 && !line.includes('private constructor') ? isMember.exec(line)?.[1] : undefined
    if (name !== undefined || (member !== undefined && !ordinary.includes(member))) {
      found.push({ name: member === undefined ? of : `${of}.${member}`, isDocumented: lines[at - 1].trimEnd().endsWith('*/') })
    }
    const code = line.replace(/\/\*.*?\*\/|\/\/.*$/g, '')
    if (!/^\s*(?:\/\*\*|\*)/.test(line)) open += code.split('(').length - code.split(')').length
  })
  return found
}

test('everything that is exported has a doc comment', () => {
  const missing = declared().filter(({ isDocumented }) => !isDocumented)
  assert.deepEqual(missing.map(({ name }) => name), [])
})

test('what is declared is what there is', () => {
  const names = new Set(declared().map(({ name }) => name))
  for (const name of Object.keys(thalweg)) assert.ok(names.has(name), name)
  for (const of of [thalweg.Client, thalweg.Producer, thalweg.Consumer, thalweg.ConsumerRecord, thalweg.Batch]) {
    for (const member of Object.getOwnPropertyNames(of.prototype)) {
      assert.ok(member === 'constructor' || names.has(`${of.name}.${member}`), `${of.name}.${member}`)
    }
  }
})
