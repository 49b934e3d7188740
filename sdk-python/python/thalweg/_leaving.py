"""The end of the process: records without an outcome are waited for, for a moment, and told of. Whoever closes their producers never comes here."""

from __future__ import annotations

import os
import sys
import time
import warnings
import weakref
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import _checks, _native

if TYPE_CHECKING:
    from ._producer import Producer

# How long whoever leaves in a hurry waits for records under way.
WAIT_S = 2.0

_producers: weakref.WeakSet[Producer] = weakref.WeakSet()
# What was collected with records under way.
_left: list[tuple[str, _native.Producer]] = []
# Callbacks of deliveries that came when no thread took them any more.
late: deque[Callable[[], None]] = deque()


def watch(producer: Producer) -> None:
    """A producer that has begun."""
    _producers.add(producer)


def _forked() -> None:
    """In a child that was forked: the parent's producers and consumers are the parent's matter."""
    _native.forked()
    for producer in list(_producers):
        producer._forget()
    _producers.clear()
    _left.clear()
    late.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)


def collected(label: str, native: _native.Producer) -> None:
    """A producer that nobody holds any more, with records under way."""
    warnings.warn(_words(label, native.pending(), "the producer was dropped"), ResourceWarning, stacklevel=3)
    _left[:] = [(whose, n) for whose, n in _left if n.pending() > 0]
    _left.append((label, native))


def wait() -> None:
    """Registered with `atexit`."""
    under_way, producers = list(_left), list(_producers)
    for producer in producers:
        native = producer._leave()
        if native.pending() > 0:
            message = _words(producer._label, native.pending(), "the process ends")
            warnings.warn(message, ResourceWarning, stacklevel=1, source=producer)
            under_way.append((producer._label, native))
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and (
        any(native.pending() > 0 for _, native in under_way) or any(producer._is_telling() for producer in producers)
    ):
        _call_late()
        time.sleep(0.005)
    _call_late()
    for label, native in under_way:
        if native.pending() > 0:
            print("thalweg:", _words(label, native.pending(), "the process ends"), "They may be lost.", file=sys.stderr)


def _call_late() -> None:
    while late:
        late.popleft()()


def _words(label: str, count: int, what: str) -> str:
    have = "has" if count == 1 else "have"
    return f"{what}, and {_checks.counted(count, 'record')} of {label} {have} no outcome yet: close the producer, or flush it, before."
