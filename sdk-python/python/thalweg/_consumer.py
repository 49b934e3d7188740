"""The consumer."""

from __future__ import annotations

import asyncio
import inspect
import itertools
import logging
import os
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar, TypedDict

from . import _checks, _native
from ._checks import parse_start, split_place
from ._errors import ClosedError, InvalidError, ThalwegError
from ._readers import Readers, T, Take, batch_limit, take_batches, take_record


class At(TypedDict):
    """A position by time: the first record that is not earlier, in milliseconds since the epoch or as a `datetime`."""

    timestamp: int | datetime
    """The time."""


Start = Literal["earliest", "latest"] | int | At
"""A position in a partition: its first record, its end, an offset, or a time."""
Starts = Mapping[int, Start] | Mapping[tuple[str, int], Start]
"""Positions of single partitions: by number, or by (topic, number) where several topics are read."""


class Counts(NamedTuple):
    """What became of the records so far; without a filter all that can be read is delivered."""

    delivered: int
    """Records that have come here, without those on which the filter has failed."""
    filtered: int
    """Records that the filter has dropped."""
    failed: int
    """Records on which the filter has failed; with `on_filter_failure="pass"` they have come here too."""
    unreadable: int = 0
    """Records of batches that do not decode, passed over with `on_bad_record="skip"`."""

    @property
    def scanned(self) -> int:
        """Records looked at."""
        return self.delivered + self.filtered + self.failed + self.unreadable


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    """The topic."""
    partition: int
    """The partition's number."""


class Rebalance(NamedTuple):
    """Partitions that a member of a group reads from now on, or does not read any more.

    `revoked` has been given up in order; `lost` was taken away, and what was done of it since the last commit may be done again.
    """

    kind: Literal["assigned", "revoked", "lost"]
    """"assigned": read from now on; "revoked": given up in order; "lost": taken away."""
    partitions: list[TopicPartition]
    """The partitions that it is about."""


Place = int | tuple[str, int]
"""A partition: its number, or (topic, number) where several topics are read."""


def _record(
    value: bytes | None,
    key: bytes | None,
    headers: list[tuple[str, bytes | None]],
    topic: str,
    partition: int,
    offset: int,
    timestamp_ms: int,
) -> _native.Record:
    """A record from what was pickled of it."""
    place = {"topic": topic, "partition": partition, "offset": offset, "timestamp_ms": timestamp_ms}
    return _native.Record(value, key=key, headers=headers, **place)  # type: ignore[arg-type]


Change = tuple[Literal["assigned", "revoked", "lost"], str, int]
S = TypeVar("S")


def _kind(change: Change) -> Literal["assigned", "revoked", "lost"]:
    return change[0]


def rebalances(changes: list[Change]) -> list[Rebalance]:
    """What came and went, in the order in which it happened."""
    grouped = itertools.groupby(changes, _kind)
    return [Rebalance(kind, [TopicPartition(topic, p) for _, topic, p in some]) for kind, some in grouped]


class Consumer:
    """Reads records: `async for record in consumer`, or `async for batch in consumer.batches()`, or one at a time by `next` and `next_batch`.

    A record is done when the next one is asked for, a batch when the next batch is; in a group, what is done is committed now and then, and when the
    consumer is closed. Leaving `async with` without an exception takes what is in hand for done, unless another task has it: that may end its body, and what
    it has not ended is not done. `close()` takes nothing for done: it may come from a signal handler, or from `finally` after an exception.

    When it is open (`async with`, or the first call that needs it), every partition's start has been resolved: what is sent from then
    on comes. After an error of a partition every further call raises it again, until a `seek` past it. Whoever gives up waiting for a record (a
    time-out, a cancelled task) loses nothing: the next one to ask gets it.
    """

    def __init__(
        self,
        topics: list[str],
        group: str | None,
        open: Callable[[], Awaitable[_native.Consumer]],
        on_rebalance: Callable[[Rebalance], object] | None = None,
        close_timeout: float | None = 10.0,
    ) -> None:
        self.topics = topics
        """The topics that it reads."""
        self.group = group
        """The group id; None without a group."""
        self._open = open
        self._on_rebalance = on_rebalance
        self._close_timeout = close_timeout
        self._opening: asyncio.Future[_native.Consumer] | None = None
        self._native: _native.Consumer | None = None
        self._closing: asyncio.Future[None] | None = None
        # Calls that wait for it, or have heard how it ended.
        self._closers = 0
        self._closed = False
        self._ended = False
        # Whoever has something in hand may finish it: it is closed, and what that body calls goes on.
        self._is_waited_for = False
        self._readers = Readers[asyncio.Task[Any]]()
        # What is told of what came and went.
        self._telling: asyncio.Future[None] | None = None
        # What was told as assigned, and neither as revoked nor as lost since.
        self._told: set[TopicPartition] = set()
        # How many takes had handed something out at the last commit. No more since: the user has said how far what is in hand is done.
        self._handed_at_commit = 0
        # In a child that was forked nobody is told: the member is the parent's.
        self._process = os.getpid()

    @property
    def topic(self) -> str:
        """The topic, or the first of several."""
        return self.topics[0]

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: it was closed, or with `until_end` everything has been read.

        It tells why `next(timeout=…)` has answered None, and is no condition to read by: a loop of `while not consumer.ended`
        that is closed in the middle of its body does not ask for what is next, and what it has finished is not done.
        `while (record := await consumer.next()) is not None` ends as it should.
        """
        return self._closed or self._ended

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._native else "not open"
        group = "" if self.group is None else f" group={self.group!r}"
        return f"<thalweg.Consumer topics={self.topics!r}{group} {state}>"

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the consumer is closed")

    def _check_readable(self, reader: asyncio.Task[Any] | None) -> None:
        if self._telling is not None:
            self._check_not_telling()
        self._readers.comes(reader, self._closed)

    def _check_not_telling(self) -> None:
        if self._telling is asyncio.current_task():
            raise InvalidError("a rebalance callback cannot read: it is told before the next record is handed out")

    async def _ready(self) -> _native.Consumer:
        if not self._is_waited_for:
            self._check_open()
        if self._native is not None:
            return self._native
        if self._opening is None:
            self._opening = asyncio.ensure_future(_as_task(self._open))
            # Whoever waited may have given up: nobody else asks then how it ended.
            self._opening.add_done_callback(lambda opening: opening.cancelled() or opening.exception())
        try:
            native = await asyncio.shield(self._opening)
        except ThalwegError:
            self._opening = None
            raise
        self._native = native
        return native

    async def _tell(self, native: _native.Consumer) -> None:
        """Tells what came and went, once: whoever gives up waiting for a record does not end a callback that is under way."""
        telling = self._telling
        if telling is not None and telling.done():
            # It ended while nobody waited for it.
            self._telling = None
            telling.result()
            telling = None
        if telling is None:
            telling = self._telling = asyncio.ensure_future(self._tell_all(native))
        try:
            await asyncio.shield(telling)
        finally:
            if telling.done() and self._telling is telling:
                self._telling = None

    async def _tell_all(self, native: _native.Consumer) -> None:
        changes = native.untold()
        try:
            for change in self._follow(changes):
                await self._call(change)
        finally:
            # Told, however it is taken.
            native.told(len(changes))

    async def _call(self, change: Rebalance) -> None:
        told = self._on_rebalance(change) if self._on_rebalance else None
        if inspect.isawaitable(told):
            await told

    def _follow(self, changes: list[Change]) -> Iterator[Rebalance]:
        """What came and went, for whoever tells it."""
        for change in rebalances(changes):
            if change.kind == "assigned":
                self._told.update(change.partitions)
            else:
                self._told.difference_update(change.partitions)
            yield change

    def _last_changes(self, native: _native.Consumer, is_done: bool, handed_at_wait: int) -> Iterator[Rebalance]:
        """What is told before a member leaves its group: what was not told yet, then that all of which "assigned" was told is revoked. What the group
        has given to another in the meantime is lost.
        """
        if not is_done and native.handed() not in (handed_at_wait, self._handed_at_commit):
            # What is in hand is not done: a commit of all that was handed out is without it.
            native.give_back()
        changes = native.untold()
        yield from self._follow(changes)
        native.told(len(changes))
        held, lost = list[TopicPartition](), list[TopicPartition]()
        for place in sorted(self._told):
            try:
                native.committed(*place)
                held.append(place)
            except ThalwegError:
                lost.append(place)
        self._told.clear()
        if lost:
            yield Rebalance("lost", lost)
        if held:
            yield Rebalance("revoked", held)

    async def _wait(
        self, take: Take[T], reader: asyncio.Task[Any] | None, reading: weakref.ref[_native.Reading[Any]] | None = None
    ) -> T:
        """What is taken next, by that task, and by that iterator if there is one; StopAsyncIteration at the end."""
        if self._telling is not None:
            self._check_not_telling()
        native = self._native or await self._ready()
        asks = True
        while True:
            try:
                return self._readers.take(native, take, asks, reader, reading)
            except StopAsyncIteration:
                self._ended = True
                if self._closed:
                    # It is told of the end once.
                    self._readers.has_heard(reader)
                raise
            except _native.NothingNow as nothing:
                (changes,) = nothing.args
            asks = False
            await (self._tell(native) if changes else native.ready())

    async def _within(self, take: Take[T], timeout: float | None, reader: asyncio.Task[Any] | None) -> T | None:
        self._check_readable(reader)
        _checks.duration("timeout", timeout)
        try:
            if timeout is None:
                return await self._wait(take, reader)
            async with asyncio.timeout(max(timeout, _checks.TIMEOUT_MIN)):
                return await self._wait(take, reader)
        except TimeoutError as error:
            if isinstance(error, ThalwegError):
                raise
            return None
        except StopAsyncIteration:
            return None

    def next(self, timeout: float | None = None) -> Coroutine[Any, Any, _native.Record | None]:
        """The next record; the one before it is done. None: nothing came within `timeout` seconds, or nothing more comes (`ended` tells).

        Raises PluginFailedError where the filter fails on a record, BadRecordError where a stored batch does not decode, OffsetOutOfRangeError where the log does
        not hold the position, NotFoundError where the topic was deleted, DamagedError where the only copy is damaged: each again until a `seek` past it.
        ClosedError: the consumer is closed.
        """
        # Whoever calls is the reader, though the call may run in a task of `wait_for` or `gather`.
        return self._within(take_record, timeout, _current_task())

    def next_batch(
        self, max_records: int | None = None, timeout: float | None = None
    ) -> Coroutine[Any, Any, _native.Batch | None]:
        """The next records that came together, at most `max_records`; see `next`. What is left of a batch comes next. Raises as `next` does."""
        return self._within(take_batches(batch_limit(max_records)), timeout, _current_task())

    def __aiter__(self) -> AsyncIterator[_native.Record]:
        # An iterator of its own rather than a generator, which would end with the first cancelled read.
        self._check_open()
        return _Reading(self, take_record)

    def __anext__(self) -> Coroutine[Any, Any, _native.Record]:
        return self._next(_current_task())

    async def _next(self, reader: asyncio.Task[Any] | None) -> _native.Record:
        self._check_readable(reader)
        return await self._wait(take_record, reader)

    def batches(self, max_records: int | None = None) -> AsyncIterator[_native.Batch]:
        """Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it."""
        self._check_open()
        limit = batch_limit(max_records)
        return _Reading(self, take_batches(limit), max_records=limit)

    async def subscribe(self, topics: str | Sequence[str]) -> None:
        """Reads these topics from now on, instead of those that it read: by name, or by a pattern, which begins with "^". What stays wanted goes on where it is.

        Without a group, records that wait of topics that are not wanted any more are dropped, and new ones begin where `start` says; in a group their partitions
        are given up as in any rebalance. When it returns, the group's coordinator knows; without a group, every new start has been resolved.

        Raises NotFoundError for a topic that does not exist, unless `wait_for_topics` is set, InvalidError for what is no name and no pattern, and for a
        consumer of chosen partitions or with `until_end`; TimedOutError where nobody answers: the topics change as soon as somebody does.
        """
        names = _checks.topics(topics)
        native = await self._ready()
        try:
            await native.subscribe(names)
        finally:
            self.topics = native.subscription()

    async def seek(self, place: Place, to: Start) -> None:
        """Moves a partition: a number, or (topic, number) where several topics are read. Records that wait are dropped. Unless to an offset, it waits
        until the leader has looked that up: `position` is where it went, and what is sent from then on comes.

        `to` is "earliest", "latest", an offset or {"timestamp": milliseconds or datetime}. Raises NotFoundError for a partition that is not read; a position that
        the log does not hold is told by the next read.
        """
        (topic, partition), (kind, value) = split_place(place), parse_start(to, "to")
        moved = (await self._ready()).seek(topic, partition, kind, value)
        # With `until_end` it may have come to its end, and goes on from there.
        self._ended = False
        await moved

    async def pause(self, place: Place) -> None:
        """Hands out nothing of a partition from the next record on. What waits of it comes first when it is resumed.

        A rebalance forgets it. Raises NotFoundError for a partition that is not read.
        """
        (await self._ready()).pause(*split_place(place))

    async def resume(self, place: Place) -> None:
        """Hands out records of a paused partition again. Raises NotFoundError for a partition that is not read."""
        (await self._ready()).resume(*split_place(place))

    async def paused(self) -> list[TopicPartition]:
        """Partitions that are paused."""
        return [TopicPartition(*p) for p in (await self._ready()).paused()]

    async def position(self, place: Place) -> int | None:
        """Next offset that has not been handed out, nor passed over by the filter; None before the broker has said where reading starts.

        After a `seek` it is where that goes. Raises NotFoundError for a partition that is not read.
        """
        return (await self._ready()).position(*split_place(place))

    async def lag(self, place: Place) -> int | None:
        """Records of a partition that are left to hand out or to filter; None before the broker has said where it ends, and as with `position`.

        Raises NotFoundError for a partition that is not read.
        """
        return (await self._ready()).lag(*split_place(place))

    async def committed(self, place: Place) -> int | None:
        """How far the group has come in a partition that this member reads; None: not yet at all.

        Raises InvalidError without a group, NotFoundError for a partition that is another's.
        """
        return (await self._ready()).committed(*split_place(place))

    async def assignment(self) -> list[TopicPartition]:
        """Partitions that are read at the moment; in a group, those that it has given to this member."""
        return [TopicPartition(*p) for p in (await self._ready()).assignment()]

    async def commit(self, offsets: Mapping[Place, int] | _native.Record | None = None) -> None:
        """Commits all that was handed out so far, what is in hand included, or what is before and with one record, or next offsets by partition.

        Raises RebalancedError where a partition is another member's by now, OffsetOutOfRangeError for an offset past its end, InvalidError without a group,
        TimedOutError where the group's coordinator does not answer.
        """
        native = await self._ready()
        self._handed_at_commit = native.handed()
        if offsets is None:
            await native.commit(None)
        elif isinstance(offsets, _native.Record):
            await native.commit_record(offsets, offsets.offset)
        elif isinstance(offsets, Mapping):
            for offset in offsets.values():
                if offset is None:
                    raise TypeError("offset is None; an int is expected")
                _checks.whole("offset", offset, 0, _checks.INT64_MAX)
            places = [(split_place(place), offset) for place, offset in offsets.items()]
            await native.commit([(topic or self.topic, partition, offset) for (topic, partition), offset in places])
        else:
            raise TypeError(f"offsets is {type(offsets).__name__}; a record, or a mapping of partitions to offsets is expected")

    async def counts(self) -> Counts:
        """Records scanned so far of the partitions that are read at the moment, or were when it was closed."""
        return Counts(*(self._native or await self._ready()).counts())

    def _busy_elsewhere(self) -> bool:
        """Whether another task of this loop has something in hand, and has not ended."""
        holder = self._readers.holder
        if holder is None or holder.done() or holder is asyncio.current_task() or self._readers.has_left():
            return False
        return holder.get_loop() is asyncio.get_running_loop()

    async def _end(
        self,
        stopped: _native.Consumer | None,
        is_done: bool,
        holder: asyncio.Task[Any] | None,
        tells: bool,
        in_order: bool,
    ) -> None:
        if stopped is not None:
            native = stopped
        elif self._opening is not None:
            native = await asyncio.shield(self._opening)
            native.stop()
        else:
            return
        if not is_done and holder is not None:
            # The body of a loop may finish what it has in hand, and ask for what is next.
            idle = asyncio.ensure_future(native.idle())
            await asyncio.wait([idle, holder], timeout=self._close_timeout, return_when="FIRST_COMPLETED")
            idle.cancel()
            # It has left its loop and come to its end, while a block was left in order: as if that had been earlier.
            is_done = in_order and holder.done() and not _has_failed(holder)
        try:
            if tells and self._process == os.getpid():
                await self._tell_leaving(native, is_done)
        finally:
            self._is_waited_for = False
            await native.close(is_done)

    async def _tell_leaving(self, native: _native.Consumer, is_done: bool) -> None:
        """Tells what leaving the group takes away, for a while; what the callback calls goes on."""
        before = self._telling

        async def go() -> None:
            if before is not None:
                # Begun for a reader, who hears what comes of it.
                await asyncio.wait([before])
            errors = list[Exception]()
            for change in self._last_changes(native, is_done, self._readers.handed_at_wait):
                try:
                    await self._call(change)
                except Exception as error:
                    errors.append(error)
            if errors:
                raise errors[0]

        self._is_waited_for = True
        telling = self._telling = asyncio.ensure_future(go())
        ended, _ = await asyncio.wait([telling], timeout=self._close_timeout)
        if ended:
            return telling.result()
        telling.cancel()
        logging.getLogger("thalweg").warning("on_rebalance has not ended within %s s; the consumer is closed without it", self._close_timeout)

    def _leave(self, is_done: bool) -> Awaitable[None]:
        current = asyncio.current_task()
        is_within = self._telling is not None and self._telling is current
        if self._closing is None:
            # Looked at here: what ends it runs in a task of its own.
            last = self._readers.holder
            holder = last if self._busy_elsewhere() else None
            has_failed = last is not current and _has_failed(last)
            # Leaving the block in order says how the block ended, and nothing of another task's body.
            in_order, is_done = is_done, is_done and holder is None and not has_failed
            self._closed = True
            native = self._native
            if native is not None:
                # Not in the task that ends the consumer, which begins later: a reader that asked in between would get
                # one more record, and an error for the next one.
                native.stop()
            self._is_waited_for = holder is not None
            self._readers.has_heard(current)
            tells = self._on_rebalance is not None and not is_within
            self._closing = asyncio.ensure_future(self._end(native, is_done, holder, tells, in_order))
        elif is_within:
            # It is being closed, and this callback is waited for.
            return _done()
        return self._wait_closed(self._closing)

    async def _wait_closed(self, closing: asyncio.Future[None]) -> None:
        """Waits until it is closed. Whoever gives up does not end that, and what goes wrong then is told in the log."""
        self._closers += 1
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError:
            self._closers -= 1
            if self._closers == 0:
                closing.add_done_callback(self._tell_unheard)
            raise

    def _tell_unheard(self, closing: asyncio.Future[None]) -> None:
        if self._closers == 0 and not closing.cancelled() and (error := closing.exception()) is not None:
            logging.getLogger("thalweg").error("a consumer was closed, and nobody waited for this error", exc_info=error)

    async def close(self) -> None:
        """Ends the subscription, and a loop that runs.

        What is in hand is not done, unless it is finished now: a loop that runs in another task may end its body, for at most `close_timeout` seconds, and
        then ends as if there were nothing more; so does a loop around `next`, which answers None once. In a loop of the same task, leave the loop and the
        `async with` block instead: that takes what is in hand for done.

        In a group, `on_rebalance` is told then that what this member holds is revoked, and awaited for at most `close_timeout` seconds; a commit in it
        counts, and `commit()` without offsets is without what is in hand there: that is not done. It is not told where it
        calls `close` itself. What is done is committed unless that is manual. Raises what `on_rebalance` raises, and
        TimedOutError where the group's coordinator does not answer: the member counts as gone when its session ends.

        Of asyncio's ways to bound it, `asyncio.timeout` is right in the task that has read last. In Python 3.11 `wait_for`
        closes in a task of its own, to which the caller is another task with something in hand: the caller waits for
        itself, for `close_timeout`.
        """
        await self._leave(False)

    async def __aenter__(self) -> Consumer:
        await self._ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was in hand when an exception came is not done.
        await self._leave(kind is None)


async def _done() -> None: ...


def _has_failed(holder: asyncio.Task[Any] | None) -> bool:
    """Whether a task has ended without reaching its end."""
    return holder is not None and holder.done() and (holder.cancelled() or holder.exception() is not None)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        # Called outside of a loop.
        return None


async def _as_task(call: Callable[[], Awaitable[S]]) -> S:
    """Ends with its loop, as the answer alone would not."""
    return await call()


class _Reading(_native.Reading[T], AsyncIterator[T]):
    """Records, or batches, one by one. What a loop leaves behind is the next loop's."""

    def __init__(self, consumer: Consumer, take: Take[T], *, max_records: int | None = None) -> None:
        self._consumer = consumer
        self._take: Take[T] = take
        # A loop is its task's, though a read of it may run in one of `wait_for`.
        self._task = _current_task()
        self._itself: weakref.ref[_native.Reading[Any]] = weakref.ref(self)

    def __aiter__(self) -> _Reading[T]:
        return self

    async def __anext__(self) -> T:
        # Nothing else is done for a record: this is what reading costs.
        try:
            return self.take()
        except _native.NothingNow:
            pass
        return await self._later()

    async def _later(self) -> T:
        """What is next, by the way that waits, and that takes note of the end."""
        consumer = self._consumer
        if consumer._closed and consumer._native is None:
            raise StopAsyncIteration
        # Another task may take from this iterator meanwhile: it takes note of itself, too.
        self.yields()
        waited = await consumer._wait(self._take, self._task, self._itself)
        if consumer._native is not None:
            self.goes_on(consumer._native)
        return waited
