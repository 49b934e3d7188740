// Writes what lib/client.js says of its calls into lib/index.d.ts, where it stands between two marks: a method whose doc comment has `@returns`, and a
// type of `@typedef`, are declared there as they are here. What has overloads, or is more than fields, stands in lib/index.d.ts by hand.
//
//   node declare.mjs [--check]

import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

import ts from 'typescript'

const [source, declarations] = ['lib/client.js', 'lib/index.d.ts'].map((path) => fileURLToPath(new URL(path, import.meta.url)))
const file = ts.createSourceFile(source, readFileSync(source, 'utf8'), ts.ScriptTarget.ES2022, true, ts.ScriptKind.JS)

const docsOf = (node) => node.jsDoc ?? []
const textOf = (comment) => ts.getTextOfJSDocComment(comment)?.trim() ?? ''
const typeOf = (tag) => tag.typeExpression.type.getText(file)

/** A doc comment on one line, or with its paragraphs as they are. */
function comment(text, indent) {
  const lines = text.split('\n')
  if (lines.length === 1) return `${indent}/** ${text} */`
  return [`${indent}/**`, ...lines.map((line) => `${indent} * ${line}`.trimEnd()), `${indent} */`].join('\n')
}

function method(node) {
  const doc = docsOf(node).at(-1)
  const returned = doc?.tags?.find(ts.isJSDocReturnTag)
  if (returned === undefined) return []
  const name = node.name.getText(file)
  const tags = doc.tags.filter(ts.isJSDocParameterTag)
  const said = tags.map((tag) => tag.name.getText(file))
  const taken = node.parameters.map((parameter) => parameter.name.getText(file))
  if (said.join() !== taken.join()) throw new Error(`${name} takes (${taken}), and its comment says (${said})`)
  const parameters = tags.map((tag) => `${tag.name.getText(file)}${tag.isBracketed ? '?' : ''}: ${typeOf(tag)}`)
  return [comment(textOf(doc.comment), '  '), `  ${name}(${parameters.join(', ')}): ${typeOf(returned)}`]
}

function typedef(doc) {
  return (doc.tags ?? []).filter(ts.isJSDocTypedefTag).flatMap((tag) => {
    const fields = tag.typeExpression.jsDocPropertyTags.flatMap((field) => {
      const name = `${field.name.getText(file)}${field.isBracketed ? '?' : ''}`
      return [comment(textOf(field.comment), '  '), `  ${name}: ${typeOf(field)}`]
    })
    return [comment(textOf(doc.comment), ''), `export interface ${tag.name.getText(file)} {`, ...fields, '}', '']
  })
}

const client = file.statements.find((node) => ts.isClassDeclaration(node) && node.name.text === 'Client')
const calls = client.members.filter(ts.isMethodDeclaration).flatMap(method)
const types = file.statements.flatMap((node) => docsOf(node).flatMap(typedef))

const there = readFileSync(declarations, 'utf8')
const between = (text, what, lines) => {
  const block = new RegExp(`( *// ${what} of lib/client\\.js, by declare\\.mjs:\n)[^]*?( *// By hand again\\.\n)`)
  if (!block.test(text)) throw new Error(`lib/index.d.ts has no place for the ${what} of lib/client.js`)
  return text.replace(block, (_, begin, end) => `${begin}${lines.join('\n')}\n${end}`)
}
const wanted = between(between(there, 'types', types.slice(0, -1)), 'calls', calls)
if (process.argv[2] !== '--check') writeFileSync(declarations, wanted)
else if (wanted !== there) {
  console.error('lib/index.d.ts is not what lib/client.js says: run `npm run declare`, and keep what it writes')
  process.exit(1)
}
