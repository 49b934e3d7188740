"""A worker without a web framework: reads orders in batches until SIGTERM or Ctrl-C."""

import asyncio
import os
import signal

import thalweg

ADDRESS = os.environ.get("THALWEG_BROKER", "thalweg://localhost:9460")
SHIPPED = os.environ.get("SHIPPED", "shipped.txt")


def append(lines: list[str]) -> None:
    with open(SHIPPED, "a", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())


async def ship(batch: thalweg.Batch) -> None:
    lines = [f"{record.partition} {record.offset} {record.json()['id']}\n" for record in batch]
    await asyncio.to_thread(append, lines)


async def main() -> None:
    loop = asyncio.get_running_loop()
    async with (
        thalweg.connect(ADDRESS) as client,
        client.consumer("orders", group="shipping") as consumer,
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: loop.create_task(consumer.close()))
        async for batch in consumer.batches(max_records=100):
            await ship(batch)


asyncio.run(main())
