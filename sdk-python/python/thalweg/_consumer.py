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
    """What a filter made of the records so far; without a filter everything is delivered."""

    delivered: int
    filtered: int
    failed: int

    @property
    def scanned(self) -> int:
        """Records looked at."""
        return self.delivered + self.filtered + self.failed


def parse_start(start: Start) -> tuple[str, int]:
    """A position as the native half wants it."""
    if isinstance(start, str):
        return start, 0
    if isinstance(start, int):
        return "offset", start
    if isinstance(start, Mapping) and set(start) == {"timestamp"}:
        return "timestamp", start["timestamp"]
    raise InvalidError(f'start is {start!r}; "earliest", "latest", an offset or {{"timestamp": ms}} is expected')


class Consumer:
    """Reads records of one topic: `async for record in consumer`, or `async for batch in consumer.batches()`."""

    def __init__(self, topic: str, open: Callable[[], Awaitable[_native.Consumer]]) -> None:
        self.topic = topic
        self._open = open
        self._opening: asyncio.Future[_native.Consumer] | None = None
        self._left: list[_native.Record] = []
        self._closed = False

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

    async def __aiter__(self) -> AsyncIterator[_native.Record]:
        # Records that a loop left behind are the next loop's.
        while True:
            while self._left:
                yield self._left.pop()
            batch = await (await self._ready()).next_batch()
            if batch is None:
                return
            self._left = batch.records()
            self._left.reverse()

    async def batches(self) -> AsyncIterator[_native.Batch]:
        """Batches as they come: the fast way out. Not to be mixed with the record iterator."""
        native = await self._ready()
        while (batch := await native.next_batch()) is not None:
            yield batch

    async def seek(self, partition: int, to: Start) -> None:
        """Moves a partition. Records that wait are dropped."""
        kind, value = parse_start(to)
        await (await self._ready()).seek(partition, kind, value)
        self._left = [r for r in self._left if r.partition != partition]

    async def pause(self, partition: int) -> None:
        """Withholds a partition's credit: what is under way still comes, then nothing."""
        await (await self._ready()).pause(partition)

    async def resume(self, partition: int) -> None:
        """Grants a partition's credit again."""
        await (await self._ready()).resume(partition)

    async def position(self, partition: int) -> int | None:
        """Next offset that has not been scanned; None before the broker has answered."""
        return await (await self._ready()).position(partition)

    async def counts(self) -> Counts:
        """Records scanned so far."""
        return Counts(*await (await self._ready()).counts())

    async def close(self) -> None:
        """Ends the subscription."""
        self._closed = True
        self._opening = None

    async def __aenter__(self) -> Consumer:
        await self._ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
