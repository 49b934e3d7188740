"""Types of the native half."""

from collections.abc import Awaitable, Iterator, Sequence
from typing import Any, Literal

__version__: str
ERROR_CODES: list[tuple[str, bool]]

# Partition, offsets or None for each, places in the call.
Delivered = tuple[int, Sequence[int | None], list[int]]
Item = bytes | tuple[bytes | None, bytes | None, Sequence[tuple[str, bytes | None]] | None, int | None, int | None, str | None]

def drain() -> None: ...
def forked() -> None: ...
def connect(
    address: str, client_id: str, ca_pem: bytes | None, timeout_s: float, identity_pem: tuple[bytes, bytes] | None
) -> Awaitable[Client]: ...

class Client:
    def call(self, name: str, arguments: dict[str, object]) -> Awaitable[Any]: ...
    def producer(
        self,
        topic: str | None,
        linger_ms: float,
        batch_bytes: int,
        compression: str,
        acks: str,
        delivery_timeout_s: float,
        buffer_bytes: int,
    ) -> Producer: ...
    def consumer(self, topics: list[str], options: dict[str, Any]) -> Awaitable[Consumer]: ...

class Producer:
    def open(self) -> Awaitable[None]: ...
    def submit(self, items: list[Item], is_waited_for: bool) -> Receipt: ...
    def pending(self) -> int: ...
    def flush(self) -> Awaitable[None]: ...
    def close(self) -> Awaitable[None]: ...

class Receipt:
    is_buffered: bool
    def buffered(self) -> Awaitable[None]: ...
    def settled(self) -> Awaitable[tuple[list[Delivered], list[tuple[int, Exception]]]]: ...

class NothingNow(Exception):
    args: tuple[list[tuple[Literal["assigned", "revoked", "lost"], str, int]]]

class Consumer:
    def take(self) -> Record: ...
    def take_batch(self, max_records: int) -> Batch: ...
    def handed(self) -> int: ...
    def give_back(self) -> None: ...
    def ready(self) -> Awaitable[None]: ...
    def untold(self) -> list[tuple[Literal["assigned", "revoked", "lost"], str, int]]: ...
    def told(self, count: int) -> None: ...
    def commit(self, offsets: list[tuple[str, int, int]] | None) -> Awaitable[None]: ...
    def stop(self) -> None: ...
    def idle(self) -> Awaitable[None]: ...
    def close(self, is_done: bool) -> Awaitable[None]: ...
    def commit_record(self, record: Record, offset: int) -> Awaitable[None]: ...
    def seek(self, topic: str | None, partition: int, kind: str, value: int) -> Awaitable[None]: ...
    def subscribe(self, topics: list[str]) -> Awaitable[None]: ...
    def subscription(self) -> list[str]: ...
    def pause(self, topic: str | None, partition: int) -> None: ...
    def resume(self, topic: str | None, partition: int) -> None: ...
    def paused(self) -> list[tuple[str, int]]: ...
    def position(self, topic: str | None, partition: int) -> int | None: ...
    def lag(self, topic: str | None, partition: int) -> int | None: ...
    def committed(self, topic: str | None, partition: int) -> int | None: ...
    def assignment(self) -> list[tuple[str, int]]: ...
    def counts(self) -> tuple[int, int, int, int]: ...

class Batch:
    """Records of one partition that came together, sharing their bytes. A kept batch, or record of it, keeps those bytes; a kept key or value does not.

    `len(batch)`, `batch[0]`, `batch[-1]` and iteration are as a list's.
    """

    @property
    def topic(self) -> str:
        """The topic."""
    @property
    def partition(self) -> int:
        """The partition that all of them stand in."""
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Record: ...
    def __iter__(self) -> Iterator[Record]: ...
    def values(self) -> list[bytes | None]:
        """All values: the fastest way to read everything."""
    def records(self) -> list[Record]:
        """The records; each shares the batch's bytes."""

class Record:
    """A record as it was read; its parts are made when they are asked for.

    One can be made by hand, for tests of what handles records. Records are equal when all of their parts are, and can be pickled.
    """

    def __new__(
        cls,
        value: bytes | None,
        *,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        topic: str = "",
        partition: int = 0,
        offset: int = 0,
        timestamp_ms: int = 0,
    ) -> Record: ...
    @property
    def topic(self) -> str:
        """The topic that it was read from."""
    @property
    def partition(self) -> int:
        """The partition that it stands in."""
    @property
    def offset(self) -> int:
        """Its place in the partition. Offsets grow, and are not dense."""
    @property
    def timestamp_ms(self) -> int:
        """When it was made, in milliseconds since 1970: what the producer said, or the time of sending."""
    @property
    def key(self) -> bytes | None:
        """The key; None: it has none."""
    @property
    def value(self) -> bytes | None:
        """The value; None is a tombstone."""
    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """Its headers in order; a name may occur several times."""
    def text(self) -> str | None:
        """The value as text; None for a tombstone. Raises UnicodeDecodeError for what is not UTF-8."""
    def json(self) -> Any:
        """The value as JSON; None for a tombstone. Raises ValueError for what is not JSON."""
