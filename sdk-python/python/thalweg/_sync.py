"""What `thalweg.sync` does in its own way: it waits on the caller's thread, and calls back there. Its signatures and docstrings, and what only passes calls
on, are written into sync.py by generate_sync.py.

There, a method `next` calls `_next` of the class here, where there is one; else it calls `next` of the asyncio half, on the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar

from . import _checks, _client, _consumer, _leaving, _native, _producer
from ._errors import InvalidError, ThalwegError, TimedOutError
from ._native import Batch, Record
from ._readers import Readers, Take, batch_limit, take_batches, take_record

# How often a thread is looked at that has something in hand.
_LOOKED_S = 0.05
# How long the end of a producer waits for callbacks.
_CALLBACKS_S = 10.0

T = TypeVar("T")
R = TypeVar("R", Record, Batch)
M = TypeVar("M")

# The loop of this process, on a thread of its own, by the process's number: a child that was forked has not got its parent's thread, and starts its own.
# Without a lock, which a fork or a signal handler might find taken.
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _loop() -> asyncio.AbstractEventLoop:
    running = _loops.get(os.getpid())
    if running is None:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="thalweg-sync", daemon=True).start()
        # It runs before anybody finds it, and of two that were begun at once the first one stays.
        running = _loops.setdefault(os.getpid(), loop)
        if running is not loop:
            loop.call_soon_threadsafe(loop.stop)
    return running


def run(call: Callable[[], Awaitable[T]]) -> T:
    """Calls on the loop's thread, and waits for what comes of it.

    Both threads meet in a lock of the interpreter's own. In a condition variable, as futures have, a signal handler that raises at the wrong moment leaves its
    lock taken: the loop's thread waited for that one for ever, and with it every client of the process.
    """
    loop, ended = _loop(), threading.Lock()
    tasks = list[asyncio.Task[T]]()
    answers, errors = list[T](), list[BaseException]()
    ended.acquire()

    async def go() -> T:
        return await call()

    def start() -> None:
        task = loop.create_task(go())
        tasks.append(task)
        task.add_done_callback(end)

    def end(task: asyncio.Task[T]) -> None:
        # On this thread: whoever drops the last reference to a task clears it from asyncio's weak set, which swallows what a signal handler raises there.
        tasks.clear()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is None:
            answers.append(task.result())
        else:
            errors.append(error)
        ended.release()

    def cancel() -> None:
        # Where none was started, none will be.
        for task in tasks:
            task.cancel()

    try:
        loop.call_soon_threadsafe(start)
        ended.acquire()
    except BaseException:
        # Ctrl-C must not leave the call running.
        loop.call_soon_threadsafe(cancel)
        raise
    if errors:
        # Not kept in this frame, which the error's traceback keeps.
        raise errors.pop()
    return answers.pop()


# Where callbacks of deliveries run: not on the loop's thread, which would wait for itself in a call that they make. By process as the loop is, and only used
# on the loop's thread.
_callers: dict[int, ThreadPoolExecutor] = {}


def _callback(on_delivery: _producer.OnDelivery, outcome: _producer.Delivery | ThalwegError) -> None:
    def call() -> None:
        try:
            on_delivery(outcome)
        except Exception:
            logging.getLogger("thalweg").exception("on_delivery raised")

    caller = _callers.get(os.getpid())
    if caller is None:
        caller = _callers[os.getpid()] = ThreadPoolExecutor(1, "thalweg-deliveries")
    try:
        caller.submit(call)
    except RuntimeError as error:
        if "shutdown" not in str(error):
            raise
        # The process ends, and no thread takes it any more. All before it have been called; this one is, while the end waits for records.
        _leaving.late.append(call)


def _called(timeout: float | None) -> bool:
    """Waits until the callbacks of all outcomes so far have been called; they do not wait for themselves."""
    caller = _callers.get(os.getpid())
    if caller is None or threading.current_thread().name.startswith("thalweg-deliveries"):
        return True
    with contextlib.suppress(RuntimeError):
        # At the end of the process there is no thread for them any more.
        called = caller.submit(lambda: None)
        try:
            called.result(timeout)
        except TimeoutError:
            return False
    return True


class ClientBase:
    """What a client does in another way than in the asyncio half."""

    def __init__(self, inner: _client.Client) -> None:
        self._inner = inner
        # Weakly, as the asyncio half does.
        self._consumers: weakref.WeakSet[ConsumerBase] = weakref.WeakSet()

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _made(self, made: M) -> M:
        """A producer or consumer that was made here."""
        if isinstance(made, ConsumerBase):
            self._consumers.add(made)
        return made

    def _close(self) -> None:
        self._inner._native_client = None
        consumers, self._consumers = list(self._consumers), weakref.WeakSet()
        caller = threading.current_thread()

        async def finish() -> None:
            await asyncio.gather(*(consumer._finish_in_hand(caller) for consumer in consumers))

        def tell(consumer: ConsumerBase) -> None:
            # As in the asyncio half, which cannot tell them from those of the coordinators.
            with contextlib.suppress(ThalwegError):
                consumer._tell_leaving(False)

        with contextlib.ExitStack() as end:
            # Each of these, whatever is raised before; the last one first.
            end.callback(run, self._inner.close)
            for consumer in consumers:
                end.callback(tell, consumer)
            if consumers:
                run(finish)


class ProducerBase:
    """What a producer does in another way than in the asyncio half."""

    def __init__(self, inner: _producer.Producer) -> None:
        self._inner = inner
        # The loop that hands over; None before the first record. In a child that was forked a producer of the parent's refuses records before it is looked
        # at: to ask for the loop of this process costs a system call.
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return repr(self._inner)

    def __enter__(self) -> Self:
        run(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            run(lambda: self._inner.__aexit__(kind, error, trace))
        finally:
            if kind is None or issubclass(kind, Exception):
                self._tell_rest()

    def _flush(self, timeout: float | None) -> None:
        began = time.monotonic()
        run(lambda: self._inner.flush(timeout))
        left = None if timeout is None else max(0.0, began + timeout - time.monotonic())
        if not _called(left):
            raise TimedOutError(f"on_delivery of {self._inner._label} has not been called for every record after {timeout} s; it goes on")

    def _close(self) -> None:
        try:
            run(self._inner.close)
        finally:
            self._tell_rest()

    def _tell_rest(self) -> None:
        if not _called(_CALLBACKS_S):
            logging.getLogger("thalweg").warning("on_delivery of %s has not ended within %s s", self._inner._label, _CALLBACKS_S)

    def _enqueue(
        self,
        value: _producer.Value,
        *,
        key: _producer.Data | None,
        headers: _producer.Headers | None,
        timestamp_ms: _producer.Timestamp | None,
        partition: int | None,
        topic: str | None,
        on_delivery: _producer.OnDelivery | None,
    ) -> None:
        # On the caller's thread: a turn of the loop for each record would cost more than the record.
        tell = None
        if on_delivery is not None:
            _producer.check_callback(on_delivery)
            tell = functools.partial(_callback, on_delivery)
        item: _native.Item
        if type(value) is bytes and key is None and headers is None and timestamp_ms is None and partition is None and topic is None:
            item = value
        else:
            item = _producer._item(value, key, headers, timestamp_ms, partition, topic)
        loop = self._loop
        if loop is None:
            loop = self._loop = _loop()
        waits = self._inner._enqueue(loop, item, tell)
        if waits is not None:
            run(waits.buffered)


class ConsumerBase:
    """What a consumer does in another way than in the asyncio half: it takes, and tells, where the user iterates."""

    def __init__(self, inner: _consumer.Consumer) -> None:
        if inspect.iscoroutinefunction(inner._on_rebalance):
            raise TypeError("on_rebalance is async; here it is called by the thread that reads, and nobody would await it")
        self._inner = inner
        # Called here, and not by the asyncio half.
        self._on_rebalance, inner._on_rebalance = inner._on_rebalance, None
        # One at a time tells what came and went; whoever reads within the callback would wait for itself.
        self._telling = threading.Lock()
        # Who tells, by thread.
        self._teller: int | None = None
        self._readers = Readers[threading.Thread]()
        # True once it hands out nothing more.
        self._is_ending = False
        # How many takes have reached the user.
        self._got = 0

    def __enter__(self) -> Self:
        run(self._inner.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        holder = self._readers.holder
        if kind is None and holder is not None and holder is not threading.current_thread():
            # How the body of another thread ends, or has ended, is not known here.
            self._close()
        else:
            self._leave(kind is None)

    def __repr__(self) -> str:
        return repr(self._inner)

    def _call(self, change: _consumer.Rebalance) -> None:
        if self._on_rebalance is not None:
            self._on_rebalance(change)

    def _tell(self, native: _native.Consumer) -> None:
        """Tells what came and went, where the user iterates: the callback may call anything but read."""
        with self._telling:
            changes = list[_consumer.Change]()
            try:
                self._teller = threading.get_ident()
                changes = native.untold()
                for change in self._inner._follow(changes):
                    self._call(change)
            finally:
                self._teller = None
                native.told(len(changes))

    def _wait(
        self, take: Take[R], timeout: float | None = None, reading: weakref.ref[_native.Reading[Any]] | None = None
    ) -> R | None:
        """What is taken next, in that loop if it is one; None where nothing comes in time, or nothing more comes."""
        inner = self._inner
        _checks.duration("timeout", timeout)
        self._check_not_telling()
        reader = threading.current_thread()
        native = inner._native or run(inner._ready)
        deadline = None if timeout is None else time.monotonic() + max(timeout, _checks.TIMEOUT_MIN)

        async def ready() -> None:
            left = None if deadline is None else deadline - time.monotonic()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await native.ready()

        asks = True
        try:
            while True:
                try:
                    taken = self._readers.take(native, take, asks, reader, reading)
                    self._got += 1
                    return taken
                except StopAsyncIteration:
                    inner._ended = True
                    if self._is_ending or inner._closed:
                        # It is told of the end once.
                        self._readers.has_heard(reader)
                    return None
                except _native.NothingNow as nothing:
                    (changes,) = nothing.args
                asks = False
                if changes:
                    self._tell(native)
                elif deadline is not None and time.monotonic() >= deadline:
                    return None
                else:
                    run(ready)
        except BaseException:
            self._give_back(native)
            raise

    def _give_back(self, native: _native.Consumer) -> None:
        """After Ctrl-C and the like: what was taken and has not reached the user comes next."""
        if native.handed() > self._got:
            native.give_back()

    def _check_not_telling(self) -> None:
        if self._teller == threading.get_ident():
            raise InvalidError("a rebalance callback cannot read: it is told before the next record is handed out")

    def _check_readable(self) -> None:
        self._check_not_telling()
        self._readers.comes(threading.current_thread(), self._is_ending or self._inner._closed)

    def _next(self, timeout: float | None) -> Record | None:
        """The next record; the one before it is done. None: nothing came within `timeout` seconds, or nothing more comes (`ended` tells).

        A signal handler that raises ends the call, and a `for` loop. Without a group, the one record that was on its way
        to the caller at that moment may be lost then; in a group it is not done, and comes again. A handler that sets a
        flag loses nothing.

        Raises PluginFailedError where the filter fails on a record, BadRecordError where a stored batch does not decode, OffsetOutOfRangeError where the log
        does not hold the position, NotFoundError where the topic was deleted, DamagedError where the only copy is damaged: each again until a `seek` past it.
        ClosedError: the consumer is closed.
        """
        self._check_readable()
        return self._wait(take_record, timeout)

    def _next_batch(self, max_records: int | None, timeout: float | None) -> Batch | None:
        self._check_readable()
        return self._wait(take_batches(batch_limit(max_records)), timeout)

    def __iter__(self) -> Iterator[Record]:
        # Records that a loop left behind are the next loop's.
        self._inner._check_open()
        return _Reading(self, take_record)

    def _batches(self, max_records: int | None) -> Iterator[Batch]:
        self._inner._check_open()
        limit = batch_limit(max_records)
        return _Reading(self, take_batches(limit), max_records=limit)

    def _close(self) -> None:
        caller = threading.current_thread()
        run(lambda: self._finish_in_hand(caller))
        self._leave(False)

    async def _finish_in_hand(self, caller: threading.Thread) -> None:
        """Hands out nothing more; the body of a loop in another thread than the caller's may finish what it has in hand."""
        inner, native = self._inner, self._inner._native
        if native is None or inner._closed:
            return
        self._stop(native)
        holder = self._readers.holder
        if holder is not None and holder is not caller and holder.is_alive():
            idle = asyncio.ensure_future(native.idle())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(inner._close_timeout):
                    # Nobody is woken when a thread ends, or leaves its loop.
                    while holder.is_alive() and not self._readers.has_left():
                        if (await asyncio.wait([idle], timeout=_LOOKED_S))[0]:
                            break
            idle.cancel()

    def _stop(self, native: _native.Consumer) -> None:
        if not self._is_ending:
            self._is_ending = True
            native.stop()

    def _leave(self, is_done: bool) -> None:
        try:
            self._tell_leaving(is_done)
        finally:
            run(lambda: self._inner._leave(is_done))

    def _tell_leaving(self, is_done: bool) -> None:
        """Tells what leaving the group takes away, on the thread that closes; nothing where a callback closes."""
        inner, native = self._inner, self._inner._native
        # Whoever closes has nothing more to ask.
        self._readers.has_heard(threading.current_thread())
        is_within = self._teller == threading.get_ident()
        if self._on_rebalance is None or native is None or is_within or inner._process != os.getpid():
            return
        self._stop(native)
        limit = threading.TIMEOUT_MAX if inner._close_timeout is None else min(inner._close_timeout, threading.TIMEOUT_MAX)
        if not self._telling.acquire(timeout=limit):
            logging.getLogger("thalweg").warning("on_rebalance has not ended within %s s; the consumer is closed without it", limit)
            return
        errors = list[Exception]()
        try:
            self._teller = threading.get_ident()
            for change in inner._last_changes(native, is_done, self._readers.handed_at_wait):
                try:
                    self._call(change)
                except Exception as error:
                    errors.append(error)
        finally:
            self._teller = None
            self._telling.release()
        if errors:
            raise errors[0]


class _Reading(_native.Reading[R], Iterator[R]):
    """Records, or batches, one by one. What a loop leaves behind is the next loop's."""

    def __init__(self, consumer: ConsumerBase, take: Take[R], *, max_records: int | None = None) -> None:
        self._consumer = consumer
        self._take: Take[R] = take
        self._itself: weakref.ref[_native.Reading[Any]] = weakref.ref(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> R:
        consumer = self._consumer
        try:
            # Between this and the user nothing is called: a signal is not heeded there.
            taken = self.take()
            consumer._got += 1
            return taken
        except _native.NothingNow:
            pass
        except BaseException:
            if (native := consumer._inner._native) is not None:
                consumer._give_back(native)
            raise
        return self._later()

    def _later(self) -> R:
        """What is next, by the way that waits, and that takes note of the end."""
        consumer = self._consumer
        inner = consumer._inner
        if inner._closed and inner._native is None:
            raise StopIteration
        # Another thread may take from this iterator meanwhile: it takes note of itself, too.
        self.yields()
        waited = consumer._wait(self._take, None, self._itself)
        if waited is None:
            raise StopIteration
        if inner._native is not None:
            self.goes_on(inner._native)
            if consumer._readers.reading is not self._itself:
                # Another one has asked in the meantime.
                self.yields()
        return waited
