#!/usr/bin/env node
// `npx thalweg …`: the command of this platform's package, with this process in front of it.

'use strict'

const { spawn } = require('node:child_process')
const { constants } = require('node:os')

const { commandPackage, packagedCommand } = require('./platform.js')

const program = packagedCommand()
if (program === undefined) {
  console.error(
    `error: the package ${commandPackage()} is not installed. It comes with \`npm install thalweg\` unless optional dependencies are left out; ` +
      'in a checkout, `cargo thalweg` runs the command',
  )
  process.exit(1)
}
const child = spawn(program, process.argv.slice(2), { stdio: 'inherit' })
for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
// Ctrl-C at a terminal reaches both; the command decides when it ends.
process.on('SIGINT', () => process.stdin.isTTY || child.kill('SIGINT'))
// npx does not pass a signal on when it is ended by one: its end is seen by another parent.
if (process.env.npm_command === 'exec') {
  const parent = process.ppid
  setInterval(() => process.ppid === parent || child.kill('SIGTERM'), 200).unref()
}
child.on('error', (error) => {
  console.error(`error: ${program} does not start: ${error.message}`)
  process.exit(1)
})
child.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]))
