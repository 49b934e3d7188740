"""The producer."""

from __future__ import annotations

import asyncio
import functools
import json
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, TypeVar

from . import _checks, _leaving, _native
from ._errors import ClosedError, InternalError, InvalidError, ThalwegError, TimedOutError

Data = bytes | bytearray | memoryview | str
Value = Data | Mapping[str, Any] | list[Any] | None
Headers = Mapping[str, Data | None] | Sequence[tuple[str, Data | None]]
Timestamp = int | datetime
T = TypeVar("T")

# Records of one turn of the event loop go to the core together, or so many.
_TOGETHER = 1024


class Delivery(NamedTuple):
    """Where a record went; `offset` is None with acks "none"."""

    partition: int
    """The partition that it went to."""
    offset: int | None
    """Its place there; None with acks "none"."""


@dataclass(frozen=True, slots=True)
class Message:
    """A record to send. `timestamp_ms` is milliseconds since the epoch, or a `datetime`."""

    value: Value
    """Bytes or str as they are, a mapping or list as JSON; None is a tombstone."""
    key: Data | None = None
    """Records of one key keep their partition and their order; None: partitions take turns."""
    headers: Headers | None = None
    """A mapping, or pairs of name and value."""
    timestamp_ms: Timestamp | None = None
    """The time of sending where it is None."""
    partition: int | None = None
    """Where it goes, whatever its key. InvalidError where the topic has a partitioner, which alone decides then."""
    topic: str | None = None
    """Where it goes, with a producer of any topic."""


# Without the frame that NamedTuple's own constructor is.
_tuple = tuple.__new__


class Sending(asyncio.Future[T], Coroutine[Any, Any, T]):
    """What comes of a call that has taken its place already: await it, gather it, or make a task of it. Nobody has to wait for it.

    A task is made of a coroutine only, and `asyncio.wait` refuses every coroutine: both ask the same question, so one object cannot serve both.
    """

    __slots__ = ("_driven",)

    def send(self, value: Any) -> Any:
        return self._steps().send(value)

    def throw(self, *args: Any) -> Any:
        return self._steps().throw(*args)

    def close(self) -> None:
        self._steps().close()

    def _steps(self) -> Generator[Any, None, T]:
        # As a coroutine it is driven by one task.
        steps: Generator[Any, None, T] | None = getattr(self, "_driven", None)
        if steps is None:
            steps = self._driven = _steps(self)
        return steps


def _steps(future: asyncio.Future[T]) -> Generator[Any, None, T]:
    return (yield from future.__await__())


_NOTHING: Any = iter(())


class _Done:
    """A call that needs not wait."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        # There is never anything in it: all share it.
        nothing: Generator[Any, None, None] = _NOTHING
        return nothing


_DONE = _Done()


class _Room:
    """A call that waits while the buffer is full, from when it is awaited on: an answer that nobody waits for might come to a loop that is closed."""

    __slots__ = ("_receipt",)

    def __init__(self, receipt: _native.Receipt) -> None:
        self._receipt = receipt

    def __await__(self) -> Generator[Any, Any, None]:
        return self._receipt.buffered().__await__()


def _value(value: Any) -> bytes | None:
    if type(value) is bytes or value is None:
        return value
    if isinstance(value, (Mapping, list)):
        # As in JavaScript: no space, and text as it is.
        text = json.dumps(
            dict(value) if isinstance(value, Mapping) else value,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
        return _checks.data("value as JSON", text)
    if isinstance(value, Message):
        raise TypeError("value is Message; send_batch and enqueue_batch take messages")
    if isinstance(value, (str, bytes, bytearray, memoryview)):
        return _checks.data("value", value)
    raise TypeError(f"value is {type(value).__name__}; bytes, str, or a mapping or list for JSON is expected")


def _headers(headers: Any) -> list[tuple[str, bytes | None]]:
    if isinstance(headers, (str, bytes, bytearray, memoryview)):
        raise TypeError(f"headers is {type(headers).__name__}; a mapping, or pairs of name and value are expected")
    encoded = []
    for pair in headers.items() if isinstance(headers, Mapping) else headers:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"headers holds {pair!r}; pairs of name and value are expected")
        name, value = pair
        if not isinstance(name, str):
            raise TypeError(f"a header's name is {type(name).__name__}; str is expected")
        _checks.text("a header's name", name)
        encoded.append((name, _checks.data(f"header {name!r}", value)))
    return encoded


def _timestamp(at: Any) -> int:
    if isinstance(at, datetime):
        return round(at.timestamp() * 1000)
    if not isinstance(at, int) or isinstance(at, bool):
        raise TypeError(f"timestamp_ms is {type(at).__name__}; milliseconds as int, or a datetime, are expected")
    # Which of them a topic takes, the core knows.
    if not -_checks.INT64_MAX <= at <= _checks.INT64_MAX:
        raise InvalidError(f"timestamp_ms is {at}; milliseconds since 1970 are expected")
    return at


def _item(value: Any, key: Any, headers: Any, timestamp_ms: Any, partition: Any, topic: Any) -> _native.Item:
    if partition is not None:
        _checks.partition(partition)
    if topic is not None:
        _checks.text("topic", topic)
    return (
        value if type(value) is bytes else _value(value),
        key if key is None or type(key) is bytes else _checks.data("key", key),
        None if headers is None else _headers(headers),
        None if timestamp_ms is None else _timestamp(timestamp_ms),
        partition,
        topic,
    )


def _items(messages: Any) -> list[_native.Item]:
    if isinstance(messages, (str, bytes, bytearray, memoryview, Mapping, Message)):
        raise TypeError(f"messages is {type(messages).__name__}; a list of messages or values is expected")
    return [m if type(m) is bytes else _message(m) for m in messages]


def _message(m: Any) -> _native.Item:
    if isinstance(m, Message):
        return _item(m.value, m.key, m.headers, m.timestamp_ms, m.partition, m.topic)
    return _item(m, None, None, None, None, None)


_running_loop = asyncio.get_running_loop


def _of_a_kind(error: Exception) -> ThalwegError:
    """What nobody has foreseen is told as an error of ours, so that whoever sends has one kind to expect."""
    if isinstance(error, ThalwegError):
        return error
    told = InternalError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told


OnDelivery = Callable[["Delivery | ThalwegError"], object]


def _tell_delivery(on_delivery: OnDelivery, done: asyncio.Future[Delivery]) -> None:
    error = done.exception()
    on_delivery(error if isinstance(error, ThalwegError) else done.result())


class Producer:
    """Sends records to one topic, or to any.

    `await send()` means delivered; `await enqueue()` means buffered, and waits while the buffer is full. Progress needs no
    flush. Values are bytes or str, or anything that is a JSON object or list.

    Each call takes its record, and its place in line, before it returns, whether it is awaited or not: the order of calls is the order
    of records in each partition. A call that is cancelled is sent all the same; if it fails, the next `flush()` or `close()` says so.

    What `send` gives may be awaited, gathered, or made a task of. `asyncio.wait` takes it as a task only: `asyncio.create_task(producer.send(…))`.
    """

    def __init__(self, topic: str | None, native: _native.Producer) -> None:
        self.topic = topic
        """The topic; None where each record names its own."""
        self._label = "the producer of any topic" if topic is None else f"the producer of topic {topic!r}"
        self._native = native
        # Guards what has been called for and not handed over yet: two loops may share a producer, each in a thread of its own.
        self._lock = threading.Lock()
        self._together: list[_native.Item] = []
        # Where they were called for, and where whoever waits is told.
        self._loop: asyncio.AbstractEventLoop | None = None
        # Who waits for which of them; None: all of them are enqueued only.
        self._waiters: list[Sending[Delivery]] | None = None
        # Errors of records that nobody waits for.
        self._untold: list[ThalwegError] = []
        self._closed = False
        # Made before this process was forked.
        self._is_foreign = False
        self._settling: set[asyncio.Task[None]] = set()
        # What settles in a loop of another thread, until that has heard of it.
        self._starting: dict[object, asyncio.AbstractEventLoop] = {}
        _leaving.watch(self)

    def __del__(self) -> None:
        # Not where the constructor has failed.
        native = getattr(self, "_native", None)
        if native is not None and not self._is_foreign and self._leave().pending() > 0:
            _leaving.collected(self._label, native)

    def _leave(self) -> _native.Producer:
        """What was called for and not handed over yet goes, though its loop may not run any more."""
        with self._lock:
            if self._loop is not None and not self._loop.is_running():
                # Nobody waits there.
                self._waiters = None
            self._hand_over()
        return self._native

    def _forget(self) -> None:
        """In a child that was forked: what was called for in the parent is sent there, and from here nothing is. Whoever held the lock is not here."""
        self._lock = threading.Lock()
        self._together, self._waiters, self._loop = [], None, None
        self._is_foreign = True

    def _is_telling(self) -> bool:
        """Whether somebody waits for an outcome in a loop that runs."""
        loops = [*self._starting.values(), *(task.get_loop() for task in list(self._settling))]
        return any(loop.is_running() for loop in loops)

    def send(
        self,
        value: Value,
        *,
        key: Data | None = None,
        headers: Headers | None = None,
        timestamp_ms: Timestamp | None = None,
        partition: int | None = None,
        topic: str | None = None,
    ) -> Sending[Delivery]:
        """Sends a record; awaited, it waits until the record is delivered. `partition` sends it there, whatever its key; `topic` does, with a producer
        of any topic.

        Raises TypeError for what is no data, InvalidError above a limit, PluginFailedError where the topic's partitioner fails on it,
        TimedOutError without an outcome within `delivery_timeout`.
        """
        item: _native.Item
        if type(value) is bytes and key is None and headers is None and timestamp_ms is None and partition is None and topic is None:
            item = value
        else:
            item = _item(value, key, headers, timestamp_ms, partition, topic)
        loop = _running_loop()
        future: Sending[Delivery] = Sending(loop=loop)
        with self._lock:
            waiters = self._waiters
            if waiters is None or loop is not self._loop or self._closed:
                waiters = self._begin(loop, True)
            waiters.append(future)
            self._together.append(item)
            if len(waiters) >= _TOGETHER:
                self._hand_over()
        return future

    def send_batch(self, messages: Iterable[Message | Value]) -> Sending[list[Delivery | ThalwegError]]:
        """Sends records; awaited, it gives each one's outcome in order: the delivery, or the error of that record.

        Raises TypeError for what is no data; then none of them is sent.
        """
        items = _items(messages)
        loop = asyncio.get_running_loop()
        future: Sending[list[Delivery | ThalwegError]] = Sending(loop=loop)
        if not items:
            future.set_result([])
            return future
        with self._lock:
            self._check_open()
            self._hand_over()
            receipt = self._native.submit(items, True)
        self._keep(loop, self._settle_batch(receipt, len(items), future))
        return future

    def enqueue(
        self,
        value: Value,
        *,
        key: Data | None = None,
        headers: Headers | None = None,
        timestamp_ms: Timestamp | None = None,
        partition: int | None = None,
        topic: str | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> Awaitable[None]:
        """Buffers a record; awaited, it waits while the buffer is full.

        `on_delivery` is called by the event loop with the delivery, or with the error; without it, an error is raised by the next `flush()` or `close()`.
        Raises TypeError for what is no data.
        """
        item: _native.Item
        if type(value) is bytes and key is None and headers is None and timestamp_ms is None and partition is None and topic is None:
            item = value
        else:
            item = _item(value, key, headers, timestamp_ms, partition, topic)
        waits = self._enqueue(_running_loop(), item, on_delivery)
        return _Room(waits) if waits else _DONE

    def _enqueue(
        self, loop: asyncio.AbstractEventLoop, item: _native.Item, on_delivery: OnDelivery | None
    ) -> _native.Receipt | None:
        """Takes a record, on any thread, as one that was enqueued in that loop; answers with what to wait for while the buffer is full."""
        with self._lock:
            if on_delivery is not None:
                told: Sending[Delivery] = Sending(loop=loop)
                told.add_done_callback(functools.partial(_tell_delivery, on_delivery))
                self._begin(loop, True).append(told)
            elif not self._together or loop is not self._loop or self._waiters is not None or self._closed:
                self._begin(loop, False)
            together = self._together
            together.append(item)
            return self._room() if len(together) >= _TOGETHER else None

    def enqueue_batch(self, messages: Iterable[Message | Value]) -> Awaitable[None]:
        """Buffers records together; awaited, it waits while the buffer is full. The fast way in.

        An error of one of them is raised by the next `flush()` or `close()`. Raises TypeError for what is no data; then none of them is sent.
        """
        items = _items(messages)
        loop = asyncio.get_running_loop()
        with self._lock:
            self._begin(loop, False)
            self._together.extend(items)
            waits = self._room()
        return _Room(waits) if waits else _DONE

    @property
    def pending(self) -> int:
        """Records that were sent, by whichever call, and have no outcome yet."""
        return len(self._together) + self._native.pending()

    def flush(self, timeout: float | None = None) -> Awaitable[None]:
        """Waits until every record that was sent before has its outcome.

        Raises TimedOutError where that takes longer than `timeout` seconds: the records are still on their way then, and another `flush` waits for them; and the
        error of a buffered record that nobody took, with a note of how many it stands for.
        """
        _checks.duration("timeout", timeout)
        self._hand_over_now()
        return self._end(self._native.flush(), timeout)

    def close(self) -> Awaitable[None]:
        """Refuses further records from now on, and waits until those that were sent before have their outcomes.

        Call it before the process ends: what has not left by then is lost. Raises as `flush` does.
        """
        self._closed = True
        self._hand_over_now()
        return self._end(self._native.close())

    def _end(self, ended: Awaitable[None], timeout: float | None = None) -> Awaitable[None]:
        async def go() -> None:
            error: ThalwegError | None = None
            try:
                async with asyncio.timeout(timeout):
                    await ended
            except ThalwegError as e:
                error = e
            except TimeoutError:
                raise TimedOutError(
                    f"{self.pending} records of {self._label} have no outcome after {timeout} s; they are still on their way"
                ) from None
            here = asyncio.get_running_loop()
            while settling := [task for task in self._settling if task.get_loop() is here]:
                await asyncio.wait(settling)
            untold, self._untold = self._untold, []
            if error is None and untold:
                error = untold[0]
                if len(untold) > 1:
                    error.add_note(f"{len(untold)} records were not delivered; this is the first one's error")
            if error is not None:
                raise error

        ending = asyncio.ensure_future(go())
        if isinstance(ended, asyncio.Future):
            # Nobody may have waited: its answer must not come to a loop that is closed.
            ending.add_done_callback(lambda _: ended.cancel())
        return ending

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._label} is closed")
        if self._is_foreign:
            raise InvalidError(
                f"{self._label} was made before this process was forked; connect after the fork only, or start the process with spawn"
            )

    def _begin(self, loop: asyncio.AbstractEventLoop, waits: bool) -> list[Any]:
        """Makes room for a record of this kind behind those that came before it."""
        self._check_open()
        if self._together and ((self._waiters is not None) != waits or self._loop is not loop):
            self._hand_over()
        if not self._together:
            self._loop, self._waiters = loop, [] if waits else None
            if loop is asyncio._get_running_loop():
                loop.call_soon(self._hand_over_now)
            else:
                # Another thread's: it has to be woken.
                loop.call_soon_threadsafe(self._hand_over_now)
        return self._waiters if self._waiters is not None else []

    def _hand_over_now(self) -> None:
        with self._lock:
            self._hand_over()

    def _hand_over(self) -> _native.Receipt | None:
        """Gives the core what has been called for, in order."""
        if not self._together:
            return None
        items, waiters, loop = self._together, self._waiters, self._loop
        self._together, self._waiters, self._loop = [], None, None
        if loop is None or loop.is_closed():
            # Nobody waits there any more.
            waiters = None
        try:
            receipt = self._native.submit(items, waiters is not None)
        except Exception as error:
            # None of them is on its way.
            told = _of_a_kind(error)
            if waiters is None or loop is None:
                self._untold.extend([told] * len(items))
            else:
                loop.call_soon_threadsafe(self._fail, waiters, told)
            return None
        if waiters is not None and loop is not None:
            self._keep(loop, self._settle(receipt, waiters))
        return receipt

    def _fail(self, waiters: list[Sending[Delivery]], error: ThalwegError) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
            elif waiter.cancelled():
                self._untold.append(error)

    def _keep(self, loop: asyncio.AbstractEventLoop, settling: Coroutine[Any, Any, None]) -> None:
        def start() -> None:
            task = loop.create_task(settling)
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
            self._starting.pop(settling, None)

        if loop is asyncio._get_running_loop():
            start()
        else:
            self._starting[settling] = loop
            loop.call_soon_threadsafe(start)

    def _room(self) -> _native.Receipt | None:
        receipt = self._hand_over()
        return None if receipt is None or receipt.is_buffered else receipt

    async def _settle(self, receipt: _native.Receipt, waiters: list[Sending[Delivery]]) -> None:
        left = len(waiters)
        while left:
            try:
                delivered, failed = await receipt.settled()
            except Exception as stopped:
                return self._fail(waiters, _of_a_kind(stopped))
            left -= len(delivered) + len(failed)
            for at, partition, offset in delivered:
                try:
                    waiters[at].set_result(_tuple(Delivery, (partition, offset)))
                except asyncio.InvalidStateError:
                    pass  # It was cancelled.
            for at, error in failed:
                if waiters[at].done():
                    # It was cancelled: nobody else hears of it.
                    self._untold.append(_of_a_kind(error))
                else:
                    waiters[at].set_exception(error)

    async def _settle_batch(
        self, receipt: _native.Receipt, count: int, future: Sending[list[Delivery | ThalwegError]]
    ) -> None:
        outcomes: list[Any] = [None] * count
        left, errors = count, []
        while left:
            try:
                delivered, failed = await receipt.settled()
            except Exception as stopped:
                told = _of_a_kind(stopped)
                return self._untold.append(told) if future.done() else future.set_exception(told)
            left -= len(delivered) + len(failed)
            for at, partition, offset in delivered:
                outcomes[at] = Delivery(partition, offset)
            for at, error in failed:
                outcomes[at] = error
                errors.append(error)
        if not future.done():
            future.set_result(outcomes)
        else:
            self._untold.extend(map(_of_a_kind, errors))

    async def __aenter__(self) -> Producer:
        await self._native.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except ThalwegError as failed:
            # What went wrong in the block comes first.
            if error is None:
                raise
            error.add_note(f"closing {self._label}: {failed}")
