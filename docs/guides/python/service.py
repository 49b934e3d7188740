"""An HTTP service that takes orders and ships them. `uvicorn service:app` runs it, SIGTERM ends it."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import thalweg
from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, ValidationError

ADDRESS = os.environ.get("THALWEG_BROKER", "thalweg://localhost:9460")
SHIPPED = os.environ.get("SHIPPED", "shipped.txt")
log = logging.getLogger("uvicorn.error")


class Order(BaseModel):
    id: str
    customer: str


def append(line: str) -> None:
    """A line in a file stands here for your database."""
    with open(SHIPPED, "a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


async def ship(record: thalweg.Record, order: Order) -> None:
    await asyncio.to_thread(append, f"{record.partition} {record.offset} {order.id}")


async def work(consumer: thalweg.Consumer, rejected: thalweg.Producer) -> None:
    async for record in consumer:
        try:
            order = Order.model_validate_json(record.value or b"")
        except ValidationError as error:
            # It will not get better by itself, and must not keep the others.
            await rejected.send(record.value, key=record.key, headers={"error": str(error)})
            continue
        await ship(record, order)


def end_with(worker: asyncio.Task[None]) -> None:
    """A service whose worker has failed would take orders that nobody ships."""
    if not worker.cancelled() and (error := worker.exception()):
        log.error("the worker failed", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with (
        thalweg.connect(ADDRESS) as client,
        client.producer("orders", delivery_timeout=10) as producer,
        client.producer("orders-rejected", delivery_timeout=10) as rejected,
        client.consumer("orders", group="shipping") as consumer,
    ):
        app.state.producer = producer
        worker = asyncio.create_task(work(consumer, rejected))
        worker.add_done_callback(end_with)
        yield
        # The requests have been answered. What the worker has in hand may be finished; then it ends.
        await consumer.close()
        await worker


app = FastAPI(lifespan=lifespan)


@app.post("/orders", status_code=201)
async def take_order(order: Order, request: Request) -> dict[str, int | None]:
    producer: thalweg.Producer = request.app.state.producer
    try:
        at = await producer.send(order.model_dump(), key=order.customer)
    except thalweg.ThalwegError as error:
        raise HTTPException(503 if error.retriable else 500, str(error)) from error
    return {"partition": at.partition, "offset": at.offset}
