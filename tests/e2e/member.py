"""A member of a mixed group: says which records it gets, until it is told to leave or killed.

member.py ADDRESS CA TOPIC GROUP
"""

import asyncio
import sys

import thalweg


async def main(address: str, ca: str, topic: str, group: str) -> None:
    def say(*words: object) -> None:
        print(*words, flush=True)

    def follow(change: thalweg.Rebalance) -> None:
        for place in change.partitions:
            say(change.kind, place.partition)

    async with thalweg.connect(address, ca=ca) as client:
        consumer = client.consumer(topic, group=group, on_rebalance=follow)
        leaving = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

        async def read() -> None:
            async for record in consumer:
                say("record", record.partition, record.offset)

        reading = asyncio.create_task(read())
        await leaving
        await consumer.close()
        await reading


asyncio.run(main(*sys.argv[1:5]))
