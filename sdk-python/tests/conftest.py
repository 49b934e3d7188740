"""A real broker for the tests."""

import asyncio
import json
import os
import pathlib
import subprocess
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import thalweg

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("THALWEG_BIN", str(ROOT / "target/fast/thalweg"))
PLUGINS = pathlib.Path(os.environ.get("THALWEG_PLUGINS", ROOT / "target/plugins/wasm32-unknown-unknown/release"))


class Broker:
    """A `thalweg dev` on a directory."""

    def __init__(self, directory: pathlib.Path, port: int = 0) -> None:
        environment = {**os.environ, "XDG_STATE_HOME": str(directory / "state"), "THALWEG_LOG": "error"}
        command = [BINARY, "dev", "--port", str(port), "--http-port", "0", "--data-dir", str(directory)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().split()[-1]
        self.port = int(self.address.rsplit(":", 1)[1])
        for line in self.process.stdout:
            if "Ctrl-C" in line:
                break
        self.ca = directory / "tls/ca.pem"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def run(broker: Broker, work: Callable[[thalweg.Client, str], Awaitable[None]]) -> None:
    """Runs `work` with a client, and a topic of its own."""

    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            topic = str(uuid.uuid4())
            await client.create_topic(topic)
            await work(client, topic)

    asyncio.run(go())


@pytest.fixture
def broker(tmp_path: pathlib.Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture(scope="session")
def vectors() -> Any:
    return json.loads((ROOT / "tests/conformance/vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def plugins() -> pathlib.Path:
    return PLUGINS
