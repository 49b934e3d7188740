"""Whoever gives up waiting, leaves a loop, seeks or is slow loses nothing, in both halves."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import json
import pickle
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import thalweg
import thalweg.sync
from conftest import run
from thalweg.testing import Broker


async def fill(client: thalweg.Client, topic: str, count: int) -> None:
    async with client.producer(topic) as producer:
        for delivery in await producer.send_batch([str(i) for i in range(count)]):
            assert isinstance(delivery, thalweg.Delivery)


def test_a_read_that_is_cancelled_leaves_the_record_for_the_next_one(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        async def feed(topic: str) -> None:
            async with client.producer(topic) as producer:
                for i in range(300):
                    await producer.send(str(i))

        for group in (None, "g"):
            for by_batch in (False, True):
                topic = f"{group}-{by_batch}"
                await client.create_topic(topic)
                consumer = client.consumer(topic, group=group and f"{group}{by_batch}")
                async with consumer:
                    feeding, got, quiet = asyncio.create_task(feed(topic)), list[int](), 0
                    reading = consumer.batches() if by_batch else aiter(consumer)
                    while not (feeding.done() and quiet > 40):
                        quiet = 0 if not feeding.done() else quiet + 1
                        try:
                            # Shorter than the way to the broker, now and then.
                            async with asyncio.timeout(0.002):
                                async for item in reading:
                                    values = item.values() if isinstance(item, thalweg.Batch) else [item.value]
                                    got.extend(int(v) for v in values if v is not None)
                                    quiet = 0
                        except TimeoutError:
                            pass
                    await feeding
                    assert got == list(range(300)), (group, by_batch)
                if group is not None:
                    described = await client.describe_group(f"{group}{by_batch}")
                    assert [offset.lag for offset in described.offsets] == [0]

    run(broker, read)


@pytest.mark.parametrize("by_batch", [False, True], ids=["records", "batches"])
def test_an_iterator_outlives_a_time_out(broker: Broker, by_batch: bool) -> None:
    """It ended without a word: every later call said that there is nothing more."""

    async def read(client: thalweg.Client, topic: str) -> None:
        async with client.consumer(topic, start="earliest") as consumer:
            iterator: Any = consumer.batches(max_records=1) if by_batch else aiter(consumer)
            for turn in range(3):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(iterator), 0.1)
                await fill(client, topic, 1)
                item = await asyncio.wait_for(anext(iterator), 10)
                assert (item[0] if by_batch else item).value == b"0", turn

    run(broker, read)


@pytest.mark.parametrize("auto_commit", [1.0, None], ids=["automatic", "by hand"])
def test_a_worker_that_is_cancelled_and_started_again_gets_each_record_once(broker: Broker, auto_commit: float | None) -> None:
    """The usual way to stop a service: its task is cancelled, then the consumer is left in order."""
    count = 2_000

    async def work(client: thalweg.Client, topic: str) -> None:
        got = list[int]()

        async def feed() -> None:
            async with client.producer(topic) as producer:
                for i in range(count):
                    await producer.enqueue(str(i))
                    await asyncio.sleep(0.001)

        async def read(consumer: thalweg.Consumer) -> None:
            async for record in consumer:
                got.append(int(record.value or b""))

        feeding, runs = asyncio.create_task(feed()), 0
        while len(got) < count:
            async with client.consumer(topic, group="g", auto_commit=auto_commit) as consumer:
                reading, before = asyncio.create_task(read(consumer)), len(got)
                async with asyncio.timeout(20):
                    while len(got) == before or (feeding.done() and len(got) < count):
                        await asyncio.sleep(0.001)
                await asyncio.sleep(0.003 * (runs % 7))
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled()
                if auto_commit is None:
                    await consumer.commit()
            runs += 1
        await feeding
        assert runs > 2 and got == list(range(count))
        assert [offset.lag for offset in (await client.describe_group("g")).offsets] == [0]

    run(broker, work)


def test_what_was_taken_for_somebody_who_gave_up_is_not_done(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        async with client.consumer(topic, group="g") as consumer:
            waiting = asyncio.create_task(anext(aiter(consumer)))
            await asyncio.sleep(0.2)
            waiting.cancel()
            await asyncio.wait([waiting])
            await fill(client, topic, 20)
            await asyncio.sleep(0.5)
        async with client.consumer(topic, group="g", until_end=True) as consumer:
            assert [int(r.value or b"") async for r in consumer] == list(range(20))

    run(broker, read)


def test_a_loop_that_is_left_goes_on_where_it_was(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        for group in (None, "g"):
            topic = str(uuid.uuid4())
            client.create_topic(topic)
            with client.producer(topic) as producer:
                producer.send_batch([str(i) for i in range(1_000)])
            with client.consumer(topic, group=group, start="earliest") as consumer:
                got = list[int]()
                for record in consumer:
                    got.append(int(record.value or b""))
                    if len(got) == 10:
                        break
                if group is not None:
                    consumer.commit()
                    assert client.describe_group("g").offsets[0].committed in (got[-1] + 1, got[-1] + 2)
                got.append(int(next(iter(consumer)).value or b""))
                assert got == list(range(11))
                # Records that wait are dropped by a seek, in the middle of a loop, too.
                for record in consumer:
                    got.append(int(record.value or b""))
                    if len(got) == 13:
                        consumer.seek(0, "earliest")
                    if len(got) == 16:
                        break
                assert got == [*range(13), 0, 1, 2]
                # Closed within a loop, it hands out nothing more.
                for record in consumer:
                    consumer.close()
                    got.append(int(record.value or b""))
                assert got[16:] == [3]


@contextlib.contextmanager
def alarm_raises(error: type[BaseException]) -> Iterator[None]:
    """What a timer of the test rings, raises this where the test is."""

    def ring(*_: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_exception_of_a_signal_handler_loses_nothing(broker: Broker) -> None:
    class Alarm(Exception):
        pass

    with alarm_raises(Alarm), thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        topic = str(uuid.uuid4())
        client.create_topic(topic)
        with client.producer(topic) as producer, client.consumer(topic, group="g") as consumer:
            got = list[thalweg.Record]()
            for i in range(100):
                producer.enqueue(str(i))
                signal.setitimer(signal.ITIMER_REAL, 0.004, 0.5)
                record = None
                try:
                    for record in consumer:
                        # Nothing is called here: what the loop has handed out, it has handed out.
                        got += (record,)
                        record = None
                except Alarm:
                    if record is not None:
                        got += (record,)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            while len(got) < 100 and (record := consumer.next(timeout=10)):
                got.append(record)
            assert [int(record.value or b"") for record in got] == list(range(100))


@pytest.mark.parametrize("by_loop", [True, False], ids=["loop", "next_batch"])
def test_ctrl_c_loses_no_batch(broker: Broker, by_loop: bool) -> None:
    with alarm_raises(KeyboardInterrupt), thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        topic = str(uuid.uuid4())
        client.create_topic(topic)
        with client.producer(topic) as producer, client.consumer(topic, group="g") as consumer:
            got = list[thalweg.Batch]()
            for i in range(100):
                producer.enqueue_batch([f"{i}-{j}" for j in range(5)])
                # And again: what is raised while the interpreter clears a weak reference goes nowhere.
                signal.setitimer(signal.ITIMER_REAL, 0.004, 0.5)
                batch = None
                try:
                    if by_loop:
                        for batch in consumer.batches(max_records=3):
                            # Nothing is called here, as with records.
                            got += (batch,)
                            batch = None
                    else:
                        while True:
                            batch = consumer.next_batch(max_records=3)
                            got += (batch,)  # type: ignore[arg-type]
                            batch = None
                except KeyboardInterrupt:
                    if batch is not None:
                        got += (batch,)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            while sum(map(len, got)) < 500 and (batch := consumer.next_batch(timeout=10)):
                got.append(batch)
            values = [record.text() for batch in got for record in batch]
            assert values == [f"{i}-{j}" for i in range(100) for j in range(5)]
        assert [offset.lag for offset in client.describe_group("g").offsets] == [0]


def test_a_limit_of_processing_is_one_records_and_who_was_slow_comes_back(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 6)
        told = list[str]()
        options = {"max_processing": 1.0, "until_end": True, "on_rebalance": lambda r: told.append(r.kind)}
        async with client.consumer(topic, group="g", **options) as consumer:
            # Together longer than the limit, none of them by itself.
            got = list[int]()
            async for record in consumer:
                got.append(int(record.value or b""))
                await asyncio.sleep(0.3)
        assert (got, told) == (list(range(6)), ["assigned", "revoked"])
        told.clear()
        async with client.consumer(topic, group="h", **options) as consumer:
            got.clear()
            async for record in consumer:
                got.append(int(record.value or b""))
                await asyncio.sleep(2.5 if len(got) == 2 else 0)
        assert (got, told) == ([0, 1, 1, 2, 3, 4, 5], ["assigned", "lost", "assigned", "revoked"])

    run(broker, read)


def test_one_at_a_time_with_a_time_out(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        async with client.consumer(topic, start="earliest") as consumer:
            started = time.monotonic()
            assert await consumer.next(timeout=0.2) is None
            assert 0.15 < time.monotonic() - started < 5 and not consumer.ended
            await fill(client, topic, 25)
            first = await consumer.next(timeout=10)
            assert first is not None and first.value == b"0"
            # As often as it takes, without a time to wait: what has come is found.
            polled = None
            for _ in range(200):
                polled = polled or await consumer.next(timeout=0)
            assert polled is not None and polled.value == b"1"
            assert (await anext(consumer)).value == b"2"
            batch = await consumer.next_batch(max_records=10, timeout=10)
            assert batch is not None and batch.values() == [str(i).encode() for i in range(3, 13)]
            assert [record.value for record in batch] == batch.values()
            assert (batch[0].value, batch[-1].value, len(batch)) == (b"3", b"12", 10)
            rest = await consumer.next_batch()
            assert rest is not None and rest.values() == [str(i).encode() for i in range(13, 25)]
            assert await consumer.position(0) == rest[-1].offset + 1 and await consumer.lag(0) == 0
        with thalweg.sync.connect(broker.address, ca=broker.ca) as sync:
            with sync.consumer(topic, start="earliest", until_end=True) as reader:
                assert [reader.next(timeout=10).value for _ in range(2)] == [b"0", b"1"]  # type: ignore[union-attr]
                some = reader.next_batch(max_records=3)
                assert some is not None and some.values() == [b"2", b"3", b"4"]
                assert len(list(reader)) == 20 and reader.next() is None and reader.ended

    run(broker, read)


def test_a_paused_partition_hands_out_nothing_until_it_is_resumed(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 1_000)
        for by_batch in (False, True):
            async with client.consumer(topic, start="earliest") as consumer:
                first = await consumer.next()
                assert first is not None
                await consumer.pause(0)
                assert await consumer.paused() == [(topic, 0)]
                assert await (consumer.next_batch if by_batch else consumer.next)(timeout=0.3) is None
                assert await consumer.position(0) == first.offset + 1
                await consumer.resume(0)
                got = list[bytes | None]()
                while len(got) < 999:
                    batch = await consumer.next_batch(timeout=10)
                    assert batch is not None
                    got.extend(batch.values())
                assert got == [str(i).encode() for i in range(1, 1_000)]

    run(broker, read)


def test_a_partition_that_is_paused_in_a_loop_is_silent_from_the_next_record_on(broker: Broker) -> None:
    """Half of what had come was handed out all the same."""

    def check(got: list[thalweg.Record], paused: int) -> None:
        assert {record.partition for record in got[10:]} == {1 - paused}
        assert [record.text() for record in got if record.partition != paused] == [str(i) for i in range(1_000)]

    async def read(client: thalweg.Client, _: str) -> None:
        await client.create_topic("two", partitions=2)
        async with client.producer("two") as producer:
            await producer.send_batch([thalweg.Message(str(i), partition=p) for i in range(1_000) for p in range(2)])
        async with client.consumer("two", start="earliest") as consumer:
            got, paused = list[thalweg.Record](), -1
            async for record in consumer:
                got.append(record)
                if len(got) == 10:
                    paused = record.partition
                    await consumer.pause(paused)
                if sum(r.partition != paused for r in got) == 1_000:
                    break
            check(got, paused)
            assert await consumer.next(timeout=0.3) is None
            await consumer.resume(paused)
            while sum(r.partition == paused for r in got) < 1_000:
                record = await consumer.next(timeout=10)  # type: ignore[assignment]
                assert record is not None
                got.append(record)
            assert [r.text() for r in got if r.partition == paused] == [str(i) for i in range(1_000)]

    run(broker, read)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.consumer("two", start="earliest") as consumer:
            got, paused = list[thalweg.Record](), -1
            for record in consumer:
                got.append(record)
                if len(got) == 10:
                    paused = record.partition
                    consumer.pause(paused)
                if sum(r.partition != paused for r in got) == 1_000:
                    break
            check(got, paused)
            assert consumer.next(timeout=0.3) is None and consumer.paused() == [("two", paused)]


def test_several_who_read_one_consumer_get_each_record_once(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 1_000)
        got = list[int]()
        async with client.consumer(topic, start="earliest", until_end=True) as consumer:

            async def work() -> None:
                while (record := await consumer.next()) is not None:
                    got.append(int(record.value or b""))
                    await asyncio.sleep(0)

            async with asyncio.timeout(30):
                await asyncio.gather(*(work() for _ in range(3)))
        assert sorted(got) == list(range(1_000))
        got.clear()

        def read_by_threads() -> None:
            with broker.connect_sync() as sync, sync.consumer(topic, start="earliest", until_end=True) as consumer:

                def work() -> None:
                    for record in consumer:
                        got.append(int(record.value or b""))

                threads = [threading.Thread(target=work) for _ in range(3)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(30)

        await asyncio.to_thread(read_by_threads)
        assert sorted(got) == list(range(1_000))

    run(broker, read)


@pytest.mark.parametrize("how", ["for", "batches", "anext", "next"])
def test_a_consumer_has_ended_when_its_loop_has(broker: Broker, how: str) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)
        async with client.consumer(topic, start="earliest", until_end=True) as consumer:
            assert not consumer.ended
            if how == "next":
                while await consumer.next() is not None:
                    pass
            elif how == "anext":
                while await anext(consumer, None) is not None:
                    pass
            else:
                async for _ in consumer.batches() if how == "batches" else consumer:
                    pass
            assert consumer.ended
            await consumer.seek(0, "earliest")
            assert not consumer.ended and await consumer.next() is not None

        def in_sync() -> None:
            with broker.connect_sync() as sync, sync.consumer(topic, start="earliest", until_end=True) as consumer:
                if how == "next":
                    while consumer.next() is not None:
                        pass
                else:
                    for _ in consumer.batches() if how == "batches" else consumer:
                        pass
                assert consumer.ended

        await asyncio.to_thread(in_sync)

    run(broker, read)


def test_close_lets_a_body_in_another_task_finish_what_it_has_in_hand(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)
        finished = list[bytes | None]()

        async def work(consumer: thalweg.Consumer) -> None:
            async for record in consumer:
                await asyncio.sleep(0.2)
                finished.append(record.value)

        consumer = client.consumer(topic, group="g")
        working = asyncio.create_task(work(consumer))
        await asyncio.sleep(0.5)
        await consumer.close()
        await working
        done = len(finished)
        assert 0 < done < 10
        # Finished, so done: it does not come again.
        async with client.consumer(topic, group="g") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.value == str(done).encode()
        # In `finally` after an exception nothing is waited for, and what failed comes again.
        failing, started = client.consumer(topic, group="f"), time.monotonic()
        try:
            async for record in failing:
                if record.value == b"4":
                    raise KeyError
        except KeyError:
            pass
        finally:
            await failing.close()
        assert time.monotonic() - started < 3
        async with client.consumer(topic, group="f") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.value == b"4"
        # A body that does not end is not waited for longer than was said.
        stuck = client.consumer(topic, group="s", close_timeout=0.2)
        body = asyncio.Event()

        async def hang() -> None:
            async for _ in stuck:
                body.set()
                await asyncio.sleep(60)

        hanging = asyncio.create_task(hang())
        await body.wait()
        await asyncio.wait_for(stuck.close(), 3)
        hanging.cancel()

    run(broker, read)


async def next_record(consumer: thalweg.Consumer) -> thalweg.Record | None:
    return await consumer.next()


async def next_in_time(consumer: thalweg.Consumer) -> thalweg.Record | None:
    return await consumer.next(timeout=10)


async def next_of_batch(consumer: thalweg.Consumer) -> thalweg.Record | None:
    batch = await consumer.next_batch(max_records=1)
    return None if batch is None else batch[0]


async def next_of_iterator(consumer: thalweg.Consumer) -> thalweg.Record | None:
    return await anext(consumer, None)


@pytest.mark.parametrize("read", [next_record, next_in_time, next_of_batch, next_of_iterator])
@pytest.mark.parametrize("commits", [True, False])
def test_a_loop_around_next_ends_with_close_as_any_loop_does(broker: Broker, read: Any, commits: bool) -> None:
    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 10)
        options: dict[str, Any] = {"auto_commit": None} if commits else {}
        consumer = client.consumer(topic, group="g", **options)
        seen, is_in_body = list[str | None](), asyncio.Event()

        async def loop() -> None:
            while (record := await read(consumer)) is not None:
                if len(seen) == 4:
                    is_in_body.set()
                    await asyncio.sleep(1)
                seen.append(record.text())
                if commits:
                    await consumer.commit(record)
            assert consumer.ended
            # It was told once.
            for _ in range(2):
                with pytest.raises(thalweg.ClosedError):
                    await read(consumer)

        looping = asyncio.create_task(loop())
        await is_in_body.wait()
        closing = asyncio.create_task(consumer.close())
        await asyncio.sleep(0.1)
        # Nobody else is let in meanwhile.
        with pytest.raises(thalweg.ClosedError):
            await read(consumer)
        await closing
        await looping
        assert seen == ["0", "1", "2", "3", "4"]
        async with client.consumer(topic, group="g") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.text() == "5"

    run(broker, work)


@pytest.mark.parametrize("read", [next_record, next_in_time, next_of_batch, next_of_iterator])
def test_a_body_that_ends_right_behind_close_is_done_and_its_loop_ends(broker: Broker, read: Any) -> None:
    """Its reader asked before the task that ends the consumer had begun, got one more record, and then ClosedError."""

    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 1_000)
        for turns in range(4):
            consumer, seen, may_go = client.consumer(topic, group=f"g{turns}"), list[int](), asyncio.Event()

            async def loop() -> None:
                while (record := await read(consumer)) is not None:
                    if len(seen) == 3:
                        may_go.set()
                    await asyncio.sleep(0)
                    seen.append(record.offset)

            looping = asyncio.create_task(loop())
            await may_go.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            await consumer.close()
            await looping
            [offset] = (await client.describe_group(f"g{turns}")).offsets
            assert offset.committed == seen[-1] + 1

    run(broker, work)


def test_a_loop_around_next_ends_in_order_though_it_has_nothing_in_hand_or_takes_too_long(broker: Broker) -> None:
    async def work(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 3)
        slow = client.consumer(topic, group="s", close_timeout=0.2)
        is_in_body = asyncio.Event()

        async def take_long() -> None:
            while await slow.next() is not None:
                is_in_body.set()
                await asyncio.sleep(1)

        looping = asyncio.create_task(take_long())
        await is_in_body.wait()
        started = time.monotonic()
        await slow.close()
        assert time.monotonic() - started < 0.9
        await looping
        # It was not finished in time.
        async with client.consumer(topic, group="s") as again:
            record = await again.next(timeout=10)
            assert record is not None and record.text() == "0"
        # Whoever reads and closes it has nobody to wait for, and nothing more to ask.
        own, started = client.consumer(topic, group="o"), time.monotonic()
        assert await own.next() is not None
        await own.close()
        assert time.monotonic() - started < 5
        with pytest.raises(thalweg.ClosedError):
            await own.next()

    run(broker, work)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        consumer, is_idle, is_closed = client.consumer("t", group="g", wait_for_topics=True), threading.Event(), threading.Event()
        answers = list[object]()

        def poll() -> None:
            answers.append(consumer.next(timeout=0.05))
            is_idle.set()
            is_closed.wait(10)
            answers.append(consumer.next())
            try:
                consumer.next()
            except thalweg.ClosedError as error:
                answers.append(type(error))

        polling = threading.Thread(target=poll)
        polling.start()
        is_idle.wait(10)
        consumer.close()
        is_closed.set()
        polling.join(10)
        assert answers == [None, None, thalweg.ClosedError]


def test_a_callback_may_call_what_it_likes_in_both_halves(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await client.delete_topic(topic)
        await client.create_topic(topic, partitions=2)
        async with client.producer(topic) as producer:
            for i in range(40):
                await producer.send(str(i), key=str(i))
        handled = list[thalweg.Record]()

        async def on_rebalance(change: thalweg.Rebalance) -> None:
            if change.kind == "revoked":
                await asyncio.sleep(0.05)
                await first.commit()

        first = client.consumer(topic, group="g", auto_commit=None, on_rebalance=on_rebalance)
        while len(handled) < 40:
            record = await first.next(timeout=10)
            assert record is not None
            handled.append(record)
        second = client.consumer(topic, group="g", auto_commit=None)
        reading = asyncio.create_task(second.next(timeout=1.5))
        assert await first.next(timeout=2) is None
        # What was handled is committed before the partition moves.
        assert await reading is None
        await second.close()
        await first.close()

    run(broker, read)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        topic = str(uuid.uuid4())
        client.create_topic(topic)
        client.producer(topic).send("x")
        seen = list[tuple[str, str, int | None]]()

        def told(change: thalweg.Rebalance) -> None:
            seen.append((threading.current_thread().name, change.kind, consumer.committed(0)))
            consumer.commit()

        with client.consumer(topic, group=topic, on_rebalance=told) as consumer:
            assert next(iter(consumer)).value == b"x"
        name, (first, last) = threading.current_thread().name, seen
        # The second one at the end, after what was in hand is done.
        assert first == (name, "assigned", None) and last[:2] == (name, "revoked")


def test_a_callback_of_the_sync_half_commits_before_its_partition_moves(broker: Broker) -> None:
    """It waited for the thread that it ran on, and so did every client of the process."""
    with broker.connect_sync() as client, broker.connect_sync() as other:
        client.create_topic("t", partitions=2)
        with client.producer("t") as producer:
            producer.send_batch([thalweg.Message(str(i), partition=i % 2) for i in range(40)])
        told = list[tuple[str, str]]()

        def on_rebalance(change: thalweg.Rebalance) -> None:
            told.append((threading.current_thread().name, change.kind))
            if change.kind == "revoked":
                assert len(other.topics()) > 0
                first.commit()
                for place in change.partitions:
                    assert first.position(place) == first.committed(place) == client.offsets("t", "latest")[place.partition]

        with client.consumer("t", group="g", auto_commit=None, on_rebalance=on_rebalance) as first:
            for _ in range(40):
                assert first.next(timeout=10) is not None
            answers = list[object]()

            def join() -> None:
                with other.consumer("t", group="g", auto_commit=None) as second:
                    answers.append(second.next(timeout=2))
                    answers.append(second.assignment())

            joining = threading.Thread(target=join)
            joining.start()
            # Who reads is told, and what was handled does not come again.
            assert first.next(timeout=2.5) is None
            joining.join(20)
            name = threading.current_thread().name
            assert told[:2] == [(name, "assigned"), (name, "revoked")]
            assert len(answers) == 2 and answers[0] is None and len(answers[1]) == 1  # type: ignore[arg-type]


def test_what_is_idle_is_given_up_at_once_beside_a_slow_handler(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await client.delete_topic(topic)
        await client.create_topic(topic, partitions=4)
        async with client.producer(topic) as producer:
            await producer.send_batch([{"i": i} for i in range(400)])
        for tells in (None, lambda change: None):
            group = f"g-{tells is None}"
            async with client.consumer(topic, group=group, on_rebalance=tells) as slow:
                in_hand = await slow.next(timeout=10)
                assert in_hand is not None
                # It is busy with this record from here on.
                started, others = time.monotonic(), set[int]()
                async with client.consumer(topic, group=group) as quick:
                    while len(others) < 2:
                        record = await quick.next(timeout=10)
                        assert record is not None, (tells, others)
                        others.add(record.partition)
                assert time.monotonic() - started < 3
                assert in_hand.partition not in others

    run(broker, read)


def test_records_print_compare_and_pickle(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            await producer.send({"a": 1}, key="k", headers=[("h", b"1"), ("h", None)])
            await producer.send(None, key="k")
        consumer = client.consumer(topic, start="earliest", until_end=True)
        record, tombstone = [r async for r in consumer]
        assert tombstone.text() is None and tombstone.json() is None
        for same in (pickle.loads(pickle.dumps(record)), copy.deepcopy(record)):
            assert same == record and hash(same) == hash(record)
            assert (same.json(), same.key, same.headers) == ({"a": 1}, b"k", [("h", b"1"), ("h", None)])
        assert record != tombstone and len({record, tombstone}) == 2
        assert f"offset={record.offset}" in repr(record) and "key=b'k'" in repr(record) and 'b\'{"a":1}\'' in repr(record)
        assert "value=None" in repr(tombstone)
        await consumer.close()
        assert (await consumer.counts()).delivered == 2

    run(broker, read)
    made = thalweg.Record(b"v", key=b"k", headers=[("h", None)], topic="t", partition=3, offset=7, timestamp_ms=5)
    assert (made.value, made.key, made.headers) == (b"v", b"k", [("h", None)])
    assert (made.topic, made.partition, made.offset, made.timestamp_ms) == ("t", 3, 7, 5)
    assert made != thalweg.Record(b"w", key=b"k", headers=[("h", None)], topic="t", partition=3, offset=7, timestamp_ms=5)


@pytest.mark.parametrize("bad", [42, True, 1.5, "abc", [1, 2, 3], (1, 2, 3), {1, 2}, range(3), object], ids=str)
def test_a_record_by_hand_is_made_of_bytes(bad: Any) -> None:
    arguments: list[dict[str, Any]] = [{"value": bad}, {"value": b"", "key": bad}, {"value": b"", "headers": [("h", bad)]}]
    for parts in arguments:
        with pytest.raises(TypeError):
            thalweg.Record(**parts)


def test_clients_producers_and_consumers_print_what_they_are_for(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        consumer = client.consumer([topic, "u"], group="g", wait_for_topics=True)
        shown = f"<thalweg.Consumer topics=['{topic}', 'u'] group='g' "
        assert repr(consumer) == f"{shown}not open>"
        async with consumer:
            assert repr(consumer) == f"{shown}open>"
        assert repr(consumer) == f"{shown}closed>"
        assert "group" not in repr(client.consumer(topic))

    run(broker, read)
    with broker.connect_sync() as client:
        assert repr(client.consumer("t", group="g")) == "<thalweg.Consumer topics=['t'] group='g' not open>"
        assert repr(client) == f"<thalweg.Client {broker.address!r} open>"
        with client.producer("t") as producer:
            assert repr(producer) == "<thalweg.Producer topic='t' open>"
        assert repr(producer) == "<thalweg.Producer topic='t' closed>"
    assert repr(client) == f"<thalweg.Client {broker.address!r} closed>"


def test_a_time_is_a_datetime_or_milliseconds(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        now = datetime.datetime.now(datetime.UTC)
        times = [now - datetime.timedelta(seconds=ago) for ago in (90, 60, 30)]
        async with client.producer(topic) as producer:
            sent = [await producer.send(str(i), timestamp_ms=time) for i, time in enumerate(times)]
        between = now - datetime.timedelta(seconds=75)
        # One without a zone is of this machine's, as everywhere in Python.
        for at in (between, between.astimezone().replace(tzinfo=None), int(between.timestamp() * 1000)):
            assert await client.offsets(topic, {"timestamp": at}) == {0: sent[1].offset}
            async with client.consumer(topic, start={"timestamp": at}) as consumer:
                record = await consumer.next(timeout=10)
                assert record is not None and record.text() == "1"
                await consumer.next(timeout=10)
                await consumer.seek(0, {"timestamp": at})
                record = await consumer.next(timeout=10)
                assert record is not None and record.text() == "1"
                for wrong in (time.time(), "now", True):
                    named = f"timestamp is {type(wrong).__name__}"
                    with pytest.raises(TypeError, match=named):
                        client.consumer(topic, start={"timestamp": wrong})  # type: ignore[typeddict-item]
                    with pytest.raises(TypeError, match=named):
                        await client.offsets(topic, {"timestamp": wrong})  # type: ignore[typeddict-item]
                    with pytest.raises(TypeError, match=named):
                        await consumer.seek(0, {"timestamp": wrong})  # type: ignore[typeddict-item]

    run(broker, read)


def test_what_is_not_read_has_no_position_and_cannot_be_moved(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        # It waited for ever.
        with pytest.raises(thalweg.InvalidError, match="at least one partition"):
            async with client.consumer(topic, partitions=[]):
                pass
        with pytest.raises(thalweg.InvalidError, match="a group shares partitions out itself"):
            async with client.consumer(topic, group="g", partitions=[]):
                pass
        async with client.consumer(topic, group="g") as consumer:
            await consumer.next(timeout=0)
            for place in (9, ("x", 0)):
                for call in (consumer.position, consumer.lag, consumer.pause, consumer.resume, consumer.committed):
                    with pytest.raises(thalweg.NotFoundError):
                        await call(place)
                with pytest.raises(thalweg.NotFoundError):
                    await consumer.seek(place, "earliest")

    run(broker, read)


def test_a_position_that_is_gone_follows_the_policy(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 3)
        async with client.consumer(topic, start=10_000, out_of_range="earliest") as consumer:
            record = await consumer.next(timeout=10)
            assert record is not None and record.value == b"0"

    run(broker, read)


OF_A_GROUP: dict[str, Any] = {
    "instance": "a",
    "session_timeout": 5.0,
    "auto_commit": None,
    "assignor": "range",
    "max_processing": 1.0,
    "on_rebalance": print,
}


def test_what_cannot_be_meant_is_refused_by_name(broker: Broker) -> None:
    nan, endless = float("nan"), float("inf")
    bad: list[dict[str, Any]] = [
        {"partitions": [-1]},
        {"partitions": [2**40]},
        {"start": -1},
        {"start": 2**63},
        {"start": "begin"},
        {"start": {"timestamp": -5}},
        {"session_timeout": -1},
        {"session_timeout": nan},
        {"auto_commit": endless},
        {"max_processing": -0.5},
        {"close_timeout": nan},
        {"buffer_bytes": 0},
        {"buffer_bytes": 2**64},
    ]
    wrong: list[dict[str, Any]] = [{"buffer_bytes": 1.5}, {"session_timeout": "3"}, {"partitions": ["0"]}, {"auto_commit": True}]

    async def read(client: thalweg.Client, topic: str) -> None:
        for options, error in [(o, thalweg.InvalidError) for o in bad] + [(o, TypeError) for o in wrong]:
            with pytest.raises(error, match=next(iter(options)).rstrip("s")):
                client.consumer(topic, **options)
        for options in ({"linger_ms": nan}, {"delivery_timeout": endless}, {"buffer_bytes": -1}, {"batch_bytes": 0}):
            with pytest.raises(thalweg.InvalidError, match=next(iter(options))):
                client.producer(topic, **options)  # type: ignore[arg-type]
        for options in ({"partitions": -1}, {"partitions": 2**32 + 1}, {"replication_factor": 0}, {"retention_ms": -2}, {"segment_bytes": 2**70}):
            with pytest.raises(thalweg.InvalidError, match=next(iter(options))):
                await client.create_topic("x", **options)
        async with client.consumer(topic, group="g") as consumer:
            for offset in (-1, 2**64):
                with pytest.raises(thalweg.InvalidError, match="offset"):
                    await consumer.commit({0: offset})
            with pytest.raises(TypeError, match="offset"):
                await consumer.commit({0: "1"})  # type: ignore[dict-item]
            for place in ("0", None, (topic,), -1):
                with pytest.raises((TypeError, thalweg.InvalidError), match="partition"):
                    await consumer.seek(place, "earliest")  # type: ignore[arg-type]
            for timeout in (-1, nan, endless):
                with pytest.raises(thalweg.InvalidError, match="timeout"):
                    await consumer.next(timeout=timeout)
            with pytest.raises(thalweg.InvalidError, match="max_records"):
                await consumer.next_batch(max_records=0)
        half = json.loads('"\\ud800"')
        texts: list[tuple[str, Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = [
            ("address", thalweg.connect, (f"thalweg://{half}",), {}),
            ("client_id", thalweg.connect, (broker.address,), {"client_id": half}),
            ("name", client.create_topic, (half,), {}),
            ("partitioner", client.create_topic, ("x",), {"partitioner": half}),
            ("partitioner_config", client.create_topic, ("x",), {"partitioner": "p", "partitioner_config": half}),
            ("name", client.delete_topic, (half,), {}),
            ("topic", client.offsets, (half, "latest"), {}),
            ("name", client.upload_plugin, (half, b""), {}),
            ("topic", client.producer, (half,), {}),
            ("acks", client.producer, (topic,), {"acks": half}),
            ("compression", client.producer, (topic,), {"compression": half}),
            ("topics", client.consumer, (half,), {}),
            ("topics", client.consumer, ([topic, half],), {}),
            *((what, client.consumer, (topic,), {what: half}) for what in ("group", "instance", "filter", "filter_config")),
            *((what, client.consumer, (topic,), {what: half}) for what in ("on_filter_failure", "on_bad_record", "out_of_range", "assignor")),
            ("topic", client.set_partitioner, (half, None), {}),
            ("partitioner", client.set_partitioner, (topic, half), {}),
            ("partitioner_config", client.set_partitioner, (topic, "p", half), {}),
            ("group", client.describe_group, (half,), {}),
            ("group", client.delete_group, (half,), {}),
            ("group", client.reset_group, (half, topic, "earliest"), {}),
            ("topic", client.reset_group, ("g", half, "earliest"), {}),
        ]
        for what, call, arguments, options in texts:
            with pytest.raises(thalweg.InvalidError, match=f"^{what} is not valid text"):
                await call(*arguments, **options)
            without = [7 if half in str(a) else a for a in arguments], {name: 7 if half in str(o) else o for name, o in options.items()}
            if half not in arguments[0]:
                with pytest.raises(TypeError, match=f"^{what} is int"):
                    await call(*without[0], **without[1])
        with pytest.raises(thalweg.InvalidError, match="timeout"):
            thalweg.connect(broker.address, ca=broker.ca, timeout=-1)

    run(broker, read)


def test_what_can_be_known_at_the_call_is_refused_there(broker: Broker) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"topics": []}, "at least one topic"),
        ({"topics": "a b"}, "topic: name \"a b\" holds ' '"),
        ({"topics": ["a", ""]}, "topic: a name must not be empty"),
        ({"topics": "x" * 250}, "250 bytes long, the limit is 249"),
        ({"topics": ".."}, "is reserved"),
        ({"partitions": []}, "at least one partition"),
        ({"partitions": [0], "group": "g"}, "a group shares partitions out itself"),
        ({"start": {0: 1}, "group": "g"}, "a group goes on in each partition"),
        ({"start": {"time": 1}}, '"timestamp": milliseconds or datetime'),
        ({"start": {"timestamp": datetime.datetime.min}}, "start's timestamp"),
        ({"out_of_range": "begin"}, 'out_of_range is "begin"; earliest, latest or fail'),
        ({"on_bad_record": "pass"}, 'on_bad_record is "pass"; fail or skip'),
        ({"on_filter_failure": "retry", "filter": "f"}, 'on_filter_failure is "retry"; fail, skip or pass'),
        ({"assignor": "sticky", "group": "g"}, 'assignor is "sticky"; uniform or range'),
        ({"session_timeout": 0, "group": "g"}, "session_timeout is 0 s, it must be between 0.5 and 600 s"),
        ({"session_timeout": 601, "group": "g"}, "session_timeout is 601 s"),
        ({"max_processing": 0, "group": "g"}, "max_processing is 0"),
        ({"group": ""}, "group id: a name must not be empty"),
        ({"group": "x" * 250}, "group id: name is 250 bytes long, the limit is 249"),
        ({"instance": "", "group": "g"}, "instance id: a name must not be empty"),
        ({"filter_config": "{}"}, "filter_config is that of a filter"),
        ({"on_filter_failure": "skip"}, "on_filter_failure is that of a filter"),
        ({"until_end": True, "wait_for_topics": True}, "leave one out"),
        *(({name: value}, f"{name} belongs to a group") for name, value in OF_A_GROUP.items()),
    ]
    untyped: list[tuple[dict[str, Any], str]] = [
        ({"until_end": "no"}, "until_end is str"),
        ({"wait_for_topics": 1}, "wait_for_topics is int"),
        ({"session_timeout": None, "group": "g"}, "session_timeout is None"),
        ({"buffer_bytes": None}, "buffer_bytes is None"),
        ({"out_of_range": None}, "out_of_range is None"),
    ]

    async def read(client: thalweg.Client, topic: str) -> None:
        for options, message in refused:
            with pytest.raises(thalweg.InvalidError, match=re.escape(message)):
                client.consumer(**{"topics": topic, **options})
        for options, message in untyped:
            with pytest.raises(TypeError, match=message):
                client.consumer(**{"topics": topic, **options})
        with pytest.raises(thalweg.InvalidError, match="topic: name"):
            client.producer("a b")
        for options, message in [({"acks": None}, "acks"), ({"linger_ms": None}, "linger_ms"), ({"delivery_timeout": None}, "delivery_timeout")]:
            with pytest.raises(TypeError, match=f"{message} is None"):
                client.producer(topic, **options)
        for call in (client.create_topic("x", partitioner_config=b"c"), client.set_partitioner(topic, None, "c")):
            with pytest.raises(thalweg.InvalidError, match="partitioner_config is that of a partitioner"):
                await call
        address: Any = broker.address
        for name, make in {
            "address": lambda: thalweg.connect(None),  # type: ignore[arg-type]
            "client_id": lambda: thalweg.connect(address, client_id=None),  # type: ignore[arg-type]
            "timeout": lambda: thalweg.connect(address, timeout=None),  # type: ignore[arg-type]
            "ca": lambda: thalweg.connect(address, ca=5),  # type: ignore[arg-type]
            "cert": lambda: thalweg.connect(address, cert=[], key="k"),  # type: ignore[arg-type]
        }.items():
            with pytest.raises(TypeError, match=f"^{name} is "):
                make()

    run(broker, read)


def test_a_slow_callback_is_told_once_and_may_not_read(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 3)
        began, ended, errors = 0, 0, list[Exception]()

        async def on_rebalance(_: thalweg.Rebalance) -> None:
            nonlocal began, ended
            began += 1
            try:
                await consumer.next(timeout=1)
            except thalweg.InvalidError as error:
                errors.append(error)
            await asyncio.sleep(0.5)
            ended += 1

        consumer = client.consumer(topic, group="g", on_rebalance=on_rebalance)
        waits = 0
        while (record := await consumer.next(timeout=0.1)) is None:
            waits += 1
            assert waits < 50
        assert (record.value, began, ended, len(errors)) == (b"0", 1, 1, 1) and waits > 2
        # At the end neither.
        await consumer.close()
        assert (began, ended, len(errors)) == (2, 2, 2)
        # A thread that closes what it reads does not wait for itself.
        started = time.monotonic()
        async for _ in (other := client.consumer(topic, start="earliest")):
            await other.close()
        last = client.consumer(topic, start="earliest")
        await last.next()
        await client.close()
        assert time.monotonic() - started < 3

    run(broker, read)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        topic, refused = str(uuid.uuid4()), list[Exception]()
        client.create_topic(topic)
        client.producer(topic).send("x")

        def reads(_: thalweg.Rebalance) -> None:
            with pytest.raises(thalweg.InvalidError, match="cannot read") as raised:
                consumer.next(timeout=0.5)
            refused.append(raised.value)

        async def never(_: thalweg.Rebalance) -> None: ...

        with client.consumer(topic, group=topic, on_rebalance=reads) as consumer:
            assert consumer.next(timeout=10) is not None
        assert len(refused) == 2
        with pytest.raises(TypeError, match="on_rebalance"):
            client.consumer(topic, group=topic, on_rebalance=never)


def test_commits_count_at_the_call_and_are_not_taken_back(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        await fill(client, topic, 100)

        async def committed(group: str) -> int | None:
            return (await client.describe_group(group)).offsets[0].committed

        async with client.consumer(topic, group="r", auto_commit=0.1) as consumer:
            record = await consumer.next(timeout=10)
            assert record is not None
            await consumer.commit(record)
            await asyncio.sleep(0.5)
            assert await committed("r") == record.offset + 1
            await consumer.commit({0: record.offset + 30})
            await consumer.close()
        assert await committed("r") == record.offset + 30
        # A member that was too slow is told so, at once.
        async with client.consumer(topic, group="s", max_processing=0.3) as slow:
            record = await slow.next(timeout=10)
            assert record is not None
            await asyncio.sleep(1)
            started = time.monotonic()
            for what in (None, record):
                with pytest.raises(thalweg.RebalancedError):
                    await slow.commit(what)
            assert time.monotonic() - started < 1

    run(broker, read)


def test_partitions_start_where_each_of_them_is_told_to(broker: Broker) -> None:
    async def read(client: thalweg.Client, _: str) -> None:
        await client.create_topic("three", partitions=3)
        async with client.producer("three") as producer:
            await producer.send_batch([thalweg.Message(str(i), partition=p) for p in range(3) for i in range(10)])
            # What the broker keeps in a log has offsets, too.
            begin = {p: end - 10 for p, end in (await client.offsets("three", "latest")).items()}

            async def first(start: Any, **options: Any) -> dict[int, int]:
                found: dict[int, int] = {}
                async with client.consumer("three", start=start, until_end=True, **options) as consumer:
                    async for record in consumer:
                        found.setdefault(record.partition, record.offset - begin[record.partition])
                return found

            assert await first({0: begin[0] + 7, 2: "earliest"}) == {0: 7, 2: 0}
            assert await first({("three", 1): {"timestamp": 0}}) == {1: 0}
            assert await first({1: begin[1] + 3}, partitions=[1]) == {1: 3}
            for wrong in ({3: 1}, {("other", 0): 1}):
                with pytest.raises(thalweg.NotFoundError):
                    await first(wrong)
            with pytest.raises(thalweg.NotFoundError, match="which is not read"):
                await first({0: 1}, partitions=[1])
            with pytest.raises(thalweg.InvalidError, match="a group goes on"):
                await first({0: 1}, group="g")
            with pytest.raises(thalweg.InvalidError, match="start of 0"):
                await first({0: "soon"})

    run(broker, read)


def test_topics_by_pattern_and_a_change_of_topics(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        for name in ("eu", "us"):
            await client.create_topic(f"{topic}-{name}")
        async with client.consumer(f"^{topic}-", start="earliest") as alone, client.consumer([f"^{topic}-"], group=topic) as member:
            async with client.producer() as producer:
                for name in ("eu", "us"):
                    await producer.send("1", topic=f"{topic}-{name}")
                # What is sent before anybody has noticed the topic is read, too.
                await client.create_topic(f"{topic}-asia")
                await producer.send("1", topic=f"{topic}-asia")
                for consumer in (alone, member):
                    found = [await consumer.next(timeout=10) for _ in range(3)]
                    assert sorted(r.topic for r in found if r is not None) == [f"{topic}-{n}" for n in ("asia", "eu", "us")]
                    await consumer.subscribe(f"{topic}-eu")
                    assert consumer.topics == [f"{topic}-eu"]
                await producer.send("2", topic=f"{topic}-us")
                await producer.send("2", topic=f"{topic}-eu")
                for consumer in (alone, member):
                    record = await consumer.next(timeout=10)
                    assert record is not None and (record.topic, record.text()) == (f"{topic}-eu", "2")
                    for wrong in ([], "^(", "a/b"):
                        with pytest.raises(thalweg.InvalidError):
                            await consumer.subscribe(wrong)
                    with pytest.raises(TypeError, match="topics"):
                        await consumer.subscribe(None)  # type: ignore[arg-type]
                    with pytest.raises(TypeError, match="topics"):
                        await consumer.subscribe([1])  # type: ignore[list-item]
        for wrong in ("^(", "a*"):
            with pytest.raises(thalweg.InvalidError, match=r"\(|\*"):
                async with client.consumer(wrong):
                    pass

    run(broker, read)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        topic = str(uuid.uuid4())
        with client.consumer(f"^{topic}$", wait_for_topics=True) as consumer:
            client.create_topic(topic)
            client.producer(topic).send("1")
            record = consumer.next(timeout=10)
            assert record is not None and record.text() == "1"
            client.create_topic(f"{topic}-b")
            consumer.subscribe([f"{topic}-b"])
            client.producer(f"{topic}-b").send("2")
            record = consumer.next(timeout=10)
            assert record is not None and record.text() == "2"


def test_what_belongs_to_a_group_is_taken_with_one(broker: Broker) -> None:
    async def read(client: thalweg.Client, topic: str) -> None:
        for name, value in OF_A_GROUP.items():
            options: dict[str, Any] = {name: value}
            async with client.consumer(topic, group="g" if name == "instance" else str(uuid.uuid4()), **options):
                pass

    run(broker, read)
