"""The consumer."""

from __future__ import annotations

import asyncio
import inspect
import itertools
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
    committed now and then, and when the consumer is closed. Leaving `async with` without an exception takes what is in hand for done; `close()`
    does not: it may come from a signal handler, or from `finally` after an exception.

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
        # What the core has handed out, and no loop has taken yet: records of one batch, the next one last, and a batch.
        self._left: list[_native.Record] = []
        self._batch: _native.Batch | None = None
        # A record was about to be handed out when its reader gave up.
        self._in_doubt = False
        self._turn = asyncio.Lock()
        self._closed = False

    @property
    def topic(self) -> str:
        """The topic, or the first of several."""
        return self.topics[0]

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidError("the consumer is closed")

    async def _ready(self) -> _native.Consumer:
        self._check_open()
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        try:
            return await asyncio.shield(self._opening)
        except ThalwegError:
            self._opening = None
            raise

    async def _tell(self, changes: list[tuple[Literal["assigned", "revoked", "lost"], str, int]]) -> None:
        """Tells what came and went, in the order in which it happened."""
        if self._on_rebalance is None:
            return
        for kind, some in itertools.groupby(changes, lambda change: change[0]):
            partitions = [TopicPartition(topic, partition) for _, topic, partition in some]
            told = self._on_rebalance(Rebalance(kind, partitions))
            if inspect.isawaitable(told):
                await told

    async def _pull(self) -> tuple[list[tuple[Literal["assigned", "revoked", "lost"], str, int]], _native.Batch | None]:
        """What comes next. Whoever gives up waiting leaves it to whoever asks next: the core answers again what has not arrived."""
        native = await self._ready()
        pulled = await native.next()
        native.taken()
        return pulled

    async def _fill_batch(self) -> bool:
        """Whether there is a batch to take; waits for one."""
        while self._batch is None:
            # A loop that was running when the consumer was closed ends.
            pulled = None if self._closed else await self._pull()
            if pulled is None or self._closed:
                return False
            changes, self._batch = pulled
            is_end = self._batch is None and not changes
            if changes:
                await self._tell(changes)
            if is_end:
                return False
        return True

    def _take_batch(self) -> _native.Batch:
        batch, self._batch = self._batch, None
        assert batch is not None, "it was filled"
        return batch

    async def _fill(self) -> bool:
        """Whether there is a record to take, the last one of those that are left; waits for one."""
        while True:
            while self._left:
                if await self._holds():
                    return True
                # The group has taken the partition away meanwhile.
                self._left = []
            if not await self._fill_batch():
                return False
            self._left = self._take_batch().records()
            self._left.reverse()

    def _may_take(self) -> bool:
        """Whether the record that is next may be handed out at once; what was before it is done."""
        if not self._left or self._opening is None:
            return False
        record = self._left[-1]
        return self.group is None or self._opening.result().advance(record.offset, len(self._left) == 1)

    async def _holds(self) -> bool:
        if self._may_take():
            return True
        self._in_doubt = True
        holds = await (await self._ready()).still_holds()
        self._in_doubt = False
        return holds

    def __aiter__(self) -> AsyncIterator[_native.Record]:
        # Records that a loop left behind are the next loop's.
        self._check_open()
        return _Records(self)

    def batches(self) -> AsyncIterator[_native.Batch]:
        """Batches as they come: the fast way out. Not to be mixed with the record iterator."""
        self._check_open()
        return _Batches(self)

    async def seek(self, place: Place, to: Start) -> None:
        """Moves a partition: a number, or (topic, number) where several topics are read. Records that wait are dropped."""
        (topic, partition), (kind, value) = split_place(place), parse_start(to)
        await (await self._ready()).seek(topic, partition, kind, value)

        def stays(held: _native.Record | _native.Batch) -> bool:
            return held.partition != partition or (topic is not None and held.topic != topic)

        self._left = [record for record in self._left if stays(record)]
        if self._batch is not None and not stays(self._batch):
            self._batch = None

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
            # What the core has handed out, and nobody has been given, is not done.
            is_given = self._batch is None and not self._in_doubt
            await native.close(is_done and is_given)
        self._left, self._batch = [], None

    async def close(self) -> None:
        """Ends the subscription, and a loop that runs.

        In a group, what is done is committed unless that is manual: all before the record, or batch, that is in hand. Leaving `async with` in
        order takes that for done, too.
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


class _Records:
    """Records one by one. An iterator of its own rather than a generator, which would end with the first cancelled read."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> _Records:
        return self

    async def __anext__(self) -> _native.Record:
        consumer = self._consumer
        if not consumer._turn.locked() and consumer._may_take():
            return consumer._left.pop()
        async with consumer._turn:
            if not await consumer._fill():
                raise StopAsyncIteration
            return consumer._left.pop()


class _Batches:
    """Batches; see `_Records`."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def __aiter__(self) -> _Batches:
        return self

    async def __anext__(self) -> _native.Batch:
        consumer = self._consumer
        async with consumer._turn:
            if not await consumer._fill_batch():
                raise StopAsyncIteration
            return consumer._take_batch()
