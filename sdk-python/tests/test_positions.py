"""Where a consumer stands after a seek, in both halves; and what was left empty is not taken for what was left out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import thalweg
import thalweg.sync
from conftest import run
from thalweg.testing import Broker


def test_a_partition_stands_where_a_seek_goes_as_soon_as_that_returns(broker: Broker) -> None:
    async def seek(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            await producer.enqueue_batch([str(i) for i in range(10)])
        last = (await client.offsets(topic, "latest"))[0]
        some: list[Any] = ["latest", "earliest", {"timestamp": 0}]
        places = [(4, 4), *[(to, (await client.offsets(topic, to))[0]) for to in some], (6, 6)]
        for group in (None, "g"):
            told: list[tuple[int | None, int]] = []

            async def on_rebalance(change: thalweg.Rebalance, told: list[tuple[int | None, int]] = told) -> None:
                for at in change.partitions if change.kind == "assigned" else []:
                    for to, place in places:
                        await consumer.seek(at, to)
                        told.append((await consumer.position(at), place))

            listener = None if group is None else on_rebalance
            async with client.consumer(topic, start="earliest", group=group, on_rebalance=listener) as consumer:
                if group is None:
                    for to, place in places:
                        await consumer.seek(0, to)
                        assert (await consumer.position(0), await consumer.lag(0)) == (place, last - place)
                record = await consumer.next(timeout=10)
                assert record is not None and record.offset == 6
            assert [at for at, _ in told] == [place for _, place in told]
            assert len(told) == (0 if group is None else len(places))
        with thalweg.sync.connect(broker.address, ca=broker.ca) as sync, sync.consumer(topic, start="earliest") as reader:
            for to, place in places:
                reader.seek(0, to)
                assert (reader.position(0), reader.lag(0)) == (place, last - place)

    run(broker, seek)


def test_what_was_left_empty_is_not_taken_for_what_was_left_out(broker: Broker) -> None:
    async def call(client: thalweg.Client, topic: str) -> None:
        async with client.producer(topic) as producer:
            await producer.send("x")
        async with client.consumer(topic, group="g") as consumer:
            await consumer.next()
        before = (await client.describe_group("g")).offsets
        calls: list[tuple[Callable[[], Awaitable[object]], str]] = [
            (lambda: client.reset_group("g", topic, "earliest", partitions=[]), "partitions is empty"),
            (lambda: client.set_partitioner(topic, ""), "partitioner is empty"),
            (lambda: client.create_topic("u", partitioner=""), "partitioner is empty"),
        ]
        for refused, said in calls:
            with pytest.raises(thalweg.InvalidError, match=said):
                await refused()
        assert (await client.describe_group("g")).offsets == before
        assert await client.reset_group("g", topic, "earliest", dry_run=True) == {0: 0}

    run(broker, call)
