"""The producer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from . import _native
from ._errors import ThalwegError

Data = bytes | bytearray | memoryview | str
Value = Data | Mapping[str, Any] | list[Any] | None
Headers = Mapping[str, Data | None] | Sequence[tuple[str, Data | None]]


class Delivery(NamedTuple):
    """Where a record went; `offset` is None with acks "none"."""

    partition: int
    offset: int | None


@dataclass(frozen=True, slots=True)
class Message:
    """A record to send."""

    value: Value
    key: Data | None = None
    headers: Headers | None = None
    timestamp_ms: int | None = None


def _data(data: Data | None) -> bytes | None:
    if data is None or type(data) is bytes:
        return data
    return data.encode() if isinstance(data, str) else bytes(data)


def _item(message: Message | Value) -> _native.Item:
    if not isinstance(message, Message):
        message = Message(message)
    value = message.value
    if isinstance(value, (Mapping, list)):
        # As in JavaScript: no space, and text as it is.
        value = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    headers = message.headers
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    encoded = None if pairs is None else [(name, _data(v)) for name, v in pairs]
    return (_data(value), _data(message.key), encoded, message.timestamp_ms)


def _delivery(outcome: Any) -> Delivery | ThalwegError:
    return outcome if isinstance(outcome, ThalwegError) else Delivery(*outcome)


class Producer:
    """Sends records to one topic.

    `await send()` means delivered; `await enqueue()` means buffered, and waits while the buffer is full. Progress needs no
    flush. Values are bytes or str, or anything that is a JSON object or list.
    """

    def __init__(self, topic: str, open: Callable[[], Awaitable[_native.Producer]]) -> None:
        self.topic = topic
        self._open = open
        self._opening: asyncio.Future[_native.Producer] | None = None

    async def _ready(self) -> _native.Producer:
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        try:
            return await asyncio.shield(self._opening)
        except ThalwegError:
            self._opening = None
            raise

    async def send(
        self,
        value: Value,
        *,
        key: Data | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Sends a record and waits until it is delivered."""
        outcome = (await self.send_batch([Message(value, key, headers, timestamp_ms)]))[0]
        if isinstance(outcome, ThalwegError):
            raise outcome
        return outcome

    async def send_batch(self, messages: Iterable[Message | Value]) -> list[Delivery | ThalwegError]:
        """Sends records and waits for every outcome: the delivery, or the error of that record."""
        outcomes = await (await self._ready()).send_batch([_item(m) for m in messages])
        return [_delivery(o) for o in outcomes]

    async def enqueue(
        self,
        value: Value,
        *,
        key: Data | None = None,
        headers: Headers | None = None,
        timestamp_ms: int | None = None,
    ) -> None:
        """Buffers a record. An error in its delivery is raised by the next `flush()` or `close()`."""
        await self.enqueue_batch([Message(value, key, headers, timestamp_ms)])

    async def enqueue_batch(self, messages: Iterable[Message | Value]) -> None:
        """Buffers records together: the fast way in."""
        await (await self._ready()).enqueue_batch([_item(m) for m in messages])

    async def flush(self) -> None:
        """Waits until every record has its outcome."""
        await (await self._ready()).flush()

    async def close(self) -> None:
        """Flushes and ends."""
        if self._opening is not None:
            await (await self._ready()).close()

    async def __aenter__(self) -> Producer:
        await self._ready()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
