"""The end of the process: records without an outcome are waited for, for a moment, and told of. Whoever closes his producers never comes here."""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import _native
    from ._producer import Producer

_WAIT_S = 2.0

_process = os.getpid()
_producers: weakref.WeakSet[Producer] = weakref.WeakSet()
# What was collected with records under way.
_left: list[tuple[str, _native.Producer]] = []


def watch(producer: Producer) -> None:
    """A producer that has begun."""
    global _process
    if _process != os.getpid():
        # A child that was forked: the parent's are the parent's matter.
        _process = os.getpid()
        _producers.clear()
        _left.clear()
    _producers.add(producer)


def collected(topic: str, native: _native.Producer) -> None:
    """A producer that nobody holds any more, with records under way."""
    warnings.warn(_words(topic, native.pending(), "the producer was dropped"), ResourceWarning, stacklevel=3)
    _left[:] = [(t, n) for t, n in _left if n.pending() > 0]
    _left.append((topic, native))


def wait() -> None:
    """Registered with `atexit`."""
    if _process != os.getpid():
        return
    under_way = list(_left)
    for producer in list(_producers):
        native = producer._leave()
        if native.pending() > 0:
            message = _words(producer.topic, native.pending(), "the process ends")
            warnings.warn(message, ResourceWarning, stacklevel=1, source=producer)
            under_way.append((producer.topic, native))
    deadline = time.monotonic() + _WAIT_S
    while any(native.pending() > 0 for _, native in under_way) and time.monotonic() < deadline:
        time.sleep(0.005)
    for topic, native in under_way:
        if native.pending() > 0:
            print("thalweg:", _words(topic, native.pending(), "the process ends"), "They may be lost.", file=sys.stderr)


def _words(topic: str, count: int, what: str) -> str:
    records = "1 record" if count == 1 else f"{count} records"
    return f"{what}, and {records} of topic {topic!r} have no outcome yet: close the producer, or flush it, before."
