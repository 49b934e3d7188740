"""The Python part of the demo.

    worker.py ADDRESS produce TOPIC FILE FROM TO
    worker.py ADDRESS consume TOPIC [FILTER]
    worker.py ADDRESS share TOPIC GROUP

Prints one JSON object; progress goes to standard error.
"""

import asyncio
import itertools
import json
import sys
import time
import zlib

import thalweg

CHUNK = 2000
# What a batch takes, so that there is time to die in the middle.
WORK = 0.04


async def produce(client: thalweg.Client, topic: str, file: str, first: int, last: int) -> dict[str, object]:
    size = 0
    started = time.perf_counter()
    with open(file, "rb") as lines:
        async with client.producer(topic, compression="none") as producer:
            mine = itertools.islice(lines, first, last)
            done = 0
            while chunk := list(itertools.islice(mine, CHUNK)):
                messages = []
                for line in chunk:
                    value = line.rstrip(b"\n")
                    size += len(value)
                    messages.append(thalweg.Message(value, key=json.loads(value)["tailnum"]))
                await producer.enqueue_batch(messages)
                done += len(chunk)
                if done % 20000 == 0:
                    print(f"progress {done}", file=sys.stderr, flush=True)
    return {"records": last - first, "bytes": size, "seconds": time.perf_counter() - started}


async def consume(client: thalweg.Client, topic: str, filter: str | None) -> dict[str, object]:
    started = time.perf_counter()
    counts: dict[int, int] = {}
    checksums: dict[int, int] = {}
    size = done = 0
    consumer = client.consumer(topic, start="earliest", until_end=True, filter=filter)
    async for record in consumer:
        value = record.value or b""
        partition = record.partition
        counts[partition] = counts.get(partition, 0) + 1
        checksums[partition] = zlib.crc32(value, checksums.get(partition, 0))
        size += len(value)
        done += 1
        if done % 50000 == 0:
            print(f"progress {done}", file=sys.stderr, flush=True)
    scanned = await consumer.counts()
    return {
        "records": done,
        "bytes": size,
        "seconds": time.perf_counter() - started,
        "scanned": scanned.scanned,
        "filtered": scanned.filtered,
        "partitions": {str(p): [counts[p], checksums[p]] for p in counts},
    }


async def share(client: thalweg.Client, topic: str, group: str) -> dict[str, object]:
    """Reads as a member of a group, and says which offsets it has got."""
    started = time.perf_counter()
    done = 0
    async with client.consumer(topic, group=group, until_end=True) as consumer:
        async for batch in consumer.batches():
            await asyncio.sleep(WORK)
            offsets = [record.offset for record in batch.records()]
            first = last = offsets[0]
            for offset in [*offsets[1:], -1]:
                if offset != last + 1:
                    print(f"got {batch.partition} {first} {last}", file=sys.stderr, flush=True)
                    first = offset
                last = offset
            done += len(offsets)
    return {"records": done, "bytes": 0, "seconds": time.perf_counter() - started}


async def main(address: str, what: str, topic: str, *rest: str) -> None:
    async with thalweg.connect(address) as client:
        if what == "produce":
            result = await produce(client, topic, rest[0], int(rest[1]), int(rest[2]))
        elif what == "share":
            result = await share(client, topic, rest[0])
        else:
            result = await consume(client, topic, rest[0] if rest else None)
    print(json.dumps(result))


asyncio.run(main(*sys.argv[1:]))
