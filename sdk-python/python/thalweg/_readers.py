"""Who reads a consumer: tasks, or in `thalweg.sync` threads. What they wait for, and where, is left to the two halves."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from . import _checks, _native
from ._errors import ClosedError

T = TypeVar("T", _native.Record, _native.Batch)
W = TypeVar("W")
# What takes the next record or batch: NothingNow where there is none. Where its caller asks now, what was handed out before is done; a caller that has asked
# before, and waited, does nothing for done that others were given meanwhile.
Take = Callable[[_native.Consumer, bool], T]


def take_record(native: _native.Consumer, asks: bool) -> _native.Record:
    """The next record."""
    return native.take(asks)


def batch_limit(max_records: int | None) -> int:
    """How many records a batch may have."""
    _checks.whole("max_records", max_records, 1, sys.maxsize)
    return sys.maxsize if max_records is None else max_records


def take_batches(max_records: int) -> Take[_native.Batch]:
    """What takes the next batch, of at most so many records."""
    return lambda native, asks: native.take_batch(max_records, asks)


class Readers(Generic[W]):
    """Those who read one consumer, by task or by thread."""

    def __init__(self) -> None:
        # Who has asked by `next` or the like; once the consumer is closed, those of them who have not been told of the end. For each of these it ends as a
        # loop does.
        self._asked: weakref.WeakSet[W] = weakref.WeakSet()
        # The one of them who has asked last.
        self._last: W | None = None
        # Who has something in hand: they have got what was handed out last, and nobody has asked for what is next since.
        self.holder: W | None = None
        # The iterator that has asked last, if that was no single call: once its loop has been left, it is gone.
        self.reading: weakref.ref[_native.Reading[Any]] | None = None
        # How many takes had handed something out when somebody asked last and got nothing. No more since: nothing is in hand.
        self.handed_at_wait = 0

    def comes(self, reader: W | None, is_closed: bool) -> None:
        """Somebody reads by `next` or the like; ClosedError for who comes after the end, or has been told of it."""
        if is_closed:
            if reader is None or reader not in self._asked:
                raise ClosedError("the consumer is closed")
        elif reader is not None and reader is not self._last:
            # Only when the reader changes: where one reads, a record costs no more.
            self._last = reader
            self._asked.add(reader)

    def has_heard(self, reader: W | None) -> None:
        """A reader has been told of the end, or has made it: there is nothing more to ask for."""
        if reader is not None:
            self._asked.discard(reader)

    def has_left(self) -> bool:
        """Whether the loop that has asked last has been left: nothing is in hand then."""
        return self.reading is not None and self.reading() is None

    def take(
        self, native: _native.Consumer, take: Take[T], asks: bool, reader: W | None, reading: weakref.ref[_native.Reading[Any]] | None
    ) -> T:
        """What is taken next, by that reader, and by that iterator if there is one. As `take` raises where there is nothing."""
        if asks:
            self._asks(reading)
            # Whether or not something comes, what was handed out before is done. Noted before the take as well as after it: another thread may leave the
            # block in between.
            self.holder = reader
        try:
            taken = take(native, asks)
        except (_native.NothingNow, StopAsyncIteration):
            if asks:
                self.handed_at_wait = native.handed()
                if self.holder is reader:
                    self.holder = None
            raise
        # Others may have asked since this one has.
        self._asks(reading)
        self.holder = reader
        return taken

    def _asks(self, reading: weakref.ref[_native.Reading[Any]] | None) -> None:
        """Another one asks than before: that one takes note of itself when it asks again, rather than take at once."""
        if self.reading is reading:
            return
        before, self.reading = self.reading, reading
        if before is not None and (other := before()) is not None:
            other.yields()
