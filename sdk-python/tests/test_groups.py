"""Consumer groups, as users of the Python SDK see them."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
import thalweg
import thalweg.sync
from thalweg.testing import Broker


class Reader:
    """A member that reads in a task of its own."""

    def __init__(self, client: thalweg.Client, group: str) -> None:
        self.read: list[thalweg.Record] = []
        self.held: set[thalweg.TopicPartition] = set()
        self.consumer = client.consumer("t", group=group, on_rebalance=self.follow)
        self.task = asyncio.create_task(self.go())

    def follow(self, change: thalweg.Rebalance) -> None:
        if change.kind == "assigned":
            self.held |= set(change.partitions)
        else:
            self.held -= set(change.partitions)

    async def go(self) -> None:
        async for record in self.consumer:
            self.read.append(record)

    async def leave(self) -> None:
        await self.consumer.close()
        await self.task


async def eventually(what: str, is_so: Callable[[], bool], limit: float = 10.0) -> float:
    started = time.monotonic()
    while not is_so():
        assert time.monotonic() - started < limit, what
        await asyncio.sleep(0.01)
    return time.monotonic() - started


def test_two_partitions_and_three_members(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            await client.create_topic("t", partitions=2)
            members = [Reader(client, "billing") for _ in range(3)]
            await eventually("two active", lambda: sum(bool(m.held) for m in members) == 2)
            await asyncio.sleep(0.3)
            assert sum(bool(m.held) for m in members) == 2
            async with client.producer("t") as producer:
                await producer.enqueue_batch([thalweg.Message(str(i)) for i in range(500)])
            others = [Reader(client, "audit"), Reader(client, "search")]
            await eventually("each record once", lambda: sum(len(m.read) for m in members) == 500)
            for other in others:
                await eventually("everything", lambda other=other: len(other.read) == 500)
            leaver = next(m for m in members if m.held)
            members.remove(leaver)
            await leaver.leave()
            took = await eventually("the third takes over", lambda: sum(bool(m.held) for m in members) == 2)
            assert took < 1.0
            async with client.producer("t") as producer:
                await producer.enqueue_batch([thalweg.Message(str(i)) for i in range(500)])
            done = len(leaver.read)
            await eventually("the rest", lambda: done + sum(len(m.read) for m in members) == 1000)
            for member in [*members, *others]:
                await member.leave()
            assert {g.group: g.state for g in await client.groups()} == dict.fromkeys(
                ["audit", "billing", "search"], "empty"
            )
            group = await client.describe_group("billing")
            assert [o.lag for o in group.offsets] == [0, 0]

    asyncio.run(go())


def test_commits_and_where_a_group_goes_on(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        client.create_topic("t", partitions=1)
        with client.producer("t") as producer:
            producer.enqueue_batch([thalweg.Message(str(i)) for i in range(100)])
        consumer = client.consumer("t", group="g", auto_commit=None)
        records = iter(consumer)
        first = [next(records) for _ in range(10)]
        assert consumer.committed(0) is None
        consumer.commit()
        assert consumer.committed(0) == first[-1].offset + 1
        record = next(records)
        consumer.commit(record)
        with pytest.raises(thalweg.OffsetOutOfRangeError, match="past its end"):
            consumer.commit({("t", 0): 10_000})
        consumer.close()
        # Automatic: done when the next one is asked for, and when the consumer is left in order.
        with client.consumer("t", group="g") as consumer:
            assert [next(iter(consumer)).text() for _ in range(1)] == ["11"]
        with pytest.raises(RuntimeError), client.consumer("t", group="g") as consumer:
            assert next(iter(consumer)).text() == "12"
            raise RuntimeError
        with client.consumer("t", group="g") as consumer:
            assert next(iter(consumer)).text() == "12"
        assert client.reset_group("g", "t", "earliest", dry_run=True) == {0: 0}
        client.reset_group("g", "t", "earliest")
        with client.consumer("t", group="g", until_end=True) as consumer:
            assert [r.text() for r in consumer] == [str(i) for i in range(100)]
        client.delete_group("g")
        with pytest.raises(thalweg.NotFoundError, match="does not exist"):
            client.describe_group("g")


def test_what_one_task_has_in_hand_is_not_done_by_another_that_waits_already(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client, client.producer("t") as producer:
            await producer.send("makes the topic")
            async with client.consumer("t", group="g", auto_commit=0.02) as consumer:
                first = await consumer.next()
                assert first is not None
                calls = {asyncio.create_task(call) for call in (consumer.next(), consumer.next(), anext(aiter(consumer)))}
                await asyncio.sleep(0.1)
                for sent in range(3):
                    await producer.send(str(sent))
                    done, calls = await asyncio.wait(calls, return_when="FIRST_COMPLETED")
                    assert [task.result().text() for task in done if task.result()] == [str(sent)]
                    # The others look again, and commits go on.
                    await asyncio.sleep(0.2)
                    assert await consumer.committed(0) == first.offset + 1
                assert await consumer.next(timeout=0) is None
                await asyncio.sleep(0.2)
                assert await consumer.committed(0) == first.offset + 4

    asyncio.run(go())


def test_what_one_thread_has_in_hand_is_not_done_by_another_that_waits_already(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client, client.producer("t") as producer:
        producer.send("makes the topic")
        with client.consumer("t", group="g", auto_commit=0.02) as consumer, ThreadPoolExecutor(3) as threads:
            first = consumer.next()
            assert first is not None
            calls = {threads.submit(call) for call in (consumer.next, consumer.next, lambda: next(iter(consumer)))}
            time.sleep(0.1)
            for sent in range(3):
                producer.send(str(sent))
                done, calls = wait(calls, return_when="FIRST_COMPLETED")
                assert [call.result().text() for call in done] == [str(sent)]
                time.sleep(0.2)
                assert consumer.committed(0) == first.offset + 1
            assert consumer.next(timeout=0) is None
            time.sleep(0.2)
            assert consumer.committed(0) == first.offset + 4


def test_a_commit_that_cannot_be_says_of_what(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.producer("t") as producer:
            end = (producer.send("x").offset or 0) + 1
        with client.consumer("t", group="g") as consumer:
            record = consumer.next(timeout=10)
            with pytest.raises(thalweg.OffsetOutOfRangeError) as raised:
                consumer.commit({0: 10_000})
            error = raised.value
            assert (error.topic, error.partition, error.offset, error.log_end) == ("t", 0, 10_000, end)
            assert str(error).count('"t"') == 1 and "10000" in str(error) and str(end) in str(error)
            for wrong in ([record], (record,), 7, "t"):
                with pytest.raises(TypeError, match=f"offsets is {type(wrong).__name__}"):
                    consumer.commit(wrong)  # type: ignore[arg-type]
            with pytest.raises(thalweg.NotFoundError):
                consumer.commit({9: 1})
            assert consumer.committed(0) is None


def test_bad_input_is_typed(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        client.create_topic("t", partitions=1)
        with pytest.raises(thalweg.InvalidError, match="group id"):
            client.consumer("t", group="g" * 250).__enter__()
        with client.consumer("t", group="g", instance="one"):
            with pytest.raises(thalweg.InvalidError, match="instance"):
                client.consumer("t", group="g", instance="one", session_timeout=0.6).__enter__()
            with pytest.raises(thalweg.InvalidError, match="assignor `range`"):
                client.consumer("t", group="g", assignor="range").__enter__()
            with pytest.raises(thalweg.InvalidError, match="has 1 member;"):
                client.delete_group("g")
