"""The same client without asyncio: `with` and `for` instead of `async with` and `async for`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, TypeVar

from . import _client, _consumer, _native, _producer
from ._errors import InvalidError, ThalwegError
from ._native import Batch, Record

T = TypeVar("T")
_lock = threading.Lock()
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
    ca: str | PathLike[str] | None = None,
    cert: str | PathLike[str] | None = None,
    key: str | PathLike[str] | None = None,
    timeout: float = 10.0,
) -> Client:
    """Connects to a cluster; see `thalweg.connect`."""

    async def go() -> _client.Client:
        return await _client.connect(address, ca=ca, cert=cert, key=key, timeout=timeout)

    return Client(_run(go()))


class _Closing:
    def close(self) -> None:
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

    def create_topic(self, name: str, **options: Any) -> _client.Topic:
        return _run(self._inner.create_topic(name, **options))

    def delete_topic(self, name: str) -> None:
        _run(self._inner.delete_topic(name))

    def topics(self) -> list[_client.Topic]:
        return _run(self._inner.topics())

    def offsets(self, topic: str, position: _consumer.Start) -> dict[int, int]:
        return _run(self._inner.offsets(topic, position))

    def upload_plugin(self, name: str, module: bytes | str | PathLike[str]) -> _client.Plugin:
        return _run(self._inner.upload_plugin(name, module))

    def plugins(self) -> list[_client.Plugin]:
        return _run(self._inner.plugins())

    def producer(self, topic: str, **options: Any) -> Producer:
        return Producer(self._inner.producer(topic, **options))

    def consumer(self, topics: str | Sequence[str], **options: Any) -> Consumer:
        return Consumer(self._inner.consumer(topics, **options))

    def set_partitioner(self, topic: str, partitioner: str | None, partitioner_config: bytes | str = b"") -> None:
        _run(self._inner.set_partitioner(topic, partitioner, partitioner_config))

    def groups(self) -> list[_client.GroupInfo]:
        return _run(self._inner.groups())

    def describe_group(self, group: str) -> _client.Group:
        return _run(self._inner.describe_group(group))

    def delete_group(self, group: str) -> None:
        _run(self._inner.delete_group(group))

    def reset_group(self, group: str, topic: str, to: _consumer.Start, **options: Any) -> dict[int, int]:
        return _run(self._inner.reset_group(group, topic, to, **options))

    def close(self) -> None:
        _run(self._inner.close())


class Producer(_Closing):
    """Sends records to one topic; see `thalweg.Producer`."""

    def __init__(self, inner: _producer.Producer) -> None:
        self._inner = inner

    def __enter__(self) -> Producer:
        _run(self._inner.__aenter__())
        return self

    def send(self, value: _producer.Value, **options: Any) -> _producer.Delivery:
        return _wait(lambda: self._inner.send(value, **options))

    def send_batch(
        self, messages: Iterable[_producer.Message | _producer.Value]
    ) -> Sequence[_producer.Delivery | ThalwegError]:
        return _wait(lambda: self._inner.send_batch(messages))

    def enqueue(self, value: _producer.Value, **options: Any) -> None:
        _wait(lambda: self._inner.enqueue(value, **options))

    def enqueue_batch(self, messages: Iterable[_producer.Message | _producer.Value]) -> None:
        _wait(lambda: self._inner.enqueue_batch(messages))

    def flush(self) -> None:
        _wait(self._inner.flush)

    def close(self) -> None:
        _wait(self._inner.close)


class Consumer(_Closing):
    """Reads records of one topic; see `thalweg.Consumer`."""

    def __init__(self, inner: _consumer.Consumer) -> None:
        self._inner = inner

    def __enter__(self) -> Consumer:
        _run(self._inner.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _run(self._inner._leave(kind is None))

    def __iter__(self) -> Iterator[Record]:
        # Records that a loop left behind are the next loop's.
        inner = self._inner
        inner._check_open()
        while inner._may_take() or _run(inner._fill()):
            yield inner._left.pop()

    def batches(self) -> Iterator[Batch]:
        self._inner._check_open()
        while _run(self._inner._fill_batch()):
            yield self._inner._take_batch()

    def seek(self, place: _consumer.Place, to: _consumer.Start) -> None:
        _run(self._inner.seek(place, to))

    def pause(self, place: _consumer.Place) -> None:
        _run(self._inner.pause(place))

    def resume(self, place: _consumer.Place) -> None:
        _run(self._inner.resume(place))

    def position(self, place: _consumer.Place) -> int | None:
        return _run(self._inner.position(place))

    def lag(self, place: _consumer.Place) -> int | None:
        return _run(self._inner.lag(place))

    def committed(self, place: _consumer.Place) -> int | None:
        return _run(self._inner.committed(place))

    def assignment(self) -> list[_consumer.TopicPartition]:
        return _run(self._inner.assignment())

    def commit(self, offsets: Mapping[_consumer.Place, int] | Record | None = None) -> None:
        _run(self._inner.commit(offsets))

    def counts(self) -> _consumer.Counts:
        return _run(self._inner.counts())

    def close(self) -> None:
        _run(self._inner.close())
