"""The vectors that all three SDKs check, here in Python."""

import asyncio
import pathlib
from typing import Any

import pytest
import thalweg
from thalweg import _errors, _native
from thalweg.testing import Broker


def unhex(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def test_keys_and_turns_place_records(broker: Broker, vectors: Any) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            await client.create_topic("keys", partitions=vectors["murmur2"]["partitions"])
            async with client.producer("keys") as producer:
                for key, partition in vectors["murmur2"]["keys"]:
                    assert (await producer.send("x", key=key)).partition == partition, key
            await client.create_topic("turns", partitions=vectors["round_robin"]["partitions"])
            async with client.producer("turns") as producer:
                placed = [(await producer.send("x")).partition for _ in vectors["round_robin"]["expect"]]
            assert placed == vectors["round_robin"]["expect"]

    asyncio.run(go())


def test_keys_are_placed_among_all_partitions_once_a_topic_has_grown(broker: Broker, vectors: Any) -> None:
    growth = vectors["growth"]

    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            await client.create_topic("keys", partitions=growth["from"])
            async with client.producer("keys") as producer, client.consumer("keys") as consumer:
                for at in (1, 2):
                    for places in growth["keys"]:
                        assert (await producer.send("x", key=places[0])).partition == places[at], places
                    assert (await client.add_partitions("keys", growth["to"])).partitions == growth["to"]
                # It began at the end, and gets what came to the new ones before it heard of them.
                read = [(await anext(consumer)).partition for _ in range(2 * len(growth["keys"]))]
                assert sorted(read) == sorted(places[at] for places in growth["keys"] for at in (1, 2))

    asyncio.run(go())


def test_plugins_place_and_filter(broker: Broker, vectors: Any, plugins: pathlib.Path) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            await client.upload_plugin("by-carrier", plugins / "by_carrier.wasm")
            await client.upload_plugin("late", (plugins / "late.wasm").read_bytes())
            await client.create_topic("flights", partitions=6, partitioner="by-carrier@1")
            async with client.producer("flights") as producer:
                for value, partition in vectors["by_carrier"]["values"]:
                    assert (await producer.send(value)).partition == partition, value
                for value in vectors["by_carrier"]["refused"]:
                    with pytest.raises(thalweg.PluginFailedError, match="by-carrier@1"):
                        await producer.send(value)
            async with client.producer("delays") as producer:
                for value, _ in vectors["late"]["values"]:
                    await producer.send(value)
                consumer = client.consumer("delays", start="earliest", until_end=True, filter="late")
                found = [record.text() async for record in consumer]
                assert found == [value for value, kept in vectors["late"]["values"] if kept]
                assert (await consumer.counts()).scanned == len(vectors["late"]["values"])
                await producer.send(vectors["late"]["failed"])
            consumer = client.consumer("delays", start="earliest", until_end=True, filter="late")
            with pytest.raises(thalweg.PluginFailedError, match="late@1"):
                assert [record.text() async for record in consumer] is None

    asyncio.run(go())


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_come_back_as_they_were_sent(broker: Broker, vectors: Any, codec: Any) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            await client.create_topic("records", timestamp_ahead_max_ms=-1)
            async with client.producer("records", compression=codec) as producer:
                for r in vectors["records"]:
                    headers = [(name, unhex(value)) for name, value in r["headers"]]
                    await producer.send(unhex(r["value"]), key=unhex(r["key"]), headers=headers, timestamp_ms=r["timestamp_ms"])
            consumer = client.consumer("records", start="earliest", until_end=True)
            records = [record async for record in consumer]
            assert len(records) == len(vectors["records"])
            for record, r in zip(records, vectors["records"], strict=True):
                assert record.key == unhex(r["key"])
                assert record.value == unhex(r["value"])
                assert record.timestamp_ms == r["timestamp_ms"]
                assert record.headers == [(name, unhex(value)) for name, value in r["headers"]]

    asyncio.run(go())


def test_a_topic_has_the_settings_that_it_was_made_with(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            made = await client.create_topic("kept", retention_ms=80_000, retention_bytes=1 << 20, segment_bytes=1 << 17, segment_ms=7_000)
            assert (made.retention_ms, made.retention_bytes, made.segment_bytes, made.segment_ms) == (80_000, 1 << 20, 1 << 17, 7_000)
            assert made.timestamp_ahead_max_ms == 3_600_000
            derived = await client.create_topic("derived", retention_ms=80_000, retention_bytes=80 << 20)
            assert (derived.segment_bytes, derived.segment_ms) == (10 << 20, 10_000)
            with pytest.raises(thalweg.InvalidError, match="segment_bytes"):
                await client.create_topic("tiny", segment_bytes=1)
            async with client.producer("kept") as producer:
                with pytest.raises(thalweg.InvalidError, match="timestamp_ahead_max_ms"):
                    await producer.send("x", timestamp_ms=99_999_999_999_999)
                with pytest.raises(thalweg.InvalidError, match="negative"):
                    await producer.send("x", timestamp_ms=-2)
                await producer.send("x")

    asyncio.run(go())


def test_error_kinds_are_the_same_everywhere(vectors: Any) -> None:
    assert [list(pair) for pair in _native.ERROR_CODES] == vectors["errors"]
    for code, retriable in vectors["errors"]:
        error = _errors.make(code, "x", {})
        assert (error.code, error.retriable, str(error)) == (code, retriable, "x")
        assert isinstance(error, thalweg.ThalwegError)
