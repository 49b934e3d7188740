"""The same client without asyncio: `with` and `for` instead of `async with` and `async for`."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import PathLike
from types import TracebackType
from typing import Any, TypeVar, Unpack

from . import _checks, _client, _consumer, _leaving, _native, _options, _producer
from ._errors import InvalidError, ThalwegError
from ._native import Batch, Record

T = TypeVar("T")
R = TypeVar("R", Record, Batch)
_lock = threading.Lock()


def _forked() -> None:
    """In a child that was forked: whoever held the lock is not here."""
    global _lock
    _lock = threading.Lock()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forked)

_running: tuple[int, asyncio.AbstractEventLoop] | None = None


def _loop() -> asyncio.AbstractEventLoop:
    global _running
    with _lock:
        # A child that was forked has not got the parent's thread: it starts its own.
        if _running is None or _running[0] != os.getpid():
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="thalweg-sync", daemon=True).start()
            _running = (os.getpid(), loop)
        return _running[1]


_telling: tuple[int, ThreadPoolExecutor] | None = None


def _callbacks() -> ThreadPoolExecutor:
    """Where callbacks of deliveries run: not on the loop's thread, which would wait for itself in a call that they make."""
    global _telling
    with _lock:
        if _telling is None or _telling[0] != os.getpid():
            _telling = (os.getpid(), ThreadPoolExecutor(1, "thalweg-deliveries"))
        return _telling[1]


def _callback(on_delivery: _producer.OnDelivery, outcome: _producer.Delivery | ThalwegError) -> None:
    def call() -> None:
        try:
            on_delivery(outcome)
        except Exception:
            logging.getLogger("thalweg").exception("on_delivery raised")

    try:
        _callbacks().submit(call)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        # The process ends, and no thread takes it any more. All before it have been called; this one is, while the end waits for records.
        _leaving.late.append(call)


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        future = asyncio.run_coroutine_threadsafe(work, _loop())
    except BaseException:
        # After a fork, or with a signal before it began: what runs already cannot be closed, and ends by itself.
        with contextlib.suppress(ValueError):
            work.close()
        raise
    try:
        return future.result()
    except BaseException:
        # Ctrl-C must not leave the call running.
        future.cancel()
        raise


def _wait(call: Callable[[], Awaitable[T]]) -> T:
    """Calls on the loop's thread, and waits for what comes of it."""

    async def go() -> T:
        return await call()

    return _run(go())


def connect(
    address: str,
    *,
    client_id: str = "thalweg-python",
    ca: _checks.Pem | None = None,
    cert: _checks.Pem | None = None,
    key: _checks.Pem | None = None,
    timeout: float = 10.0,
) -> Client:
    """Connects to a cluster; see `thalweg.connect`. Raises DisconnectedError when no broker answers within `timeout` seconds."""

    async def go() -> _client.Client:
        return await _client.connect(address, client_id=client_id, ca=ca, cert=cert, key=key, timeout=timeout)

    return Client(_run(go()))


class _Closing:
    def close(self) -> None:
        """Ends it."""
        raise NotImplementedError

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client(_Closing):
    """A connected client; see `thalweg.Client`."""

    def __init__(self, inner: _client.Client) -> None:
        self._inner = inner

    def __enter__(self) -> Client:
        return self

    def create_topic(self, name: str, **options: Unpack[_options.TopicOptions]) -> _client.Topic:
        """Makes a topic; options and errors as `thalweg.Client.create_topic`."""
        return _run(self._inner.create_topic(name, **options))

    def delete_topic(self, name: str) -> None:
        """Removes a topic and its records, for ever. Raises NotFoundError, DeniedError."""
        _run(self._inner.delete_topic(name))

    def topics(self) -> list[_client.Topic]:
        """All topics, in the order of their names."""
        return _run(self._inner.topics())

    def offsets(self, topic: str, position: _consumer.Start) -> dict[int, int]:
        """Offsets of a position by partition; see `thalweg.Client.offsets`."""
        return _run(self._inner.offsets(topic, position))

    def upload_plugin(self, name: str, module: bytes | str | PathLike[str]) -> _client.Plugin:
        """Uploads a module (bytes, or a path) as the next version of `name`; see `thalweg.Client.upload_plugin`."""
        return _run(self._inner.upload_plugin(name, module))

    def plugins(self) -> list[_client.Plugin]:
        """All plugins in all versions."""
        return _run(self._inner.plugins())

    def producer(self, topic: str | None = None, **options: Unpack[_options.ProducerOptions]) -> Producer:
        """A producer to a topic, or to those that its records name; options as `thalweg.Client.producer`. It looks for the topic at its first record, or by `with`."""
        return Producer(self._inner.producer(topic, **options))

    def consumer(self, topics: str | Sequence[str], **options: Unpack[_options.ConsumerOptions]) -> Consumer:
        """A consumer of a topic, or of several; options as `thalweg.Client.consumer`. `on_rebalance` is called by the thread that reads, and cannot be async."""
        if inspect.iscoroutinefunction(options.get("on_rebalance")):
            raise TypeError("on_rebalance is async; here it is called by the thread that reads, and nobody would await it")
        return Consumer(self._inner.consumer(topics, **options))

    def set_partitioner(self, topic: str, partitioner: str | None, partitioner_config: bytes | str = b"") -> None:
        """Places a topic's records in another way from now on; see `thalweg.Client.set_partitioner`."""
        _run(self._inner.set_partitioner(topic, partitioner, partitioner_config))

    def groups(self) -> list[_client.GroupInfo]:
        """All consumer groups."""
        return _run(self._inner.groups())

    def describe_group(self, group: str) -> _client.Group:
        """A group with its members and offsets. Raises NotFoundError."""
        return _run(self._inner.describe_group(group))

    def delete_group(self, group: str) -> None:
        """Forgets a group without members, and how far it has come. Raises NotFoundError, InvalidError where it has members."""
        _run(self._inner.delete_group(group))

    def reset_group(
        self, group: str, topic: str, to: _consumer.Start, **options: Unpack[_options.ResetOptions]
    ) -> dict[int, int]:
        """Moves a group without members; options and errors as `thalweg.Client.reset_group`."""
        return _run(self._inner.reset_group(group, topic, to, **options))

    def close(self) -> None:
        """Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed."""
        _run(self._inner.close())


class Producer(_Closing):
    """Sends records to one topic, or to any; see `thalweg.Producer`."""

    def __init__(self, inner: _producer.Producer) -> None:
        self._inner = inner

    def __enter__(self) -> Producer:
        _run(self._inner.__aenter__())
        return self

    def send(
        self,
        value: _producer.Value,
        *,
        key: _producer.Data | None = None,
        headers: _producer.Headers | None = None,
        timestamp_ms: _producer.Timestamp | None = None,
        partition: int | None = None,
        topic: str | None = None,
    ) -> _producer.Delivery:
        """Sends a record and waits until it is delivered; options and errors as `thalweg.Producer.send`."""
        return _wait(
            lambda: self._inner.send(
                value, key=key, headers=headers, timestamp_ms=timestamp_ms, partition=partition, topic=topic
            )
        )

    def send_batch(
        self, messages: Iterable[_producer.Message | _producer.Value]
    ) -> Sequence[_producer.Delivery | ThalwegError]:
        """Sends records and waits; gives each one's outcome in order: the delivery, or the error of that record."""
        return _wait(lambda: self._inner.send_batch(messages))

    def enqueue(
        self,
        value: _producer.Value,
        *,
        key: _producer.Data | None = None,
        headers: _producer.Headers | None = None,
        timestamp_ms: _producer.Timestamp | None = None,
        partition: int | None = None,
        topic: str | None = None,
        on_delivery: _producer.OnDelivery | None = None,
    ) -> None:
        """See `thalweg.Producer.enqueue`. `on_delivery` is called on a thread of its own, in order; it may call anything."""
        tell = None if on_delivery is None else functools.partial(_callback, on_delivery)
        item = _producer._item(value, key, headers, timestamp_ms, partition, topic)
        waits = self._inner._enqueue(_loop(), item, tell)
        if waits is not None:
            _wait(waits.buffered)

    @property
    def pending(self) -> int:
        """Records that were sent, by whichever call, and have no outcome yet."""
        return self._inner.pending

    def enqueue_batch(self, messages: Iterable[_producer.Message | _producer.Value]) -> None:
        """Buffers records together; waits while the buffer is full. The fast way in. See `thalweg.Producer.enqueue_batch`."""
        _wait(lambda: self._inner.enqueue_batch(messages))

    def flush(self, timeout: float | None = None) -> None:
        """Waits until every record that was sent before has its outcome; errors as `thalweg.Producer.flush`."""
        _wait(lambda: self._inner.flush(timeout))

    def close(self) -> None:
        """Refuses further records from now on, and waits until those that were sent before have their outcomes. Raises as `flush` does."""
        _wait(self._inner.close)


class Consumer(_Closing):
    """Reads records of one topic; see `thalweg.Consumer`."""

    def __init__(self, inner: _consumer.Consumer) -> None:
        self._inner = inner
        # One at a time tells what came and went; whoever reads within his callback would wait for himself.
        self._telling = threading.Lock()
        # Who tells, by thread.
        self._teller: int | None = None
        # Who has asked for records last.
        self._reader: threading.Thread | None = None
        # Who had something in hand when it was closed, and has not asked for what is next since: it ends there for him as a loop does.
        self._finishing: threading.Thread | None = None
        # How many takes have reached the user.
        self._got = 0

    def __enter__(self) -> Consumer:
        _run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _wait(lambda: self._inner._leave(kind is None))

    @property
    def topics(self) -> list[str]:
        """The topics that it reads."""
        return self._inner.topics

    @property
    def topic(self) -> str:
        """The topic, or the first of several."""
        return self._inner.topic

    @property
    def group(self) -> str | None:
        """The group id; None without a group."""
        return self._inner.group

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: it was closed, or with `until_end` everything has been read."""
        return self._inner.ended

    def __repr__(self) -> str:
        return repr(self._inner)

    def _tell(self, native: _native.Consumer) -> None:
        """Tells what came and went, where the user iterates: the callback may call anything but read."""
        inner = self._inner
        with self._telling:
            self._teller = threading.get_ident()
            changes = native.untold()
            try:
                for change in _consumer.rebalances(changes):
                    if inner._on_rebalance is not None:
                        inner._on_rebalance(change)
            finally:
                native.told(len(changes))
                self._teller = None

    def _wait(self, take: _consumer.Take[R], timeout: float | None = None) -> R | None:
        """What is taken next; None where nothing comes in time, or nothing more comes."""
        inner = self._inner
        _checks.duration("timeout", timeout)
        if self._teller == threading.get_ident():
            raise InvalidError("a rebalance callback cannot read: it is told before the next record is handed out")
        self._reader = threading.current_thread()
        native = inner._native or _run(inner._ready())
        deadline = None if timeout is None else time.monotonic() + max(timeout, _consumer._TIMEOUT_MIN)

        async def ready() -> None:
            left = None if deadline is None else deadline - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await native.ready()

        try:
            while True:
                try:
                    taken = take(native)
                except StopAsyncIteration:
                    inner._ended = True
                    return None
                if taken is None:
                    if deadline is not None and time.monotonic() >= deadline:
                        return None
                    _run(ready())
                elif isinstance(taken, list):
                    self._tell(native)
                else:
                    self._got += 1
                    return taken
        except BaseException:
            self._give_back(native)
            raise

    def _give_back(self, native: _native.Consumer) -> None:
        """After Ctrl-C and the like: what was taken and has not reached the user comes next."""
        if native.handed() > self._got:
            native.give_back()

    def _check_readable(self) -> None:
        if self._finishing is threading.current_thread():
            self._finishing = None
        else:
            self._inner._check_open()

    def next(self, timeout: float | None = None) -> Record | None:
        """The next record; the one before it is done. None: nothing came within `timeout` seconds, or nothing more comes (`ended` tells). Errors as `thalweg.Consumer.next`."""
        self._check_readable()
        return self._wait(_consumer.take_record, timeout)

    def next_batch(self, max_records: int | None = None, timeout: float | None = None) -> Batch | None:
        """The next records that came together, at most `max_records`; see `next`. What is left of a batch comes next."""
        self._check_readable()
        return self._wait(_consumer.take_batches(max_records), timeout)

    def __iter__(self) -> Iterator[Record]:
        # Records that a loop left behind are the next loop's.
        self._inner._check_open()
        return _Reading(self, _consumer.take_record)

    def batches(self, max_records: int | None = None) -> Iterator[Batch]:
        """Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it."""
        self._inner._check_open()
        return _Reading(self, _consumer.take_batches(max_records))

    def seek(self, place: _consumer.Place, to: _consumer.Start) -> None:
        """Moves a partition; records that wait are dropped. See `thalweg.Consumer.seek`."""
        _run(self._inner.seek(place, to))

    def pause(self, place: _consumer.Place) -> None:
        """Hands out nothing of a partition from the next record on. What waits of it comes first when it is resumed."""
        _run(self._inner.pause(place))

    def resume(self, place: _consumer.Place) -> None:
        """Hands out records of a paused partition again."""
        _run(self._inner.resume(place))

    def paused(self) -> list[_consumer.TopicPartition]:
        """Partitions that are paused."""
        return _run(self._inner.paused())

    def position(self, place: _consumer.Place) -> int | None:
        """Next offset that has not been handed out, nor passed over by the filter; None before the broker has answered, and for what is not read."""
        return _run(self._inner.position(place))

    def lag(self, place: _consumer.Place) -> int | None:
        """Records of a partition that are left to hand out or to filter, as far as the broker has said; None as with `position`."""
        return _run(self._inner.lag(place))

    def committed(self, place: _consumer.Place) -> int | None:
        """How far the group has come in a partition that this member reads; None: not yet at all."""
        return _run(self._inner.committed(place))

    def assignment(self) -> list[_consumer.TopicPartition]:
        """Partitions that are read at the moment; in a group, those that it has given to this member."""
        return _run(self._inner.assignment())

    def commit(self, offsets: Mapping[_consumer.Place, int] | Record | None = None) -> None:
        """Commits all that was handed out so far, or what is before and with one record, or next offsets by partition; see `thalweg.Consumer.commit`."""
        _run(self._inner.commit(offsets))

    def counts(self) -> _consumer.Counts:
        """Records scanned so far; also once it is closed."""
        return _run(self._inner.counts())

    def close(self) -> None:
        """Ends the subscription, and a loop that runs in another thread, which may finish what it has in hand for at most `close_timeout` seconds.

        What is in hand is not done unless it is finished then. In a loop of the same thread, leave the loop and the `with` block instead: that takes it for done.
        """
        _run(self._close(threading.current_thread()))

    async def _close(self, caller: threading.Thread) -> None:
        inner, native = self._inner, self._inner._native
        reader = self._reader
        is_elsewhere = reader is not None and reader is not caller and reader.is_alive()
        if native is not None and is_elsewhere and not inner._closed:
            # The body of a loop in another thread may finish what it has in hand.
            self._finishing = reader
            native.stop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(inner._close_timeout):
                    await native.idle()
        await inner.close()


class _Reading(Iterator[R]):
    """Records, or batches, one by one. What a loop leaves behind is the next loop's."""

    def __init__(self, consumer: Consumer, take: _consumer.Take[R]) -> None:
        self._consumer = consumer
        self._take: _consumer.Take[R] = take
        self._now: Callable[[], R | list[_consumer.Change] | None] | None = None

    def __next__(self) -> R:
        inner = self._consumer._inner
        native = inner._native
        if self._now is not None and native is not None:
            try:
                taken = self._now()
                # Between this and the user nothing is called: a signal is not heeded there.
                if taken.__class__ in _consumer._HANDED_OUT:
                    self._consumer._got += 1
                    return taken
            except StopAsyncIteration:
                raise StopIteration from None
            except BaseException:
                self._consumer._give_back(native)
                raise
        elif inner._closed and native is None:
            raise StopIteration
        elif native is not None:
            self._now = _consumer.taker(native, self._take)
        waited = self._consumer._wait(self._take)
        if waited is None:
            raise StopIteration
        return waited
