// Waiting that ends: after a while, or because a signal says so.

'use strict'

const { TIMER_MAX_MS } = require('./data.js')

/** True once `work` is there, false where it is not after a while. */
async function within(work, ms) {
  let timer
  const late = new Promise((resolve) => {
    timer = setTimeout(() => resolve(false), Math.min(ms, TIMER_MAX_MS))
  })
  try {
    return await Promise.race([work.then(() => true), late])
  } finally {
    clearTimeout(timer)
  }
}

// Who is ended by which signal: one listener for all, since a signal warns of more than ten. Weakly: a signal may outlive them.
const aborted = new WeakMap()
// Those that were collected are told of nothing any more.
const collected = new FinalizationRegistry((leave) => leave())

/** Calls `abort(who)` when the signal says so; what it returns ends that. */
function listen(signal, who, abort) {
  let listening = aborted.get(signal)
  if (listening === undefined) {
    const listeners = new Map()
    const onAbort = () => {
      aborted.delete(signal)
      for (const [ref, abort] of listeners) {
        const held = ref.deref()
        if (held !== undefined) abort(held)
      }
    }
    aborted.set(signal, (listening = { listeners, onAbort }))
    signal.addEventListener('abort', onAbort, { once: true })
  }
  const { listeners, onAbort } = listening
  const ref = new WeakRef(who)
  const leave = () => {
    listeners.delete(ref)
    collected.unregister(ref)
    if (listeners.size > 0 || aborted.get(signal) !== listening) return
    aborted.delete(signal)
    signal.removeEventListener('abort', onAbort)
  }
  listeners.set(ref, abort)
  collected.register(who, leave, ref)
  return leave
}

module.exports = { listen, within }
