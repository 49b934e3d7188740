"""Whoever gives up waiting, leaves a loop, seeks or is slow loses nothing, in both halves."""

from __future__ import annotations

import asyncio
import signal
import uuid

import thalweg
import thalweg.sync
from conftest import Broker, run


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


def test_an_exception_of_a_signal_handler_loses_nothing(broker: Broker) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
            topic = str(uuid.uuid4())
            client.create_topic(topic)
            with client.producer(topic) as producer, client.consumer(topic, group="g") as consumer:
                got = list[int]()
                for i in range(100):
                    producer.enqueue(str(i))
                    signal.setitimer(signal.ITIMER_REAL, 0.004)
                    try:
                        for record in consumer:
                            got.append(int(record.value or b""))
                    except (Alarm, RuntimeError):
                        # An exception that meets Python's own condition variables may come out of them as a RuntimeError.
                        pass
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                while len(got) < 100:
                    got.append(int(next(iter(consumer)).value or b""))
                assert got == list(range(100))
    finally:
        signal.signal(signal.SIGALRM, before)


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
        assert (got, told) == (list(range(6)), ["assigned"])
        told.clear()
        async with client.consumer(topic, group="h", **options) as consumer:
            got.clear()
            async for record in consumer:
                got.append(int(record.value or b""))
                await asyncio.sleep(2.5 if len(got) == 2 else 0)
        assert (got, told) == ([0, 1, 1, 2, 3, 4, 5], ["assigned", "lost", "assigned"])

    run(broker, read)
