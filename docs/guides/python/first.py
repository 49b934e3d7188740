"""The first record: sends one, and reads what is there."""

import asyncio
import os

import thalweg

ADDRESS = os.environ.get("THALWEG_BROKER", "thalweg://localhost:9460")


async def main() -> None:
    async with thalweg.connect(ADDRESS) as client:
        async with client.producer("greetings") as producer:
            at = await producer.send({"hello": "world"}, key="me")
            print(f"stored in partition {at.partition} at offset {at.offset}")
        async with client.consumer("greetings", start="earliest", until_end=True) as consumer:
            async for record in consumer:
                print(record.offset, record.key, record.json())


asyncio.run(main())
