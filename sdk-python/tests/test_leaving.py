"""Who leaves a group is told what is given up, before that, and may still commit; in both halves."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import thalweg
import thalweg.sync
from conftest import run
from test_reading import fill
from thalweg import _consumer, _native
from thalweg.testing import Broker


class Member:
    """A native half that hands out nothing, and holds what it is told to."""

    def __init__(self, *changes: _consumer.Change, gone: tuple[int, ...] = ()) -> None:
        self.changes, self.gone = list(changes), gone
        self.did = list[str]()

    def take(self, asks: bool) -> _native.Record:
        if "stop" in self.did:
            raise StopAsyncIteration
        raise _native.NothingNow(self.untold())

    async def ready(self) -> None:
        await asyncio.sleep(0.01)

    def untold(self) -> list[_consumer.Change]:
        return list(self.changes)

    def told(self, count: int) -> None:
        del self.changes[:count]

    def handed(self) -> int:
        return 0

    def committed(self, topic: str, partition: int) -> int | None:
        if partition in self.gone:
            raise thalweg.RebalancedError("another's")
        return None

    async def commit(self, offsets: object) -> None:
        self.did.append("commit")

    def stop(self) -> None:
        self.did.append("stop")

    async def idle(self) -> None:
        pass

    async def close(self, is_done: bool) -> None:
        self.did.append("close")


def at(*partitions: int) -> list[thalweg.TopicPartition]:
    return [thalweg.TopicPartition("t", p) for p in partitions]


def consumer_of(member: Member, on_rebalance: Callable[[thalweg.Rebalance], object], limit: float = 10.0) -> thalweg.Consumer:
    async def open() -> Any:
        return member

    return thalweg.Consumer(["t"], "g", open, on_rebalance, limit)


@pytest.mark.parametrize("half", ["asyncio", "sync"])
def test_what_was_told_is_revoked_at_the_end_and_what_was_not_told_comes_first(half: str) -> None:
    def check(read: list[_consumer.Change], left: list[_consumer.Change], gone: tuple[int, ...], expect: list[tuple[str, list[int]]]) -> None:
        member, told = Member(*read, gone=gone), list[tuple[str, list[int]]]()

        def on_rebalance(change: thalweg.Rebalance) -> None:
            assert member.did in ([], ["stop"])
            told.append((change.kind, [p.partition for p in change.partitions]))

        consumer = consumer_of(member, on_rebalance)

        async def use() -> None:
            await consumer.next(timeout=0)
            member.changes += left
            told.clear()
            await consumer.close()

        if half == "asyncio":
            asyncio.run(use())
        else:
            face = thalweg.sync.Consumer(consumer)
            face.next(timeout=0)
            member.changes += left
            told.clear()
            face.close()
        assert (told, member.did[-1]) == (expect, "close")

    check([("assigned", "t", 0), ("assigned", "t", 1)], [], (), [("revoked", [0, 1])])
    check([("assigned", "t", 0), ("assigned", "t", 1)], [("revoked", "t", 0)], (), [("revoked", [0]), ("revoked", [1])])
    check([("assigned", "t", 0)], [("lost", "t", 0), ("assigned", "t", 2)], (), [("lost", [0]), ("assigned", [2]), ("revoked", [2])])
    # The session has ended, or another has one of them already, and nobody has read since.
    check([("assigned", "t", 0), ("assigned", "t", 1)], [], (0, 1), [("lost", [0, 1])])
    check([("assigned", "t", 0), ("assigned", "t", 1)], [], (0,), [("lost", [0]), ("revoked", [1])])
    # What was taken away before is not told again, and who has heard of nothing hears of nothing.
    check([("assigned", "t", 0), ("revoked", "t", 0)], [], (), [])
    check([], [], (), [])


def test_a_callback_is_awaited_for_a_while_and_its_error_comes_when_it_has_left() -> None:
    async def use() -> None:
        member = Member(("assigned", "t", 0))

        async def slow(change: thalweg.Rebalance) -> None:
            if change.kind == "revoked":
                await asyncio.sleep(0.1)
                await consumer.commit()

        async with consumer_of(member, slow) as consumer:
            await consumer.next(timeout=0)
        assert member.did == ["stop", "commit", "close"]

        member = Member(("assigned", "t", 0))
        cancelled = list[object]()

        async def hangs(change: thalweg.Rebalance) -> None:
            if change.kind == "revoked":
                try:
                    await asyncio.sleep(60)
                finally:
                    cancelled.append(change)

        consumer = consumer_of(member, hangs, 0.2)
        await consumer.next(timeout=0)
        started = time.monotonic()
        await consumer.close()
        assert 0.2 <= time.monotonic() - started < 3 and cancelled and member.did == ["stop", "close"]

        member = Member(("assigned", "t", 0), ("assigned", "t", 1))

        def fails(change: thalweg.Rebalance) -> None:
            if change.kind != "assigned":
                raise KeyError(change.kind)

        consumer = consumer_of(member, fails)
        await consumer.next(timeout=0)
        member.changes += [("lost", "t", 0)]
        with pytest.raises(KeyError, match="lost"):
            await consumer.close()
        assert member.did == ["stop", "close"]

    asyncio.run(asyncio.wait_for(use(), 20))


def test_a_callback_that_is_under_way_ends_before_the_last_one_begins() -> None:
    async def use() -> None:
        member, told = Member(("assigned", "t", 0)), list[str]()

        async def on_rebalance(change: thalweg.Rebalance) -> None:
            await asyncio.sleep(0.3)
            told.append(change.kind)

        consumer = consumer_of(member, on_rebalance)
        assert await consumer.next(timeout=0.05) is None
        assert told == []
        await consumer.close()
        assert told == ["assigned", "revoked"]

    asyncio.run(asyncio.wait_for(use(), 20))


@pytest.mark.parametrize("when", ["assigned", "revoked"])
def test_a_callback_that_closes_waits_for_nobody(when: str) -> None:
    async def use() -> None:
        member, told = Member(("assigned", "t", 0)), list[str]()

        async def on_rebalance(change: thalweg.Rebalance) -> None:
            told.append(change.kind)
            if change.kind == when:
                await consumer.close()

        consumer = consumer_of(member, on_rebalance)
        started = time.monotonic()
        if when == "assigned":
            assert await anext(consumer, None) is None
        else:
            await consumer.next(timeout=0)
            await consumer.close()
        assert time.monotonic() - started < 3
        assert told == (["assigned"] if when == "assigned" else ["assigned", "revoked"]) and member.did[-1] == "close"

    asyncio.run(asyncio.wait_for(use(), 20))


def test_in_a_child_that_was_forked_nobody_is_told() -> None:
    for in_sync in (False, True):
        told = list[object]()
        member = Member(("assigned", "t", 0))
        consumer = consumer_of(member, told.append)
        if in_sync:
            face = thalweg.sync.Consumer(consumer)
            face.next(timeout=0)
            consumer._process = 0
            face.close()
        else:

            async def use(consumer: thalweg.Consumer = consumer) -> None:
                await consumer.next(timeout=0)
                consumer._process = 0
                await consumer.close()

            asyncio.run(use())
        assert len(told) == 1


def test_a_commit_at_the_end_counts_and_takes_nothing_that_failed_with_it(broker: Broker) -> None:
    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)

        async def next_of(group: str) -> str | None:
            async with client.consumer(topic, group=group, auto_commit=None) as consumer:
                record = await consumer.next(timeout=10)
                assert record is not None
                return record.text()

        told = list[str]()

        async def on_rebalance(change: thalweg.Rebalance) -> None:
            told.append(change.kind)
            if change.kind == "revoked":
                assert await consumer.assignment() == change.partitions
                await consumer.commit()

        # Left in order: what is in hand is done.
        group = "left"
        consumer = client.consumer(topic, group=group, auto_commit=None, on_rebalance=on_rebalance)
        async with consumer:
            async for record in consumer:
                if record.text() == "3":
                    break
        assert (told, await next_of(group)) == (["assigned", "revoked"], "4")
        # Left by an exception, or closed in `finally`: what is in hand is not.
        group = "failed"
        consumer = client.consumer(topic, group=group, auto_commit=None, on_rebalance=on_rebalance)
        with pytest.raises(KeyError):
            try:
                async for record in consumer:
                    if record.text() == "3":
                        raise KeyError
            finally:
                await consumer.close()
        assert await next_of(group) == "3"
        # What was committed by hand is not taken back.
        group = "committed"
        consumer = client.consumer(topic, group=group, auto_commit=None, on_rebalance=on_rebalance)
        while (record := await consumer.next()) is not None and record.text() != "3":
            pass
        assert record is not None
        await consumer.commit(record)
        await consumer.close()
        assert await next_of(group) == "4"
        # Nothing is in hand.
        group = "asked"
        consumer = client.consumer(topic, group=group, auto_commit=None, on_rebalance=on_rebalance)
        while await consumer.next(timeout=1) is not None:
            pass
        await consumer.close()
        assert [o.lag for o in (await client.describe_group(group)).offsets] == [0]
        # Who has not read has been told of nothing.
        told.clear()
        async with client.consumer(topic, group="idle", on_rebalance=on_rebalance):
            pass
        assert told == []

    run(broker, work)


def test_a_client_that_closes_tells_its_consumers(broker: Broker) -> None:
    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)
        async with broker.connect() as own:
            told = list[str]()

            async def on_rebalance(change: thalweg.Rebalance) -> None:
                told.append(change.kind)
                await asyncio.sleep(0.01)
                if change.kind == "revoked":
                    await consumer.commit()
                    raise KeyError

            consumer = own.consumer(topic, group="g", auto_commit=None, on_rebalance=on_rebalance)
            for _ in range(4):
                await consumer.next()
            with pytest.raises(KeyError):
                await own.close()
        assert told == ["assigned", "revoked"]
        # The fourth one was in hand.
        [offset] = (await client.describe_group("g")).offsets
        assert offset.lag == 7

    run(broker, work)


def test_an_error_of_closing_for_which_nobody_waits_any_more_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(change: thalweg.Rebalance) -> None:
        if change.kind == "revoked":
            await asyncio.sleep(0.2)
            raise KeyError("in the callback")

    async def use(closers: int, given_up: int) -> list[BaseException | None]:
        consumer = consumer_of(Member(("assigned", "t", 0)), fails)
        await consumer.next(timeout=0)
        closing = [asyncio.create_task(consumer.close()) for _ in range(closers)]
        await asyncio.sleep(0.05)
        for task in closing[:given_up]:
            task.cancel()
        ended = await asyncio.gather(*closing, return_exceptions=True)
        await asyncio.sleep(0.4)
        return ended

    def check(closers: int, given_up: int, expect: list[type[BaseException]], is_logged: bool) -> None:
        caplog.clear()
        assert [type(error) for error in asyncio.run(use(closers, given_up))] == expect
        logged = [r for r in caplog.records if r.name == "thalweg" and r.exc_info is not None and r.exc_info[0] is KeyError]
        assert len(logged) == is_logged, caplog.text

    cancelled = asyncio.CancelledError
    check(1, 0, [KeyError], False)
    check(1, 1, [cancelled], True)
    # Another one has heard of it.
    check(2, 1, [cancelled, KeyError], False)
    check(2, 2, [cancelled, cancelled], True)


def test_an_error_of_a_callback_at_close_is_raised_once(broker: Broker) -> None:
    def fails(change: thalweg.Rebalance) -> None:
        if change.kind == "revoked":
            raise KeyError

    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 3)
        async with broker.connect() as own:
            consumer = own.consumer(topic, group="g", on_rebalance=fails)
            await consumer.next()
            with pytest.raises(KeyError):
                await consumer.close()

        def in_sync() -> None:
            with broker.connect_sync() as own:
                consumer = own.consumer(topic, group="s", on_rebalance=fails)
                consumer.next(timeout=10)
                with pytest.raises(KeyError):
                    consumer.close()

        await asyncio.to_thread(in_sync)

    run(broker, work)


def test_the_thread_that_closes_tells_while_the_body_of_another_has_ended(broker: Broker) -> None:
    """A body beside `Client.close()` lost its consumer in the middle."""
    for by_client in (False, True):
        with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
            topic, told, finished, errors = f"t-{by_client}", list[tuple[str, str]](), list[str | None](), list[Exception]()
            with client.producer(topic) as producer:
                producer.send_batch([str(i) for i in range(10)])
            is_in_body = threading.Event()

            def on_rebalance(change: thalweg.Rebalance) -> None:
                told.append((threading.current_thread().name, change.kind))
                consumer.commit()

            def work() -> None:
                try:
                    for record in consumer:
                        is_in_body.set()
                        time.sleep(0.3)
                        consumer.commit(record)
                        finished.append(record.text())
                except Exception as error:
                    errors.append(error)

            consumer = client.consumer(topic, group=topic, auto_commit=None, on_rebalance=on_rebalance)
            working = threading.Thread(target=work, name="reader")
            working.start()
            is_in_body.wait(10)
            (client if by_client else consumer).close()
            closed_after = len(finished)
            working.join(10)
            assert (errors, finished) == ([], [str(i) for i in range(closed_after)]) and closed_after > 0
            assert told == [("reader", "assigned"), (threading.current_thread().name, "revoked")]
        with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
            with client.consumer(topic, group=topic) as again:
                record = again.next(timeout=10)
                assert record is not None and record.text() == str(closed_after)


def test_an_exception_in_a_block_of_the_sync_half_leaves_out_what_failed(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.producer("t") as producer:
            producer.send_batch([str(i) for i in range(10)])

        def on_rebalance(_: thalweg.Rebalance) -> None:
            consumer.commit()

        with pytest.raises(KeyError):
            with client.consumer("t", group="g", auto_commit=None, on_rebalance=on_rebalance) as consumer:
                for record in consumer:
                    if record.text() == "3":
                        raise KeyError
        with client.consumer("t", group="g") as again:
            record = again.next(timeout=10)
            assert record is not None and record.text() == "3"


@pytest.mark.parametrize("by_batch", [False, True], ids=["records", "batches"])
def test_close_in_finally_leaves_out_what_failed_and_commits_the_rest(broker: Broker, by_batch: bool) -> None:
    async def in_asyncio() -> list[str | None]:
        async with broker.connect() as client:
            consumer = client.consumer("t", group="asyncio")
            seen = list[str | None]()
            try:
                async for item in consumer.batches(max_records=2) if by_batch else consumer:
                    for record in item if isinstance(item, thalweg.Batch) else [item]:
                        seen.append(record.text())
                        if record.text() == "5":
                            raise KeyError
            except KeyError:
                pass
            finally:
                await consumer.close()
            return seen

    with broker.connect_sync() as client:
        with client.producer("t") as producer:
            producer.send_batch([str(i) for i in range(10)])
        assert asyncio.run(in_asyncio()) == [str(i) for i in range(6)]
        consumer = client.consumer("t", group="sync")
        with pytest.raises(KeyError):
            try:
                for item in consumer.batches(max_records=2) if by_batch else consumer:
                    for record in item if isinstance(item, thalweg.Batch) else [item]:
                        if record.text() == "5":
                            raise KeyError
            finally:
                consumer.close()
        for group in ("asyncio", "sync"):
            with client.consumer("t", group=group) as again:
                record = again.next(timeout=10)
                # All of a batch that failed comes again, and nothing before it.
                assert record is not None and record.text() == ("4" if by_batch else "5"), group


@pytest.mark.parametrize("end", ["cancelled", "failed"])
def test_a_record_whose_body_did_not_end_comes_again_though_the_consumer_is_left_in_order(broker: Broker, end: str) -> None:
    """The body runs in a task of its own, and whoever leaves the consumer in order has not read."""

    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)
        is_in_body = asyncio.Event()

        async def read(consumer: thalweg.Consumer) -> None:
            async for record in consumer:
                if record.text() == "3":
                    is_in_body.set()
                    if end == "failed":
                        raise KeyError
                    await asyncio.sleep(60)

        async with client.consumer(topic, group="g") as consumer:
            reading = asyncio.create_task(read(consumer))
            await is_in_body.wait()
            reading.cancel()
            await asyncio.wait([reading])
        async with client.consumer(topic, group="g") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.text() == "3"

    run(broker, work)


def test_a_record_whose_thread_did_not_end_its_body_comes_again_though_the_consumer_is_left_in_order(broker: Broker) -> None:
    with broker.connect_sync() as client:
        with client.producer("t") as producer:
            producer.send_batch([str(i) for i in range(10)])
        with client.consumer("t", group="g") as consumer:

            def read() -> None:
                with contextlib.suppress(KeyError):
                    for record in consumer:
                        if record.text() == "3":
                            raise KeyError

            reading = threading.Thread(target=read)
            reading.start()
            reading.join(10)
        with client.consumer("t", group="g") as again:
            record = again.next(timeout=10)
            assert record is not None and record.text() == "3"


def test_a_thread_that_fails_behind_next_has_not_done_its_record_and_nobody_waits_for_it_any_longer(broker: Broker) -> None:
    with broker.connect_sync() as client:
        with client.producer("t") as producer:
            producer.send_batch([str(i) for i in range(10)])
        with client.consumer("t", group="g") as consumer:

            def read() -> None:
                assert consumer.next(timeout=10) is not None
                begun.set()
                time.sleep(0.3)

            begun = threading.Event()
            reading = threading.Thread(target=read)
            reading.start()
            begun.wait(10)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        with client.consumer("t", group="g") as again:
            record = again.next(timeout=10)
            assert record is not None and record.text() == "0"


def test_a_read_in_a_task_of_its_own_is_the_caller_s(broker: Broker) -> None:
    """`wait_for` makes such a task, in Python 3.11."""

    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)

        async def fails(consumer: thalweg.Consumer) -> None:
            assert await asyncio.wait_for(consumer.next(), 10) is not None
            begun.set()
            await asyncio.sleep(0.2)
            raise KeyError

        begun = asyncio.Event()
        async with client.consumer(topic, group="fails") as consumer:
            working = asyncio.create_task(fails(consumer))
            await begun.wait()
        await asyncio.wait([working])
        async with client.consumer(topic, group="fails") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.text() == "0"
        async with client.consumer(topic, group="own") as consumer:
            assert await asyncio.wait_for(consumer.next(), 10) is not None
        async with client.consumer(topic, group="own") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.text() == "1"

    run(broker, work)


def test_a_body_that_ends_while_its_block_is_left_is_done(broker: Broker) -> None:
    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)

        async def one(consumer: thalweg.Consumer) -> None:
            async for _ in consumer:
                begun.set()
                await asyncio.sleep(0.2)
                break

        begun = asyncio.Event()
        async with client.consumer(topic, group="g") as consumer:
            working = asyncio.create_task(one(consumer))
            await begun.wait()
        await working
        async with client.consumer(topic, group="g") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.text() == "1"

    run(broker, work)


class Handing(Member):
    """A native half that hands out what is put there, once the test lets the first of those go on that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.records, self.waits, self.done = list[thalweg.Record](), list[asyncio.Event](), list[bool]()

    def take(self, asks: bool) -> thalweg.Record:
        if "stop" not in self.did and self.records:
            return self.records.pop(0)
        return super().take(asks)

    async def ready(self) -> None:
        self.waits.append(asyncio.Event())
        await self.waits[-1].wait()

    async def close(self, is_done: bool) -> None:
        self.done.append(is_done)


@pytest.mark.parametrize("by", ["next", "loop"])
@pytest.mark.parametrize("fails", [True, False])
def test_what_is_in_hand_is_where_it_was_handed_out_last(monkeypatch: pytest.MonkeyPatch, by: str, fails: bool) -> None:
    """It was taken for that of the task that had begun to ask last, which may have got nothing."""
    # Only a consumer of the core is taken from without the Python half.
    monkeypatch.setattr(_consumer._Reading, "goes_on", lambda *_: None)

    async def use() -> None:
        native = Handing()

        async def open() -> Any:
            return native

        consumer = thalweg.Consumer(["t"], "g", open)

        async def read() -> None:
            records = aiter(consumer)
            for _ in range(count):
                await (consumer.next() if by == "next" else anext(records))
            if fails:
                raise KeyError

        async def wait() -> None:
            await consumer.next(timeout=0.1 if fails else None)

        # A loop gets the second one without waiting.
        count = 1 if by == "next" else 2
        async with consumer:
            reading = asyncio.create_task(read())
            await asyncio.sleep(0.01)
            waiting = asyncio.create_task(wait())
            await asyncio.sleep(0.01)
            native.records += [thalweg.Record(b"1")] * count
            native.waits[0].set()
            await asyncio.wait([reading])
            if not fails:
                waiting.cancel()
            await asyncio.wait([waiting])
            assert (reading.exception() is not None, waiting.cancelled()) == (fails, not fails)
        assert native.done == [not fails]

    asyncio.run(asyncio.wait_for(use(), 20))


def test_in_the_sync_half_a_thread_that_got_nothing_has_nothing_in_hand(broker: Broker) -> None:
    with broker.connect_sync() as client:
        with client.producer("t") as producer:
            producer.send_batch(["0", "1"])
        with client.consumer("t", group="g") as consumer:
            assert consumer.next(timeout=10) is not None and consumer.next(timeout=10) is not None
            waiting = threading.Thread(target=lambda: consumer.next(timeout=0.1))
            waiting.start()
            waiting.join(10)
            # It has asked: the second one is done, and nothing is in hand.
        assert [o.lag for o in client.describe_group("g").offsets] == [0]


def test_every_task_and_thread_around_next_ends_with_close_as_a_loop_does(broker: Broker) -> None:
    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 30)
        consumer, ends = client.consumer(topic, group="g"), list[object]()

        async def loop() -> None:
            try:
                while await consumer.next() is not None:
                    await asyncio.sleep(0.05)
                ends.append(None)
                await consumer.next()
            except thalweg.ClosedError as error:
                ends.append(type(error))

        loops = [asyncio.create_task(loop()) for _ in range(3)]
        await asyncio.sleep(0.2)
        await consumer.close()
        await asyncio.wait(loops)
        assert sorted(map(str, ends)) == sorted(map(str, [None, thalweg.ClosedError] * 3))

    run(broker, work)
    with broker.connect_sync() as sync:
        with sync.producer("t") as producer:
            producer.send_batch([str(i) for i in range(30)])
        consumer, ends = sync.consumer("t", group="g"), list[object]()

        def loop() -> None:
            try:
                while consumer.next() is not None:
                    time.sleep(0.05)
                ends.append(None)
                consumer.next()
            except thalweg.ClosedError as error:
                ends.append(type(error))

        loops = [threading.Thread(target=loop) for _ in range(3)]
        for each in loops:
            each.start()
        time.sleep(0.2)
        consumer.close()
        for each in loops:
            each.join(10)
        assert sorted(map(str, ends)) == sorted(map(str, [None, thalweg.ClosedError] * 3))
