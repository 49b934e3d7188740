"""A real broker for the tests."""

import asyncio
import json
import os
import pathlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import thalweg
from thalweg.testing import Broker

ROOT = pathlib.Path(__file__).resolve().parents[2]
PLUGINS = pathlib.Path(os.environ.get("THALWEG_PLUGINS", ROOT / "target/plugins/wasm32-unknown-unknown/release"))
os.environ.setdefault("THALWEG_BIN", str(ROOT / "target/fast/thalweg"))


def run(broker: Broker, work: Callable[[thalweg.Client, str], Awaitable[None]]) -> None:
    """Runs `work` with a client, and a topic of its own."""

    async def go() -> None:
        async with broker.connect() as client:
            topic = str(uuid.uuid4())
            await client.create_topic(topic)
            await work(client, topic)

    asyncio.run(go())


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest.fixture(scope="session")
def vectors() -> Any:
    return json.loads((ROOT / "tests/conformance/vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def plugins() -> pathlib.Path:
    return PLUGINS
