"""The order of calls is the order of records, what is sent is taken at the call, and what is no data is refused."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import datetime
import functools
import gc
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import pytest
import thalweg
import thalweg.sync
from conftest import PLUGINS, run
from thalweg import _producer
from thalweg.testing import Broker


async def read(client: thalweg.Client, topic: str) -> list[thalweg.Record]:
    async with client.consumer(topic, start="earliest", until_end=True) as consumer:
        return [record async for record in consumer]


async def numbers(client: thalweg.Client, topic: str) -> list[int]:
    return [int((record.value or b"").lstrip(b"0") or b"0") for record in await read(client, topic)]


def test_the_order_of_calls_is_the_order_of_records(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        producer = client.producer(topic)
        # Not opened yet: the first ones wait for that, in line.
        sent = [producer.send(str(i), key="k") for i in range(2000)]
        assert [d.partition for d in await asyncio.gather(*sent)] == [0] * 2000
        # Awaited by nobody, and of all kinds.
        for i in range(2000, 3000, 5):
            producer.send(str(i))
            producer.enqueue(str(i + 1))
            producer.enqueue_batch([str(i + 2)])
            producer.send_batch([str(i + 3)])
            asyncio.create_task(producer.send(str(i + 4)))
        async with asyncio.TaskGroup() as group:
            for i in range(3000, 3200):
                group.create_task(producer.send(str(i)))
        for i in range(3200, 3300):
            producer.send(str(i))
        await producer.close()
        assert await numbers(client, topic) == list(range(3300))
        with pytest.raises(thalweg.ClosedError):
            await producer.send("x")

    run(broker, send)


def test_order_holds_when_the_buffer_is_full(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic, buffer_bytes=200_000) as producer:

            def record(i: int) -> str:
                return str(i).rjust(100_000, "0")

            await asyncio.gather(*(producer.send(record(i)) for i in range(60)))
            await asyncio.gather(*(producer.enqueue_batch([record(i)]) for i in range(60, 100)))
        assert await numbers(client, topic) == list(range(100))

    run(broker, send)


def test_two_loops_share_a_producer(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:

            async def work(loop: int) -> list[thalweg.Delivery]:
                got = []
                for turn in range(100):
                    got += await asyncio.gather(*(producer.send(f"{loop}{turn:03}{i}") for i in range(10)))
                return got

            other = asyncio.to_thread(lambda: asyncio.run(work(2)))
            both = await asyncio.wait_for(asyncio.gather(work(1), other), 30)
        assert len({d.offset for got in both for d in got}) == 2000
        for loop in (1, 2):
            own = [n for n in await numbers(client, topic) if n // 10_000 == loop]
            assert own == [loop * 10_000 + n for n in range(1000)]

    run(broker, send)


def test_what_is_sent_is_taken_at_the_call(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        producer = client.producer(topic)
        buffer, order, headers = bytearray(b"AAAA"), {"a": 1}, {"h": b"1"}
        sent = [producer.send(buffer, key=buffer, headers=headers), producer.send(order)]
        buffer[:] = b"BBBB"
        order["a"] = 2
        headers["h"] = b"2"
        await asyncio.gather(*sent)
        first, second = await read(client, topic)
        assert (first.value, first.key, first.headers) == (b"AAAA", b"AAAA", [("h", b"1")])
        assert second.json() == {"a": 1}

    run(broker, send)


NO_DATA: list[Any] = [42, True, 1.5, (1, 2), {1, 2}, range(3), object(), len, datetime.datetime.now()]


def test_what_is_no_data_is_refused_and_nothing_is_stored(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        producer = client.producer(topic)
        calls: list[tuple[str, dict[str, Any]]] = [("value", {"value": bad}) for bad in NO_DATA]
        calls += [("key", {"value": "x", "key": bad}) for bad in [*NO_DATA, [1], {"a": 1}]]
        calls += [("header 'h'", {"value": "x", "headers": {"h": bad}}) for bad in [*NO_DATA, [1]]]
        calls += [("headers", {"value": "x", "headers": bad}) for bad in ["abc", b"abc", ["ab"], [1]]]
        calls += [("header's name", {"value": "x", "headers": [(b"h", b"v")]})]
        calls += [("timestamp_ms", {"value": "x", "timestamp_ms": bad}) for bad in [1.5, "1", True]]
        for named, arguments in calls:
            for call in (producer.send, producer.enqueue):
                with pytest.raises(TypeError, match=named):
                    call(**arguments)
        with pytest.raises(thalweg.InvalidError, match="timestamp_ms"):
            producer.send("x", timestamp_ms=2**63)
        with pytest.raises(thalweg.InvalidError, match="negative"):
            await producer.send("x", timestamp_ms=-2)
        for messages in ("abc", b"abc", {"a": 1}, thalweg.Message("x")):
            for call in (producer.send_batch, producer.enqueue_batch):
                with pytest.raises(TypeError, match="messages"):
                    call(messages)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="send_batch"):
            producer.send(thalweg.Message("x"))  # type: ignore[arg-type]
        when = datetime.datetime(2001, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
        await producer.send(memoryview(b"abc"), timestamp_ms=when)
        await producer.close()
        (record,) = await read(client, topic)
        assert (record.value, record.timestamp_ms) == (b"abc", int(when.timestamp()) * 1000)

    run(broker, send)


def test_what_is_no_data_is_refused_in_a_batch_and_in_the_sync_half(broker: Broker) -> None:
    """An int was stored as that many zero bytes: of 10**12 there was no room for them."""

    def messages(bad: Any) -> list[tuple[str, Any]]:
        parts: list[tuple[str, dict[str, Any]]] = [("value", {"value": bad}), ("key", {"value": "x", "key": bad})]
        parts.append(("header 'h'", {"value": "x", "headers": {"h": bad}}))
        return [("value", bad), *((named, thalweg.Message(**some)) for named, some in parts)]

    everything = [message for bad in [*NO_DATA, 10**12] for message in messages(bad)]

    async def send(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            for named, message in everything:
                for call in (producer.send_batch, producer.enqueue_batch):
                    with pytest.raises(TypeError, match=named):
                        call(["good", message])
        # None of them is sent.
        assert await read(client, topic) == []

    run(broker, send)
    with broker.connect_sync() as client:
        with client.producer("t") as producer:
            for named, message in everything:
                for call in (producer.send_batch, producer.enqueue_batch):
                    with pytest.raises(TypeError, match=named):
                        call(["good", message])
                if isinstance(message, thalweg.Message):
                    for one in (producer.send, producer.enqueue):
                        with pytest.raises(TypeError, match=named):
                            one(message.value, key=message.key, headers=message.headers)
        assert list(client.consumer("t", start="earliest", until_end=True)) == []


def test_a_message_says_what_is_wrong_and_where(broker: Broker) -> None:
    circular: list[Any] = []
    circular.append(circular)
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    async def send(client: thalweg.Client, topic: str) -> None:
        producer = client.producer(topic)
        bad: list[tuple[Any, type[Exception]]] = [
            ({"a": {1}}, TypeError),
            ({"a": float("nan")}, thalweg.InvalidError),
            (circular, thalweg.InvalidError),
            (deep, thalweg.InvalidError),
        ]
        for value, error in bad:
            with pytest.raises(error, match="^value cannot be written as JSON: "):
                producer.send(value)
            with pytest.raises(error, match=r"^messages\[1\]: value cannot be written as JSON: "):
                producer.send_batch(["good", value])
        for call in (producer.send_batch, producer.enqueue_batch):
            with pytest.raises(TypeError, match="messages is None"):
                call(None)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="messages is int"):
                call(5)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"^messages\[2\]: value is int"):
                call(v for v in ["a", b"b", 3])  # type: ignore[misc]
            with pytest.raises(thalweg.InvalidError, match=r"^messages\[0\]: timestamp_ms is -5, which is negative"):
                call([thalweg.Message("a", timestamp_ms=-5)])
        for at in (-5, datetime.datetime.min, datetime.datetime(1960, 1, 1, tzinfo=datetime.UTC)):
            with pytest.raises(thalweg.InvalidError, match="timestamp_ms is"):
                producer.send("x", timestamp_ms=at)
        await producer.close()
        assert await read(client, topic) == []

    run(broker, send)


def test_text_that_has_no_bytes_is_refused_by_name_and_does_not_keep_the_others(broker: Broker) -> None:
    """A header's name of half a surrogate pair took the others of its turn with it: nobody heard of any of them."""
    half = json.loads('"\\ud800"')
    bad: list[tuple[str, dict[str, Any]]] = [
        ("a header's name", {"headers": {half: "x"}}),
        ("a header's name", {"headers": [("good", "x"), ("bad" + half, None)]}),
        ("header 'h'", {"headers": {"h": half}}),
        ("key", {"key": "k" + half}),
        ("topic", {"topic": half}),
        ("value is not", {"value": half}),
        ("value as JSON", {"value": {"a": [half]}}),
    ]

    async def work(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            for what, parts in bad:
                record: dict[str, Any] = {"value": "evil", **parts}
                options = {name: part for name, part in record.items() if name != "value"}
                calls: list[Any] = [
                    functools.partial(producer.send, record["value"], **options),
                    functools.partial(producer.enqueue, record["value"], **options),
                    functools.partial(producer.enqueue, record["value"], on_delivery=print, **options),
                    functools.partial(producer.send_batch, ["good", thalweg.Message(**record)]),
                    functools.partial(producer.enqueue_batch, ["good", thalweg.Message(**record)]),
                ]
                for call in calls:
                    first = producer.send("1", headers={"grüße": "ü"})
                    producer.enqueue("2")
                    with pytest.raises(thalweg.InvalidError, match=what):
                        call()
                    producer.enqueue("3")
                    await asyncio.wait_for(asyncio.gather(first, producer.send("4")), 10)
        assert await numbers(client, topic) == [1, 2, 3, 4] * 5 * len(bad)

    run(broker, work)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client, client.producer("t") as producer:
        for what, parts in bad:
            with pytest.raises(thalweg.InvalidError, match=what):
                producer.send(**{"value": "evil", **parts})
            with pytest.raises(thalweg.InvalidError, match=what):
                producer.enqueue(**{"value": "evil", **parts})


def test_a_send_is_awaited_gathered_and_made_a_task_of(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            given: list[thalweg.Delivery] = [
                await producer.send("0"),
                *await asyncio.gather(producer.send("1"), producer.send("2")),
                await asyncio.create_task(producer.send("3")),
                await asyncio.wait_for(producer.send("4"), 10),
                await asyncio.shield(producer.send("5")),
                await asyncio.ensure_future(producer.send("6")),
                *[await first for first in asyncio.as_completed([producer.send("7")], timeout=10)],
            ]
            async with asyncio.TaskGroup() as group:
                task = group.create_task(producer.send("8"))
            done, _ = await asyncio.wait([asyncio.create_task(producer.send("9"))], timeout=10)
            given += [task.result(), *(one.result() for one in done)]
            assert len(given) == 10 and all(isinstance(one, thalweg.Delivery) for one in given)
            # FIXME: what a task can be made of is a coroutine, which `asyncio.wait` refuses. The record is sent all the same.
            with pytest.raises(TypeError, match="use tasks explicitly"):
                await asyncio.wait([producer.send("10")])
        assert await numbers(client, topic) == list(range(11))

    run(broker, send)


class Refusing:
    """A native half that takes nothing."""

    def submit(self, items: list[Any], is_waited_for: bool) -> Any:
        raise ValueError(f"{len(items)} are refused")

    def pending(self) -> int:
        return 0

    async def flush(self) -> None:
        pass

    close = flush


def test_records_that_the_native_half_refuses_have_an_outcome() -> None:
    native: Any = Refusing()

    async def work() -> None:
        producer = thalweg.Producer("t", native)
        outcomes = await asyncio.wait_for(asyncio.gather(*(producer.send(str(i)) for i in range(2_000)), return_exceptions=True), 10)
        assert [str(outcome) for outcome in outcomes] == ["ValueError: 1024 are refused"] * 1024 + ["ValueError: 976 are refused"] * 976
        told = list[object]()
        producer.enqueue("x", on_delivery=told.append)
        producer.enqueue("y")
        producer.enqueue_batch(["z"] * 3)
        with pytest.raises(thalweg.InternalError, match="4 are refused") as refused:
            await producer.flush()
        assert isinstance(refused.value.__cause__, ValueError)
        assert refused.value.__notes__ == ["4 records were not delivered; this is the first one's error"]
        await asyncio.sleep(0)
        assert [str(error) for error in told] == ["ValueError: 1 are refused"]
        cancelled = producer.send("x")
        cancelled.cancel()
        with pytest.raises(thalweg.InternalError, match="refused"):
            await producer.close()

    asyncio.run(work())


def test_what_was_called_for_in_a_loop_that_is_closed_is_sent_with_the_next_call(broker: Broker) -> None:
    loop = asyncio.new_event_loop()
    client = loop.run_until_complete(thalweg.connect(broker.address, ca=broker.ca))
    producer = client.producer("t")

    async def call() -> None:
        producer.send("1")
        loop.stop()

    # Neither of them has left when the loop ends.
    task = loop.create_task(call())
    loop.run_forever()
    producer_is_left = producer.pending
    loop.close()
    assert task.done() and producer_is_left == 1

    async def go_on() -> None:
        await asyncio.wait_for(producer.send("2"), 10)
        await producer.close()
        async with thalweg.connect(broker.address, ca=broker.ca) as other:
            assert await numbers(other, "t") == [1, 2]

    asyncio.run(go_on())


@pytest.mark.parametrize("call", ["send", "send_batch"])
def test_what_comes_after_its_loop_was_closed_is_told_by_the_flush_of_another(
    broker: Broker, call: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def start() -> tuple[thalweg.Client, thalweg.Producer]:
        client = await thalweg.connect(broker.address, ca=broker.ca)
        producer = client.producer("t", delivery_timeout=1.0)
        await producer.send("first")
        os.kill(broker.pid, signal.SIGSTOP)
        if call == "send":
            for i in range(3):
                producer.send(str(i))
        else:
            producer.send_batch(["0", "1", "2"])
        # Somebody waits for what comes of them, and for more than that.
        await asyncio.sleep(0.1)
        return client, producer

    loop = asyncio.new_event_loop()
    client, producer = loop.run_until_complete(start())
    try:
        loop.close()
        del loop
        deadline = time.monotonic() + 20
        while producer.pending and time.monotonic() < deadline:
            time.sleep(0.05)
        assert producer.pending == 0
    finally:
        os.kill(broker.pid, signal.SIGCONT)

    async def go_on() -> None:
        with pytest.raises(thalweg.TimedOutError, match="3 records were not delivered"):
            await producer.flush()
        await producer.send("more")
        await producer.close()
        await client.close()

    asyncio.run(go_on())
    del producer, client
    gc.collect()
    assert (capfd.readouterr().err, [record for record in caplog.records if record.name == "asyncio"]) == ("", [])


def test_callbacks_of_what_comes_together_are_called_apart(broker: Broker) -> None:
    """In their order, each in its own context; one that raises keeps none of the others, nor does one that ends the loop."""
    name: contextvars.ContextVar[int] = contextvars.ContextVar("name")
    called, handled = list[tuple[int, int]](), list[BaseException]()

    async def send(client: thalweg.Client, how: str) -> list[asyncio.Future[thalweg.Delivery]]:
        producer = client.producer("t")
        sent = list[asyncio.Future[thalweg.Delivery]]()

        def note(number: int, _: object) -> None:
            called.append((number, name.get()))
            if number == 3:
                raise {"error": ValueError, "interrupt": KeyboardInterrupt}[how]

        for i in range(10):
            context = contextvars.copy_context()
            context.run(name.set, 100 + i)
            sent.append(producer.send(str(i)))
            sent[-1].add_done_callback(functools.partial(note, i), context=context)
        sent[5].add_done_callback(lambda _: sent[5].remove_done_callback(print))
        removed = functools.partial(note, 99)
        sent[7].add_done_callback(removed)
        assert sent[7].remove_done_callback(removed) == 1
        sent[8].cancel()
        await asyncio.gather(*sent, return_exceptions=True)
        await producer.flush()
        return sent

    async def start() -> thalweg.Client:
        client = await thalweg.connect(broker.address, ca=broker.ca)
        await client.create_topic("t")
        return client

    expect = {(i, 100 + i) for i in range(10)}
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, about: handled.append(about["exception"]))
    client = loop.run_until_complete(start())
    sent = loop.run_until_complete(send(client, "error"))
    assert set(called) == expect and [type(error) for error in handled] == [ValueError]
    assert [number for number, _ in called if number != 8] == [i for i in range(10) if i != 8]
    assert sent[8].cancelled() and all(future.get_loop() is loop for future in sent)
    called.clear()
    task = loop.create_task(send(client, "interrupt"))
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(task)
    loop.run_until_complete(task)
    assert set(called) == expect
    loop.run_until_complete(client.close())
    loop.close()


def test_one_bad_record_does_not_keep_the_others(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            outcomes = await producer.send_batch(["a", b"x" * 2_000_000, "b"])
            assert [isinstance(o, thalweg.Delivery) for o in outcomes] == [True, False, True]
            assert isinstance(outcomes[1], thalweg.InvalidError) and "1048576" in str(outcomes[1])
            await producer.enqueue_batch(["c", b"x" * 2_000_000, b"x" * 2_000_000])
            with pytest.raises(thalweg.InvalidError, match="2 records were not delivered"):
                await producer.flush()
            await producer.flush()
        assert [record.text() for record in await read(client, topic)] == ["a", "b", "c"]

    run(broker, send)


def test_a_send_that_is_cancelled_is_sent_and_its_failure_is_told(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        producer = client.producer(topic)
        for i in range(100):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(producer.send(str(i)), 0.0001)
        sending = producer.send(b"x" * 2_000_000)
        sending.cancel()
        with pytest.raises(thalweg.InvalidError):
            await producer.close()
        assert await numbers(client, topic) == list(range(100))

    run(broker, send)


def test_the_block_s_own_error_comes_first(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca, timeout=1) as client:
            with pytest.raises(ZeroDivisionError) as raised:
                async with client.producer("t", delivery_timeout=1) as producer:
                    broker.kill()
                    await producer.enqueue("x")
                    raise ZeroDivisionError
            assert "closing the producer" in raised.value.__notes__[0]

    asyncio.run(go())


def test_the_block_s_own_error_comes_first_in_the_sync_half(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca, timeout=1) as client:
        with pytest.raises(ZeroDivisionError) as raised:
            with client.producer("t", delivery_timeout=1) as producer:
                broker.kill()
                producer.enqueue("x")
                raise ZeroDivisionError
        assert "closing the producer" in raised.value.__notes__[0]


def test_a_send_is_bounded_from_the_call_on_though_nothing_is_open(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca, timeout=10) as client:
            broker.kill()
            producer, loop = client.producer("t", delivery_timeout=1.5), asyncio.get_running_loop()
            since = loop.time()
            with pytest.raises(thalweg.TimedOutError):
                await producer.send("x")
            assert 1.4 < loop.time() - since < 3

    asyncio.run(go())


def test_an_enqueued_record_is_bounded_too_though_nothing_is_open(broker: Broker) -> None:
    async def go() -> None:
        async with broker.connect(timeout=10) as client:
            broker.kill()
            producer, told = client.producer("t", delivery_timeout=1.5), list[object]()
            since = time.monotonic()
            await producer.enqueue("x")
            await producer.enqueue("y", on_delivery=told.append)
            await producer.enqueue_batch(["z"])
            with pytest.raises(thalweg.TimedOutError) as raised:
                await producer.flush()
            took = time.monotonic() - since
            assert 1.4 < took < 3
            # It does not speak of more time than there was.
            said = [float(seconds) for seconds in re.findall(r"([0-9.]+) s\b", str(raised.value))]
            assert all(seconds < took for seconds in said), raised.value
            await asyncio.sleep(0)
            assert len(told) == 1 and isinstance(told[0], thalweg.TimedOutError)
            await producer.close()

    asyncio.run(go())


def test_the_error_of_a_flush_says_whose_records_and_how_many(broker: Broker) -> None:
    def check(raised: pytest.ExceptionInfo[thalweg.TimedOutError], topic: str) -> None:
        error = raised.value
        assert (error.topic, error.key, error.records) == (topic, b"k0", 4), error
        assert "4 records were not delivered" in str(error)

    async def go() -> None:
        async with broker.connect() as client:
            producer = client.producer("t", delivery_timeout=1.5)
            await producer.send("x")
            broker.kill()
            for i in range(4):
                await producer.enqueue(str(i), key=f"k{i}")
            with pytest.raises(thalweg.TimedOutError) as raised:
                await producer.flush()
            check(raised, "t")
            # It was told.
            await producer.flush()
            await asyncio.to_thread(broker.restart)
            await producer.enqueue("y")
            await producer.close()

    asyncio.run(go())
    with broker.connect_sync() as client:
        producer = client.producer("u", delivery_timeout=1.5)
        producer.send("x")
        broker.kill()
        for i in range(4):
            producer.enqueue(str(i), key=f"k{i}")
        with pytest.raises(thalweg.TimedOutError) as raised:
            producer.close()
        check(raised, "u")


def test_without_acks_everything_has_left_when_it_is_closed(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        for turn in range(5):
            client.create_topic(f"t{turn}")
            with client.producer(f"t{turn}", acks="none") as producer:
                producer.enqueue_batch([str(i) for i in range(2000)])
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        for turn in range(5):
            # It has arrived; that it is in the log nobody says.
            with client.consumer(f"t{turn}", start="earliest") as consumer:
                got = [consumer.next(timeout=10) for _ in range(2000)]
                assert [int((record and record.value) or b"") for record in got] == list(range(2000))


def test_each_enqueued_record_may_be_told_of_and_a_flush_has_a_time(broker: Broker) -> None:
    told = list[tuple[int, object]]()

    async def send(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            for i in range(1_000):
                await producer.enqueue(str(i), on_delivery=lambda outcome, i=i: told.append((i, outcome)))
            await producer.enqueue(b"not told of")
            # In the call already: it is too large.
            await producer.enqueue(b"x" * (2 << 20), on_delivery=lambda outcome: told.append((-1, outcome)))
            await producer.flush(timeout=30)
            assert producer.pending == 0
        outcomes = dict(told)
        assert len(told) == 1_001 and isinstance(outcomes.pop(-1), thalweg.InvalidError)
        offsets = [outcomes[i].offset for i in range(1_000)]  # type: ignore[attr-defined]
        assert offsets == sorted(offsets)

    run(broker, send)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        names, topic = list[str](), str(uuid.uuid4())
        client.create_topic(topic)
        with client.producer(topic, delivery_timeout=3) as producer:

            def on_delivery(_: object) -> None:
                # It may call anything, also what waits.
                names.append(f"{threading.current_thread().name} {len(client.topics()) > 0}")

            producer.enqueue("x", on_delivery=on_delivery)
            producer.flush()
            deadline = time.monotonic() + 10
            while not names and time.monotonic() < deadline:
                time.sleep(0.01)
            assert len(names) == 1 and names[0].startswith("thalweg-deliveries") and names[0].endswith("True")
            broker.kill()
            producer.enqueue("y")
            with pytest.raises(thalweg.TimedOutError, match="1 record of the producer of topic .* has no outcome"):
                producer.flush(timeout=0.2)
            assert producer.pending == 1
            # What a flush that was given up would have found is the next one's.
            with pytest.raises(thalweg.TimedOutError, match="delivery time-out"):
                producer.flush(timeout=30)
            assert producer.pending == 0


def test_a_record_may_name_its_partition(broker: Broker) -> None:
    async def send(client: thalweg.Client, _: str) -> None:
        await client.create_topic("six", partitions=6)
        async with client.producer("six") as producer:
            at = await asyncio.gather(*(producer.send("x", key="same", partition=p) for p in range(6)))
            assert [d.partition for d in at] == list(range(6))
            assert [d.partition for d in await producer.send_batch([thalweg.Message("y", partition=4)])] == [4]
            await producer.enqueue("z", partition=2)
            await producer.flush()
            with pytest.raises(thalweg.InvalidError, match="partition 6 is asked for, and the topic has 6") as raised:
                await producer.send("x", key="k", partition=6)
            assert (raised.value.topic, raised.value.key, raised.value.records) == ("six", b"k", 1)
            for wrong, error in ((-1, thalweg.InvalidError), (2**31, thalweg.InvalidError), (True, TypeError)):
                with pytest.raises(error, match="partition is"):
                    producer.send("x", partition=wrong)
        assert await client.offsets("six", "latest") == {0: 2, 1: 2, 2: 3, 3: 2, 4: 3, 5: 2}
        await client.upload_plugin("by-carrier", PLUGINS / "by_carrier.wasm")
        await client.create_topic("pinned", partitions=6, partitioner="by-carrier")
        async with client.producer("pinned") as producer:
            with pytest.raises(thalweg.InvalidError, match="the topic's partitioner decides"):
                await producer.send({"carrier": "UA"}, partition=1)
            with pytest.raises(thalweg.PluginFailedError) as failed:
                await producer.send("no flight", key="k")
            error = failed.value
            assert error.plugin is not None and error.plugin.startswith("by-carrier@1") and error.reason
            assert (error.topic, error.key, error.records) == ("pinned", b"k", 1)

    run(broker, send)


def test_one_producer_sends_to_the_topics_that_its_records_name(broker: Broker) -> None:
    async def send(client: thalweg.Client, _: str) -> None:
        async with client.producer() as producer:
            assert producer.topic is None
            sent = [producer.send(str(i), key="k", topic="ab"[i % 2]) for i in range(400)]
            await producer.enqueue_batch([thalweg.Message(str(i), topic="ab"[i % 2]) for i in range(400, 600)])
            await producer.enqueue("600", topic="a")
            await asyncio.gather(*sent)
            with pytest.raises(thalweg.InvalidError, match="names no topic"):
                await producer.send("x")
            with pytest.raises(TypeError, match="topic is int"):
                producer.send("x", topic=7)  # type: ignore[arg-type]
            outcomes = await producer.send_batch(["x", thalweg.Message("601", topic="b")])
            assert isinstance(outcomes[0], thalweg.InvalidError) and isinstance(outcomes[1], thalweg.Delivery)
        with pytest.raises(thalweg.ClosedError, match="any topic is closed"):
            producer.send("x", topic="a")
        assert await numbers(client, "a") == list(range(0, 601, 2))
        assert await numbers(client, "b") == list(range(1, 602, 2))
        async with client.producer("a") as own:
            await own.send("x", topic="a")
            with pytest.raises(thalweg.InvalidError, match="sends to that alone"):
                await own.send("x", topic="b")

    run(broker, send)


def test_a_closed_producer_takes_nothing(broker: Broker) -> None:
    async def send(client: thalweg.Client, topic: str) -> None:
        producer = client.producer(topic)
        await producer.send("x")
        await producer.close()
        for call in (
            lambda: producer.send("x"),
            lambda: producer.enqueue("x"),
            lambda: producer.send_batch(["x"]),
            lambda: producer.enqueue_batch(["x"]),
        ):
            with pytest.raises(thalweg.ClosedError):
                call()
        await producer.close()

    run(broker, send)


def test_the_sync_half_enqueues_in_order(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.producer("sync", buffer_bytes=100_000) as producer:
            told: list[object] = []
            for i in range(5000):
                producer.enqueue(str(i), key="k", on_delivery=told.append if i % 10 == 0 else None)
            producer.flush()
            assert producer.pending == 0
        with client.consumer("sync", start="earliest", until_end=True) as consumer:
            assert [int(r.value or b"") for r in consumer] == list(range(5000))
        with pytest.raises(thalweg.ClosedError):
            producer.enqueue("x")
        deadline = time.monotonic() + 10
        while len(told) < 500 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(told) == 500


LEFT_UNAWAITED = """
import asyncio, sys, thalweg
async def main():
    client = await thalweg.connect(sys.argv[1], ca=sys.argv[2])
    producer = client.producer("t", buffer_bytes=5000)
    await producer.send("first")
    for i in range(40):
        producer.enqueue_batch([b"x" * 500] * 4)
    producer.flush()
asyncio.run(main())
"""

LEFT_TO_TELL = """
import atexit, sys
told = []
# Before the client's own end is registered: they are counted when that is through.
atexit.register(lambda: print(len(told)))
import thalweg.sync
client = thalweg.sync.connect(sys.argv[1], ca=sys.argv[2])
producer = client.producer("t")
def tell(delivery):
    told.append(delivery.offset)
    if len(told) == 2000:
        producer.send("a callback may call anything")
for i in range(2000):
    producer.enqueue(str(i), on_delivery=tell)
"""


@pytest.mark.parametrize("code", [LEFT_UNAWAITED, LEFT_TO_TELL], ids=["unawaited", "to tell"])
def test_the_end_of_the_process_says_nothing_of_loops_and_futures(broker: Broker, code: str) -> None:
    for _ in range(5):
        command = [sys.executable, "-c", code, broker.address, str(broker.ca)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout in ("", "2000\n")


@pytest.mark.parametrize("half", ["asyncio", "sync"])
def test_records_that_nobody_flushed_are_waited_for_at_the_end_of_the_process(broker: Broker, half: str) -> None:
    enqueue = {
        "asyncio": """
async def main():
    client = await thalweg.connect(sys.argv[1], ca=sys.argv[2])
    producer = client.producer("t")
    await producer.send("first")
    stop()
    for i in range(1000):
        producer.enqueue(str(i))
    kept.append(producer)
asyncio.run(main())
""",
        "sync": """
client = thalweg.sync.connect(sys.argv[1], ca=sys.argv[2])
producer = client.producer("t")
producer.send("first")
stop()
for i in range(1000):
    producer.enqueue(str(i))
del producer
""",
    }[half]
    code = "import asyncio, os, signal, sys, thalweg, thalweg.sync\nkept = []\n"
    code += "def stop():\n    os.kill(int(sys.argv[3]), signal.SIGSTOP)\n" + enqueue

    def ends(is_answered: bool) -> tuple[str, float]:
        """What the process says, and how long it takes, with a broker that answers at its very end, or not at all: one that answers all along might do so
        before the process has come to its end.
        """
        started, said = time.monotonic(), ""
        command = [sys.executable, "-W", "default", "-c", code, broker.address, str(broker.ca), str(broker.pid)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    said += line
                    if is_answered and "ResourceWarning" in line:
                        os.kill(broker.pid or 0, signal.SIGCONT)
                assert process.wait(60) == 0, said
            finally:
                process.kill()
                os.kill(broker.pid or 0, signal.SIGCONT)
        return said, time.monotonic() - started

    said, _ = ends(is_answered=True)
    assert "ResourceWarning" in said and "1000 records of the producer of topic 't' have no outcome yet" in said, said
    assert "may be lost" not in said, said

    async def stored() -> int:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            return len(await read(client, "t"))

    assert asyncio.run(stored()) == 1001
    said, took = ends(is_answered=False)
    assert "1000 records of the producer of topic 't' have no outcome yet" in said and "may be lost" in said, said
    assert took < 15


def test_a_batch_that_nobody_awaits_has_its_errors_told_by_the_next_flush(broker: Broker) -> None:
    async def go() -> None:
        async with broker.connect() as client, client.producer("t") as producer:
            producer.send_batch([b"x" * (2 << 20), b"y"])
            with pytest.raises(thalweg.InvalidError):
                await producer.flush()
            # Whoever asks has it, and flush does not tell it once more.
            outcomes = await producer.send_batch([b"x" * (2 << 20)])
            assert isinstance(outcomes[0], thalweg.InvalidError)
            del outcomes
            await producer.flush(timeout=0)
            # Nor is an error of all of it lost.
            given_up = _producer._SendingBatch(asyncio.get_running_loop(), producer._untold)
            given_up.set_exception(thalweg.InternalError("stopped"))
            del given_up
            with pytest.raises(thalweg.InternalError, match="stopped"):
                await producer.flush()

    asyncio.run(go())


def test_the_buffer_bounds_large_records_that_are_enqueued_one_by_one(broker: Broker) -> None:
    async def go() -> None:
        async with broker.connect() as client:
            producer = client.producer("t", buffer_bytes=1 << 16)
            await producer.send("opens it")
            os.kill(broker.pid or 0, signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2):
                        for _ in range(100):
                            await producer.enqueue(b"z" * 100_000)
                assert producer.pending < 10
            finally:
                os.kill(broker.pid or 0, signal.SIGCONT)
            await producer.close()

    asyncio.run(go())


def test_a_callback_is_a_plain_function_and_the_sync_half_waits_for_it(broker: Broker) -> None:
    async def later(_: object) -> None: ...

    with broker.connect_sync() as client, client.producer("t") as producer:
        for bad in (5, later):
            with pytest.raises(TypeError, match="on_delivery"):
                producer.enqueue("x", on_delivery=bad)  # type: ignore[arg-type]
        told = list[object]()

        def tell(outcome: object) -> None:
            time.sleep(0.001)
            told.append(outcome)

        for _ in range(200):
            producer.enqueue("x", on_delivery=tell)
        producer.flush()
        assert len(told) == 200
        producer.enqueue("x", on_delivery=lambda _: time.sleep(5))
        with pytest.raises(thalweg.TimedOutError, match="on_delivery"):
            producer.flush(timeout=0.2)
