// What happens to connections is told on the diagnostics channel `thalweg`, and with NODE_DEBUG=thalweg on standard error.

'use strict'

const { channel } = require('node:diagnostics_channel')
const { debuglog } = require('node:util')

const { native } = require('./native.js')

const told = channel('thalweg')
const debug = debuglog('thalweg')
let isStarted = false

/** From the first connection on: nothing is started by `require`. */
function startLog() {
  if (isStarted) return
  isStarted = true
  native.onLog((level, message) => {
    debug('%s: %s', level, message)
    if (told.hasSubscribers) told.publish({ level, message })
  })
}

module.exports = { startLog }
