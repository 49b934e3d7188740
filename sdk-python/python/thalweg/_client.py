"""The client: topics and plugins, and where producers and consumers come from."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Literal

from . import _native
from ._consumer import Consumer, Start, parse_start
from ._errors import InvalidError
from ._producer import Producer


@dataclass(frozen=True)
class Topic:
    """A topic as the cluster knows it."""

    name: str
    id: str
    partitions: int
    partitioner: str | None
    retention_ms: int
    retention_bytes: int


@dataclass(frozen=True)
class Plugin:
    """A plugin as the cluster knows it."""

    name: str
    version: int
    kind: str
    digest: str
    bytes: int
    created_ms: int

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class connect:  # noqa: N801 - reads as a function: `await connect(…)` or `async with connect(…)`
    """Connects to a cluster by the address of any broker, `thalweg://host:port`.

    `ca` is a file with the CA to trust; without it THALWEG_CA, the context of `thalweg dev` on this machine, and the
    platform's roots are used. `cert` and `key` are files that prove who this client is: changing a cluster from another
    machine needs them. Raises DisconnectedError when no broker answers within `timeout` seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        ca: str | PathLike[str] | None = None,
        cert: str | PathLike[str] | None = None,
        key: str | PathLike[str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        if (cert is None) != (key is None):
            raise InvalidError("cert and key go together: a certificate and its private key, PEM files")
        self._address = address
        self._ca = ca
        self._identity = None if cert is None or key is None else (Path(cert), Path(key))
        self._timeout = timeout
        self._client: Client | None = None

    async def _connect(self) -> Client:
        pem = None if self._ca is None else Path(self._ca).read_bytes()
        identity = None if self._identity is None else (self._identity[0].read_bytes(), self._identity[1].read_bytes())
        self._client = Client(await _native.connect(self._address, pem, self._timeout, identity))
        return self._client

    def __await__(self) -> Generator[object, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        return await self._connect()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()


class Client:
    """A connected client. The connection closes with `close()` and the last producer and consumer."""

    def __init__(self, native: _native.Client) -> None:
        self._native_client: _native.Client | None = native

    @property
    def _native(self) -> _native.Client:
        if self._native_client is None:
            raise InvalidError("the client is closed")
        return self._native_client

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        partitioner: str | None = None,
        partitioner_config: bytes | str = b"",
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        replication_factor: int | None = None,
    ) -> Topic:
        """Makes a topic. `partitioner` is a plugin, "name" or "name@version"; -1 means no bound on retention.

        `replication_factor` copies of each partition stand on different brokers; three, or as many as there are brokers.
        """
        config = partitioner_config.encode() if isinstance(partitioner_config, str) else partitioner_config
        made = await self._native.create_topic(
            name, partitions, partitioner, config, retention_ms, retention_bytes, replication_factor
        )
        return Topic(**made)

    async def delete_topic(self, name: str) -> None:
        """Removes a topic and its records, for ever."""
        await self._native.delete_topic(name)

    async def topics(self) -> list[Topic]:
        """All topics, by name."""
        return [Topic(**t) for t in await self._native.topics()]

    async def offsets(self, topic: str, position: Start) -> dict[int, int]:
        """Where each partition has `position`: "earliest", "latest", or {"timestamp": ms}."""
        kind, value = parse_start(position)
        return dict(await self._native.offsets(topic, kind, value))

    async def upload_plugin(self, name: str, module: bytes | str | PathLike[str]) -> Plugin:
        """Uploads a module (bytes, or a path) as the next version of `name`; the same module keeps its version."""
        data = bytes(module) if isinstance(module, (bytes, bytearray, memoryview)) else Path(module).read_bytes()
        return Plugin(**await self._native.upload_plugin(name, data))

    async def plugins(self) -> list[Plugin]:
        """All plugins in all versions."""
        return [Plugin(**p) for p in await self._native.plugins()]

    def producer(
        self,
        topic: str,
        *,
        linger_ms: float = 5.0,
        batch_bytes: int = 128 << 10,
        compression: Literal["none", "lz4", "zstd"] = "none",
        acks: Literal["none", "leader", "quorum"] = "quorum",
        delivery_timeout: float = 120.0,
        buffer_bytes: int = 32 << 20,
    ) -> Producer:
        """A producer to a topic; it is opened by its first use or by `async with`."""
        native = self._native
        return Producer(
            topic,
            lambda: native.producer(topic, linger_ms, batch_bytes, compression, acks, delivery_timeout, buffer_bytes),
        )

    def consumer(
        self,
        topic: str,
        *,
        partitions: Sequence[int] | None = None,
        start: Start = "latest",
        until_end: bool = False,
        filter: str | None = None,
        filter_config: bytes | str = b"",
    ) -> Consumer:
        """A consumer of a topic: of all partitions unless some are named.

        `start` is "earliest", "latest", an offset, or {"timestamp": ms}. With `until_end` it ends once everything has
        been scanned that was there at the start. `filter` is a plugin, "name" or "name@version".
        """
        native = self._native
        kind_value = parse_start(start)
        config = filter_config.encode() if isinstance(filter_config, str) else filter_config
        chosen = None if partitions is None else list(partitions)
        return Consumer(topic, lambda: native.consumer(topic, chosen, kind_value, until_end, filter, config))

    async def close(self) -> None:
        """Lets the connection go; producers and consumers that are open keep theirs until they are closed."""
        self._native_client = None

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
