"""The same worker without asyncio, record by record."""

import os
import signal
import threading

import thalweg
import thalweg.sync

ADDRESS = os.environ.get("THALWEG_BROKER", "thalweg://localhost:9460")
SHIPPED = os.environ.get("SHIPPED", "shipped.txt")


def ship(record: thalweg.Record) -> None:
    with open(SHIPPED, "a", encoding="utf-8") as file:
        file.write(f"{record.partition} {record.offset} {record.json()['id']}\n")
        file.flush()
        os.fsync(file.fileno())


stopping = threading.Event()
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: stopping.set())

with (
    thalweg.sync.connect(ADDRESS) as client,
    client.consumer("orders", group="shipping") as consumer,
):
    while not stopping.is_set():
        record = consumer.next(timeout=0.5)
        if record is not None:
            ship(record)
