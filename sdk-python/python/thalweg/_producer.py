"""The producer."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import inspect
import itertools
import json
import operator
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, TypeVar

from . import _checks, _leaving, _native
from ._errors import ClosedError, InternalError, InvalidError, ThalwegError, TimedOutError

Data = bytes | bytearray | memoryview | str
"""Bytes as they are; text as UTF-8."""
Value = Data | Mapping[str, Any] | list[Any] | None
"""What a record holds: bytes or text as they are, a mapping or list as JSON; None is a tombstone."""
Headers = Mapping[str, Data | None] | Sequence[tuple[str, Data | None]]
"""A record's headers: a mapping, or pairs of name and value, where a name may occur several times."""
Timestamp = int | datetime
"""Milliseconds since 1970, or a `datetime`; one without a zone is in this machine's."""
T = TypeVar("T")

# Records of one turn of the event loop go to the core together, or so many, or so many bytes.
_TOGETHER = 1024
_TOGETHER_BYTES = 256 << 10


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


class _Callbacks:
    """What stands for the loop in the futures of `send`: callbacks of those that get their outcomes together are called in one turn of the loop, each in its
    own context. With a handle of the loop for each of them, these handles were a third of what a record costs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # What futures ask of a loop besides. Whether it is in debug mode, each asks when it is made: this answers without a frame.
        self.get_debug = loop.get_debug().__bool__
        self.call_exception_handler = loop.call_exception_handler
        self._soon: list[tuple[contextvars.Context, Callable[[Any], object], Any]] = []

    def call_soon(self, callback: Callable[[Any], object], future: Any, context: contextvars.Context) -> None:
        """Calls back a future in the next turn."""
        soon = self._soon
        if not soon:
            self.loop.call_soon(self._call)
        soon.append((context, callback, future))

    def _call(self) -> None:
        soon, self._soon = iter(self._soon), []
        for context, callback, future in soon:
            try:
                context.run(callback, future)
            except (SystemExit, KeyboardInterrupt):
                # They end the loop. What is left is called when it goes on.
                left = list(soon)
                if left and not self._soon:
                    self.loop.call_soon(self._call)
                self._soon[:0] = left
                raise
            except BaseException as error:
                told = {"message": f"Exception in callback {callback!r}", "exception": error, "future": future}
                self.call_exception_handler(told)


class Sending(asyncio.Future[T], Coroutine[Any, Any, T]):
    """What comes of a call that has taken its place already: await it, gather it, or make a task of it. Nobody has to wait for it.

    A task is made of a coroutine only, and `asyncio.wait` refuses every coroutine: both ask the same question, so one object cannot serve both.
    """

    __slots__ = ("_driven", "_item")

    # The record, until it is handed over.
    _item: _native.Item
    # As asyncio's own future keeps what it was given as a loop.
    _loop: _Callbacks  # type: ignore[assignment]

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop.loop

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


# asyncio does not say how little of a loop its futures use.
_sending: Any = Sending
_set_result: Any = asyncio.Future.set_result
_callbacks_of = operator.attrgetter("_loop")
_item_of = operator.attrgetter("_item")
_forget_item = Sending.__dict__["_item"].__delete__


def _each(calls: Iterator[object]) -> None:
    """Makes calls without a frame for each."""
    collections.deque(calls, 0)


class _SendingBatch(Sending[T]):
    """Errors of records that nobody has asked for are told by the next flush."""

    __slots__ = ("_is_taken", "_untold")

    def __init__(self, callbacks: _Callbacks, untold: list[ThalwegError]) -> None:
        super().__init__(loop=callbacks)  # type: ignore[arg-type]
        self._is_taken, self._untold = False, untold

    def __await__(self) -> Generator[Any, None, T]:
        self._is_taken = True
        return super().__await__()

    __iter__ = __await__

    def result(self) -> T:
        self._is_taken = True
        return super().result()

    def __del__(self) -> None:
        if self._is_taken or not self.done() or self.cancelled():
            return
        error = super().exception()
        outcomes: Any = super().result() if error is None else [error]
        self._untold.extend(_of_a_kind(each) for each in outcomes if isinstance(each, Exception))


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


class _LetsRun:
    """A call that need not wait, and lets the event loop run once: a loop of such calls would keep signals, time-outs and callbacks from it."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        yield


_LETS_RUN = _LetsRun()


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
        content = dict(value) if isinstance(value, Mapping) else value
        try:
            text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        except TypeError as error:
            raise TypeError(f"value cannot be written as JSON: {error}") from error
        except (ValueError, RecursionError) as error:
            raise InvalidError(f"value cannot be written as JSON: {error}") from error
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
        at = _checks.milliseconds("timestamp_ms", at)
    if not isinstance(at, int) or isinstance(at, bool):
        raise TypeError(f"timestamp_ms is {type(at).__name__}; milliseconds as int, or a datetime, are expected")
    # -1 is none. How far ahead of the broker's clock a topic takes, the core knows.
    if not -1 <= at <= _checks.INT64_MAX:
        what = "which is negative" if at < 0 else "which is too large"
        raise InvalidError(f"timestamp_ms is {at}, {what}; milliseconds since 1970 are expected")
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
    if not isinstance(messages, list):
        if not isinstance(messages, Iterable):
            what = "None" if messages is None else type(messages).__name__
            raise TypeError(f"messages is {what}; a list of messages or values is expected")
        messages = list(messages)
    try:
        return [m if type(m) is bytes else _message(m) for m in messages]
    except (TypeError, InvalidError):
        # Which of them that is, is only looked up then.
        for at, m in enumerate(messages):
            try:
                _message(m)
            except InvalidError as error:
                raise InvalidError(f"messages[{at}]: {error}") from error
            except TypeError as error:
                raise TypeError(f"messages[{at}]: {error}") from error
        raise


def _message(m: Any) -> _native.Item:
    if isinstance(m, Message):
        return _item(m.value, m.key, m.headers, m.timestamp_ms, m.partition, m.topic)
    return _item(m, None, None, None, None, None)


_thread = threading.get_ident


def _is_open(loop: asyncio.AbstractEventLoop) -> bool:
    return not loop.is_closed()


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    return loop.is_running()


def _size(item: _native.Item) -> int:
    """Bytes of a record's value and key."""
    value, key = item[0], item[1]
    # Of each, mostly there; neither is there in a tombstone without a key.
    return (len(value) if type(value) is bytes else 0) + (len(key) if type(key) is bytes else 0)


def _told_in(entry: Any) -> asyncio.AbstractEventLoop | None:
    """Where somebody waits for it; None: it is enqueued only."""
    return entry.get_loop() if type(entry) is Sending else None


def _neighbours(line: list[Any]) -> Iterator[tuple[asyncio.AbstractEventLoop | None, list[Any]]]:
    """What stands beside each other in line and is told in one loop, and that loop.

    Mostly that is all of it, which calls without an own frame for each entry find out.
    """
    kinds = set(map(type, line))
    if Sending not in kinds:
        if line:
            yield None, line
    elif len(kinds) == 1 and len(told := set(map(_callbacks_of, line))) == 1:
        yield told.pop().loop, line
    else:
        for loop, entries in itertools.groupby(line, _told_in):
            yield loop, list(entries)


def _room(receipt: _native.Receipt | None) -> _native.Receipt | None:
    return None if receipt is None or receipt.is_buffered else receipt


def _of_a_kind(error: Exception) -> ThalwegError:
    """What nobody has foreseen is told as an error of ours, so that whoever sends has one kind to expect."""
    if isinstance(error, ThalwegError):
        return error
    told = InternalError(f"{type(error).__name__}: {error}")
    told.__cause__ = error
    return told


_Turn = tuple[asyncio.AbstractEventLoop, _Callbacks, int | None]
OnDelivery = Callable[["Delivery | ThalwegError"], object]
"""Is told what became of a record."""


def check_callback(on_delivery: object) -> None:
    if not callable(on_delivery) or inspect.iscoroutinefunction(on_delivery):
        raise TypeError(f"on_delivery is {on_delivery!r}; a plain function of one argument is expected")


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
        # What has been called for and not handed over yet, in order: the future of whoever waits, or an item that is enqueued only. Calls append without
        # a lock, from any thread: two loops may share a producer, each in a thread of its own.
        self._line: list[Sending[Delivery] | _native.Item] = []
        # Their bytes, about: two threads that add at once may lose one's.
        self._line_bytes = 0
        # The loop that hands over next, what stands for it in futures, and the thread that it runs in if that has asked for it.
        self._turn: _Turn | None = None
        # Of the loop that had a turn last.
        self._callbacks: _Callbacks | None = None
        # Held by whoever hands over: what is first in line comes first to the core.
        self._handing = threading.Lock()
        # Errors of records that nobody waits for.
        self._untold: list[ThalwegError] = []
        self._closed = False
        # Made before this process was forked.
        self._is_foreign = False
        # What tells the outcomes of each receipt.
        self._settling: dict[asyncio.Task[None], _native.Receipt] = {}
        # The same in a loop of another thread, until that has heard of it.
        self._starting: dict[Coroutine[Any, Any, None], tuple[asyncio.AbstractEventLoop, _native.Receipt]] = {}
        _leaving.watch(self)

    def __repr__(self) -> str:
        topic = "of any topic" if self.topic is None else f"topic={self.topic!r}"
        return f"<thalweg.Producer {topic} {'closed' if self._closed else 'open'}>"

    def __del__(self) -> None:
        # Not where the constructor has failed.
        native = getattr(self, "_native", None)
        if native is not None and not self._is_foreign and self._leave().pending() > 0:
            _leaving.collected(self._label, native)

    def _leave(self) -> _native.Producer:
        """What was called for and not handed over yet goes, though its loop may not run any more: nobody waits there."""
        with self._handing:
            self._hand_over_line(_is_running)
        return self._native

    def _forget(self) -> None:
        """In a child that was forked: what was called for in the parent is sent there, and from here nothing is. Whoever held the lock is not here."""
        self._handing = threading.Lock()
        self._line, self._turn = [], None
        self._is_foreign = self._closed = True

    def _is_telling(self) -> bool:
        """Whether somebody waits for an outcome in a loop that runs."""
        loops = [*(loop for loop, _ in list(self._starting.values())), *(task.get_loop() for task in list(self._settling))]
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
        if self._closed:
            self._refuse()
        # As `_running_loop` and `_stand_in_line`, whose frames would be an eighth of what the call costs.
        turn = self._turn
        if turn is None or turn[2] != _thread() or not turn[0].is_running():
            turn = self._schedule(asyncio.get_running_loop())
        future: Sending[Delivery] = _sending(loop=turn[1])
        future._item = item
        line = self._line
        line.append(future)
        if self._turn is not turn:
            self._schedule(turn[0])
        self._line_bytes = size = self._line_bytes + (len(item) if type(item) is bytes else _size(item))
        if size >= _TOGETHER_BYTES or len(line) >= _TOGETHER:
            self._hand_over()
        return future

    def send_batch(self, messages: Iterable[Message | Value]) -> Sending[list[Delivery | ThalwegError]]:
        """Sends records; awaited, it gives each one's outcome in order: the delivery, or the error of that record.

        Raises TypeError for what is no data; then none of them is sent.
        """
        items = _items(messages)
        loop = asyncio.get_running_loop()
        future: Sending[list[Delivery | ThalwegError]] = _SendingBatch(self._callbacks_in(loop), self._untold)
        if not items:
            future.set_result([])
            return future
        if self._closed:
            self._refuse()
        with self._handing:
            self._hand_over_line()
            receipt = self._native.submit(items, True)
        self._keep(loop, receipt, self._settle_batch(receipt, len(items), future))
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
        if on_delivery is not None:
            waits = self._enqueue(self._running_loop(), item, on_delivery)
            return _Room(waits) if waits else _DONE if self._line else _LETS_RUN
        if self._closed:
            self._refuse()
        # As in `send`.
        turn = self._turn
        if turn is None or turn[2] != _thread() or not turn[0].is_running():
            turn = self._schedule(asyncio.get_running_loop())
        line = self._line
        line.append(item)
        if self._turn is not turn:
            self._schedule(turn[0])
        self._line_bytes = size = self._line_bytes + (len(item) if type(item) is bytes else _size(item))
        if size < _TOGETHER_BYTES and len(line) < _TOGETHER:
            return _DONE
        waits = _room(self._hand_over())
        return _Room(waits) if waits else _LETS_RUN

    def _enqueue(
        self, loop: asyncio.AbstractEventLoop, item: _native.Item, on_delivery: OnDelivery | None
    ) -> _native.Receipt | None:
        """Takes a record, on any thread, as one that was enqueued in that loop; answers with what to wait for while the buffer is full."""
        if self._closed:
            self._refuse()
        if on_delivery is None:
            return self._stand_in_line(loop, item, item)
        check_callback(on_delivery)
        told: Sending[Delivery] = _sending(loop=self._callbacks_in(loop))
        told.add_done_callback(functools.partial(_tell_delivery, on_delivery))
        told._item = item
        return self._stand_in_line(loop, told, item)

    def enqueue_batch(self, messages: Iterable[Message | Value]) -> Awaitable[None]:
        """Buffers records together; awaited, it waits while the buffer is full. The fast way in.

        An error of one of them is raised by the next `flush()` or `close()`. Raises TypeError for what is no data; then none of them is sent.
        """
        items = _items(messages)
        asyncio.get_running_loop()
        if self._closed:
            self._refuse()
        self._line.extend(items)
        waits = _room(self._hand_over())
        return _Room(waits) if waits else _LETS_RUN

    @property
    def pending(self) -> int:
        """Records that were sent, by whichever call, and have no outcome yet."""
        return len(self._line) + self._native.pending()

    def flush(self, timeout: float | None = None) -> Awaitable[None]:
        """Waits until every record that was sent before has its outcome.

        Raises TimedOutError where that takes longer than `timeout` seconds: the records are still on their way then, and another `flush` waits for them; and the
        error of a buffered record that nobody took, with a note of how many it stands for.
        """
        _checks.duration("timeout", timeout)
        self._hand_over()
        self._let_go()
        return self._end(self._native.flush(), timeout)

    def close(self) -> Awaitable[None]:
        """Refuses further records from now on, and waits until those that were sent before have their outcomes.

        Call it before the process ends: what has not left by then is lost. Raises as `flush` does. Leaving `async with` does the same, but when it is left by
        Ctrl-C or cancelled, that waits for 2 s at most.
        """
        self._closed = True
        self._hand_over()
        self._let_go()
        return self._end(self._native.close())

    def _end(self, ended: Awaitable[None], timeout: float | None = None) -> Awaitable[None]:
        async def go() -> None:
            error: ThalwegError | None = None
            try:
                async with asyncio.timeout(None if timeout is None else max(timeout, _checks.TIMEOUT_MIN)):
                    await ended
            except ThalwegError as e:
                error = e
            except TimeoutError:
                pending = self.pending
                records, have, they_are = _checks.counted(pending, "record"), *(("has", "it is") if pending == 1 else ("have", "they are"))
                raise TimedOutError(
                    f"{records} of {self._label} {have} no outcome after {timeout} s; {they_are} still on the way"
                ) from None
            here = asyncio.get_running_loop()
            while settling := [task for task in self._settling if task.get_loop() is here]:
                await asyncio.wait(settling)
            # The list stays: who sends in batches has it.
            untold = self._untold[:]
            del self._untold[: len(untold)]
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

    def _refuse(self) -> NoReturn:
        if self._is_foreign:
            raise InvalidError(
                f"{self._label} was made before this process was forked; connect after the fork only, or start the process with spawn"
            )
        raise ClosedError(f"{self._label} is closed")

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        """As asyncio's own, which asks the system for the process at every call, in Python 3.11."""
        turn = self._turn
        if turn is not None and turn[2] == _thread() and turn[0].is_running():
            return turn[0]
        return asyncio.get_running_loop()

    def _stand_in_line(
        self, loop: asyncio.AbstractEventLoop, entry: Sending[Delivery] | _native.Item, item: _native.Item
    ) -> _native.Receipt | None:
        """Gives a record its place; answers with what to wait for while the buffer is full."""
        line = self._line
        line.append(entry)
        # Looked at behind the append: whoever has taken what was in line without this has set it to None before.
        turn = self._turn
        if turn is None or turn[0] is not loop:
            self._schedule(loop)
        self._line_bytes += len(item) if type(item) is bytes else _size(item)
        is_full = self._line_bytes >= _TOGETHER_BYTES or len(line) >= _TOGETHER
        return _room(self._hand_over()) if is_full else None

    def _callbacks_in(self, loop: asyncio.AbstractEventLoop) -> _Callbacks:
        callbacks = self._callbacks
        if callbacks is None or callbacks.loop is not loop:
            callbacks = self._callbacks = _Callbacks(loop)
        return callbacks

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> _Turn:
        is_here = loop is asyncio._get_running_loop()
        turn = self._turn = (loop, self._callbacks_in(loop), _thread() if is_here else None)
        # Another thread's has to be woken.
        schedule = loop.call_soon if is_here else loop.call_soon_threadsafe
        schedule(self._hand_over)
        return turn

    def _hand_over(self) -> _native.Receipt | None:
        """Gives the core what has been called for, in order; answers with the receipt of the last."""
        with self._handing:
            return self._hand_over_line()

    def _hand_over_line(self, can_tell: Callable[[asyncio.AbstractEventLoop], bool] = _is_open) -> _native.Receipt | None:
        self._turn = None
        self._line_bytes = 0
        # Calls append behind it meanwhile.
        taken = self._line[:]
        del self._line[: len(taken)]
        receipt = None
        for loop, entries in _neighbours(taken):
            receipt = self._submit(loop, entries, can_tell)
        return receipt

    def _submit(
        self,
        loop: asyncio.AbstractEventLoop | None,
        entries: list[Any],
        can_tell: Callable[[asyncio.AbstractEventLoop], bool],
    ) -> _native.Receipt | None:
        """Gives the core neighbours in line, and tells whoever waits for them in that loop; None: nobody does."""
        waiters: list[Sending[Delivery]] = [] if loop is None else entries
        items = list(map(_item_of, waiters)) if waiters else entries
        if loop is not None and not can_tell(loop):
            loop = None
        _each(map(_forget_item, waiters))
        try:
            receipt = self._native.submit(items, loop is not None)
        except Exception as error:
            # None of them is on its way.
            told = _of_a_kind(error)
            if loop is None:
                self._untold.extend([told] * len(items))
            else:
                loop.call_soon_threadsafe(self._fail, waiters, told)
            return None
        if loop is not None:
            self._keep(loop, receipt, self._settle(receipt, waiters))
        return receipt

    def _fail(self, waiters: list[Sending[Delivery]], error: ThalwegError) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(error)
            elif waiter.cancelled():
                self._untold.append(error)

    def _keep(self, loop: asyncio.AbstractEventLoop, receipt: _native.Receipt, settling: Coroutine[Any, Any, None]) -> None:
        def start() -> None:
            task = loop.create_task(settling)
            self._settling[task] = receipt
            task.add_done_callback(lambda task: self._settling.pop(task, None))
            self._starting.pop(settling, None)

        if loop is asyncio._get_running_loop():
            start()
        else:
            self._starting[settling] = loop, receipt
            loop.call_soon_threadsafe(start)

    def _let_go(self) -> None:
        """Of what settles in a loop that was closed, nobody hears any more: the next flush tells the errors."""
        for task, receipt in list(self._settling.items()):
            if task.get_loop().is_closed() and self._settling.pop(task, None) is not None:
                # It is not forgotten, and asyncio need not say so.
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                receipt.detach()
        for settling, (loop, receipt) in list(self._starting.items()):
            if loop.is_closed() and self._starting.pop(settling, None) is not None:
                settling.close()
                receipt.detach()

    async def _settle(self, receipt: _native.Receipt, waiters: list[Sending[Delivery]]) -> None:
        left = len(waiters)
        while left:
            try:
                delivered, failed = await receipt.settled()
            except Exception as stopped:
                return self._fail(waiters, _of_a_kind(stopped))
            left -= len(failed)
            for partition, offsets, places in delivered:
                left -= len(places)
                # As they come, without a frame for each.
                deliveries = map(_tuple, itertools.repeat(Delivery), zip(itertools.repeat(partition), offsets))
                settling = map(_set_result, map(waiters.__getitem__, places), deliveries)
                while True:
                    try:
                        _each(settling)
                        break
                    except asyncio.InvalidStateError:
                        pass  # It was cancelled; on with the next one.
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
            left -= len(failed)
            for partition, offsets, places in delivered:
                left -= len(places)
                for at, offset in zip(places, offsets):
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
        if self._is_foreign and kind is not None:
            # What a forked child ends with is its own.
            return
        closing = asyncio.ensure_future(self.close())
        if kind is not None and not issubclass(kind, Exception):
            # Interrupted or cancelled, it wants to leave. What is under way goes on; the end of the process waits for it once more, and says so.
            ended, _ = await asyncio.wait([closing], timeout=_leaving.WAIT_S)
            if not ended:
                closing.cancel()
                if error is not None:
                    error.add_note(f"{self._label} was left with {_checks.counted(self.pending, 'record')} under way")
                return
        try:
            await closing
        except ThalwegError as failed:
            # What went wrong in the block comes first.
            if error is None:
                raise
            error.add_note(f"closing {self._label}: {failed}")
