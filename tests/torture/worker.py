"""A producer or a consumer of the torture test: see mod.rs for what it says and hears.

    worker.py ADDRESS CA produce NAME
    worker.py ADDRESS CA consume
"""

import asyncio
import json
import sys
import zlib

import thalweg

BATCH = 20
BATCHES = 20


async def heard() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


async def produce(client: thalweg.Client, name: str) -> None:
    stop = asyncio.ensure_future(heard())
    done = 0
    async with client.producer("load") as producer:
        while not stop.done():
            first = done
            for _ in range(BATCHES):
                numbers = range(done, done + BATCH)
                await producer.enqueue_batch(
                    [thalweg.Message(f"{name}-{n:08}", key=f"{name}-{n % 7}") for n in numbers]
                )
                done += BATCH
                await asyncio.sleep(0.01)
            # Raises the first error of what was enqueued.
            await producer.flush()
            print("acked", first, done - first, flush=True)


async def consume(client: thalweg.Client) -> None:
    counts: dict[int, int] = {}
    sums: dict[int, int] = {}
    last: dict[int, int] = {}
    until: dict[int, int] | None = None

    async def read() -> None:
        async for record in client.consumer("load", start="earliest"):
            p = record.partition
            if record.offset <= last.get(p, -1):
                raise AssertionError(f"partition {p}: offset {record.offset} follows {last[p]}")
            last[p] = record.offset
            counts[p] = counts.get(p, 0) + 1
            sums[p] = zlib.crc32(record.value or b"", sums.get(p, 0))
            if until is not None and reached(until):
                return

    def reached(ends: dict[int, int]) -> bool:
        return all(last.get(p, -1) >= end for p, end in ends.items())

    reading = asyncio.ensure_future(read())
    line = await heard()
    until = {int(p): end for p, end in json.loads(line).items()}
    if reached(until):
        reading.cancel()
    else:
        await reading
    print(json.dumps({str(p): [counts[p], sums[p]] for p in counts}), flush=True)


async def main(address: str, ca: str, what: str, *rest: str) -> None:
    async with thalweg.connect(address, ca=ca) as client:
        if what == "produce":
            await produce(client, rest[0])
        else:
            await consume(client)


asyncio.run(main(*sys.argv[1:]))
