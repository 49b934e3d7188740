"""Fixtures: `pytest_plugins = ["thalweg.testing.pytest"]` in the topmost conftest.py, or `-p thalweg.testing.pytest`.

Not an entry point: pytest would import the client in every project of an environment that has it installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from .. import sync
from ._broker import Broker, unique


@pytest.fixture(scope="session")
def thalweg_broker() -> Iterator[Broker]:
    """One broker for all tests. A fixture of the same name in conftest.py replaces it, also for the other two."""
    with Broker() as broker:
        yield broker


@pytest.fixture
def thalweg_client(thalweg_broker: Broker) -> Iterator[sync.Client]:
    """A client of `thalweg.sync`; in async tests, `async with thalweg_broker.connect() as client`."""
    with thalweg_broker.connect_sync() as client:
        yield client


@pytest.fixture
def thalweg_topic(request: pytest.FixtureRequest) -> str:
    """The name of a topic that no other test has, after the test. Its first use makes it, with one partition."""
    return unique(re.sub(r"[^A-Za-z0-9._-]+", "-", request.node.name)[:200])
