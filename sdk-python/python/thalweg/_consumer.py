"""The consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Literal, NamedTuple

from . import _native
from ._errors import InvalidError, ThalwegError

Start = Literal["earliest", "latest"] | int | Mapping[Literal["timestamp"], int]


class Counts(NamedTuple):
    """What became of the records so far; without a filter all that can be read is delivered."""

    delivered: int
    filtered: int
    failed: int
    unreadable: int = 0

    @property
    def scanned(self) -> int:
        """Records looked at."""
        return self.delivered + self.filtered + self.failed + self.unreadable


def parse_start(start: Start) -> tuple[str, int]:
    """A position as the native half wants it."""
    if isinstance(start, str):
        return start, 0
    if isinstance(start, int):
        return "offset", start
    if isinstance(start, Mapping) and set(start) == {"timestamp"}:
        return "timestamp", start["timestamp"]
    raise InvalidError(f'start is {start!r}; "earliest", "latest", an offset or {{"timestamp": ms}} is expected')


class TopicPartition(NamedTuple):
    """One partition of a topic."""

    topic: str
    partition: int


class Rebalance(NamedTuple):
    """Partitions that a member of a group reads from now on, or does not read any more.

    `revoked` has been given up in order; `lost` was taken away, and what was done of it since the last commit may be done again.
    """

    kind: Literal["assigned", "revoked", "lost"]
    partitions: list[TopicPartition]


Place = int | tuple[str, int]


def split_place(place: Place) -> tuple[str | None, int]:
    """Topic and partition as the native half wants them."""
    return (None, place) if isinstance(place, int) else (place[0], place[1])


class Consumer:
    """Reads records: `async for record in consumer`, or `async for batch in consumer.batches()`.

    A record is done when the loop asks for the next one, a batch when it asks for the next batch; in a group, what is done is
    committed now and then, and when the consumer is closed or left with `async with`.

    When it is open (`async with`, or the first call that needs it), every partition's start has been resolved: what is sent from then
    on comes. After an error of a partition every further call raises it again, until a `seek` past it.
    """

    def __init__(
        self,
        topics: list[str],
        group: str | None,
        open: Callable[[], Awaitable[_native.Consumer]],
        on_rebalance: Callable[[Rebalance], object] | None = None,
    ) -> None:
        self.topics = topics
        self.group = group
        self._open = open
        self._on_rebalance = on_rebalance
        self._opening: asyncio.Future[_native.Consumer] | None = None
        self._left: list[_native.Record] = []
        self._closed = False

    @property
    def topic(self) -> str:
        """The topic, or the first of several."""
        return self.topics[0]

    async def _ready(self) -> _native.Consumer:
        if self._closed:
            raise InvalidError("the consumer is closed")
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        try:
            return await asyncio.shield(self._opening)
        except ThalwegError:
            self._opening = None
            raise

    def _tell(self, changes: list[tuple[Literal["assigned", "revoked", "lost"], str, int]]) -> None:
        if self._on_rebalance is None:
            return
        for kind in ("lost", "revoked", "assigned"):
            partitions = [TopicPartition(topic, partition) for what, topic, partition in changes if what == kind]
            if partitions:
                self._on_rebalance(Rebalance(kind, partitions))

    async def _next_batch(self) -> _native.Batch | None:
        native = await self._ready()
        while True:
            changes, batch = await native.next()
            if changes:
                self._tell(changes)
            if batch is not None or not changes:
                return batch

    async def __aiter__(self) -> AsyncIterator[_native.Record]:
        # Records that a loop left behind are the next loop's.
        while True:
            while self._left:
                record = self._left.pop()
                if self.group is not None and not await self._advance(record):
                    break
                yield record
            batch = await self._next_batch()
            if batch is None:
                return
            self._left = batch.records()
            self._left.reverse()

    async def _advance(self, record: _native.Record) -> bool:
        """Whether the record may be handed out; what was before it is done."""
        native = await self._ready()
        if native.advance(record.offset, not self._left) or await native.still_holds():
            return True
        self._left = []
        return False

    async def batches(self) -> AsyncIterator[_native.Batch]:
        """Batches as they come: the fast way out. Not to be mixed with the record iterator."""
        while (batch := await self._next_batch()) is not None:
            yield batch

    async def seek(self, place: Place, to: Start) -> None:
        """Moves a partition: a number, or (topic, number) where several topics are read. Records that wait are dropped."""
        (topic, partition), (kind, value) = split_place(place), parse_start(to)
        await (await self._ready()).seek(topic, partition, kind, value)
        self._left = [r for r in self._left if r.partition != partition or (topic is not None and r.topic != topic)]

    async def pause(self, place: Place) -> None:
        """Withholds a partition's credit: what is under way still comes, then nothing."""
        await (await self._ready()).pause(*split_place(place))

    async def resume(self, place: Place) -> None:
        """Grants a partition's credit again."""
        await (await self._ready()).resume(*split_place(place))

    async def position(self, place: Place) -> int | None:
        """Next offset that has not been scanned; None before the broker has answered."""
        return await (await self._ready()).position(*split_place(place))

    async def lag(self, place: Place) -> int | None:
        """Records of a partition that are left to scan."""
        return await (await self._ready()).lag(*split_place(place))

    async def committed(self, place: Place) -> int | None:
        """How far the group has come in a partition that this member reads; None: not yet at all."""
        return await (await self._ready()).committed(*split_place(place))

    async def assignment(self) -> list[TopicPartition]:
        """What is read at the moment."""
        return [TopicPartition(*p) for p in await (await self._ready()).assignment()]

    async def commit(self, offsets: Mapping[Place, int] | _native.Record | None = None) -> None:
        """Commits all that was handed out so far, or what is before and with one record, or next offsets by partition.

        `RebalancedError`: a partition is another member's by now.
        """
        native = await self._ready()
        if offsets is None:
            await native.commit(None)
        elif isinstance(offsets, _native.Record):
            await native.commit([(offsets.topic, offsets.partition, offsets.offset + 1)])
        else:
            places = [(split_place(place), offset) for place, offset in offsets.items()]
            await native.commit([(topic or self.topic, partition, offset) for (topic, partition), offset in places])

    async def counts(self) -> Counts:
        """Records scanned so far."""
        return Counts(*await (await self._ready()).counts())

    async def _leave(self, is_done: bool) -> None:
        opening, self._opening, self._closed = self._opening, None, True
        if opening is not None:
            native = await asyncio.shield(opening)
            await native.close(is_done)

    async def close(self) -> None:
        """Ends the subscription. In a group, all that was handed out is done, and committed unless that is manual."""
        await self._leave(True)

    async def __aenter__(self) -> Consumer:
        await self._ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was in hand when an exception came is not done.
        await self._leave(kind is None)
