"""The options of the calls that have many, for the half that passes them on. The signatures in `_client` say what they are by default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypedDict

from ._consumer import Rebalance, Start, Starts


class TopicOptions(TypedDict, total=False):
    """Of `create_topic`."""

    partitions: int
    partitioner: str | None
    partitioner_config: bytes | str
    retention_ms: int | None
    retention_bytes: int | None
    segment_bytes: int | None
    segment_ms: int | None
    timestamp_ahead_max_ms: int | None
    replication_factor: int | None


class ProducerOptions(TypedDict, total=False):
    """Of `producer`."""

    linger_ms: float
    batch_bytes: int
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"]
    acks: Literal["none", "leader", "quorum"]
    delivery_timeout: float
    buffer_bytes: int


class ConsumerOptions(TypedDict, total=False):
    """Of `consumer`."""

    partitions: Sequence[int] | None
    start: Start | Starts | None
    until_end: bool
    filter: str | None
    filter_config: bytes | str
    on_filter_failure: Literal["fail", "skip", "pass"]
    on_bad_record: Literal["fail", "skip"]
    out_of_range: Literal["earliest", "latest", "fail"]
    buffer_bytes: int
    group: str | None
    instance: str | None
    session_timeout: float
    auto_commit: float | None
    assignor: Literal["uniform", "range"]
    max_processing: float | None
    wait_for_topics: bool
    on_rebalance: Callable[[Rebalance], object] | None
    close_timeout: float


class ResetOptions(TypedDict, total=False):
    """Of `reset_group`."""

    partitions: Sequence[int]
    dry_run: bool
