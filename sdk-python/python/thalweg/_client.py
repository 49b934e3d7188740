"""The client: topics and plugins, and where producers and consumers come from."""

from __future__ import annotations

import asyncio
import itertools
import weakref
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple

from . import _checks, _native
from ._checks import Pem, parse_start, parse_starts
from ._consumer import Consumer, Rebalance, Start, Starts, TopicPartition
from ._errors import ClosedError, InvalidError, ThalwegError
from ._producer import Producer


@dataclass(frozen=True)
class Topic:
    """A topic as the cluster knows it."""

    name: str
    """Its name."""
    id: str
    """Its identity, a UUID that is never given again."""
    partitions: int
    """How many partitions it has."""
    partitioner: str | None
    """"name@version" of the plugin that places its records; None: by key hash and in turn."""
    retention_ms: int
    """Records with older timestamps are removed; -1: never."""
    retention_bytes: int
    """So many bytes of each partition stay at least; -1: all."""
    segment_bytes: int
    """Size at which a segment is closed."""
    segment_ms: int
    """How long a segment stays open, in milliseconds."""
    timestamp_ahead_max_ms: int
    """How far a record may be stamped ahead of the broker's clock; -1: any time."""


@dataclass(frozen=True)
class Plugin:
    """A plugin as the cluster knows it."""

    name: str
    """Its name."""
    version: int
    """Number of this upload under that name, from 1 on."""
    kind: str
    """"partitioner" or "filter"."""
    digest: str
    """SHA-256 of the module, in hexadecimal."""
    bytes: int
    """Size of the module."""
    created_ms: int
    """When it was uploaded, in milliseconds since 1970."""

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class connect:  # noqa: N801 - reads as a function: `await connect(…)` or `async with connect(…)`
    """Connects to a cluster by the address of any broker, `thalweg://host:port`.

    `client_id` is what operators see of this client, in the broker's log and in `thalweg group describe`. `ca` is the CA to trust; without it
    THALWEG_CA, the context of `thalweg dev` on this machine, and the platform's roots are used. `cert` and `key` prove who this client is: changing
    a cluster from another machine needs them. All three are PEM, as text, as bytes, or the path of a file. Raises DisconnectedError when no broker
    answers within `timeout` seconds.
    """

    def __init__(
        self,
        address: str,
        *,
        client_id: str = "thalweg-python",
        ca: Pem | None = None,
        cert: Pem | None = None,
        key: Pem | None = None,
        timeout: float = 10.0,
    ) -> None:
        if (cert is None) != (key is None):
            raise InvalidError("cert and key go together: a certificate and its private key, in PEM form")
        _checks.given("timeout", timeout, "a number of seconds")
        _checks.duration("timeout", timeout)
        _checks.some_text("address", address)
        _checks.some_text("client_id", client_id)
        for what, pem in (("ca", ca), ("cert", cert), ("key", key)):
            _checks.pem_kind(what, pem)
        self._address = address
        self._client_id = client_id
        self._ca = ca
        self._identity = None if cert is None or key is None else (cert, key)
        self._timeout = timeout
        self._client: Client | None = None

    async def _connect(self) -> Client:
        ca = None if self._ca is None else _checks.pem("ca", self._ca)
        identity = None if self._identity is None else (_checks.pem("cert", self._identity[0]), _checks.pem("key", self._identity[1]))
        self._client = Client(self._address, await _native.connect(self._address, self._client_id, ca, self._timeout, identity))
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


def _check_no_group(**is_set: bool) -> None:
    """Options of a consumer without a group."""
    for name in (name for name, is_one in is_set.items() if is_one):
        raise InvalidError(f"{name} belongs to a group: name one by `group`")


class GroupInfo(NamedTuple):
    """A consumer group in a list."""

    group: str
    """The group id."""
    state: str
    """"empty", "reconciling" or "stable"."""
    members: int
    """How many members it has."""


class GroupMember(NamedTuple):
    """A member of a group; `revoked` is what it has been told to give up, and has not yet."""

    member: str
    """Its id, which its coordinator gave it."""
    instance: str | None
    """Its name that outlives the process, where it has one."""
    client: str
    """What its client calls itself."""
    host: str
    """The address that it connects from."""
    partitions: list[TopicPartition]
    """What it reads."""
    revoked: list[TopicPartition]
    """What it has been told to give up, and has not yet."""
    is_away: bool
    """A static member that is not connected at the moment; its session has not ended."""


class GroupOffset(NamedTuple):
    """How far a group has come in one partition, and what is left to scan."""

    topic: str
    """The topic."""
    partition: int
    """The partition."""
    committed: int | None
    """Next offset to be scanned; None: the group has not come here yet."""
    lag: int | None
    """Records left to scan; None: the partition's only copy is damaged."""
    filtered: int
    """Records that its filter has dropped."""
    failed: int
    """Records on which its filter has failed."""


class Group(NamedTuple):
    """A consumer group: "empty", "reconciling" or "stable"."""

    group: str
    """The group id."""
    state: str
    """"empty", "reconciling" or "stable"."""
    epoch: int
    """Grows with each change of members or partitions."""
    coordinator: int
    """Number of the broker that coordinates it."""
    assignor: str
    """"uniform" or "range"."""
    filter: str | None
    """"name@version" of its filter; None: it has none."""
    members: list[GroupMember]
    """Its members."""
    offsets: list[GroupOffset]
    """How far it has come, by topic and partition."""


class Client:
    """A connected client, made by `connect`. The connection closes with `close()` and the last producer and consumer.

    Every call that asks the cluster raises DisconnectedError or TimedOutError where no broker answers within the client's time-out; both are `retriable`.
    InvalidError: the client is closed, or an argument is out of its range.
    """

    def __init__(self, address: str, native: _native.Client) -> None:
        self._address = address
        self._native_client: _native.Client | None = native
        # Weakly: who drops a consumer without closing it has left its group once it is collected.
        self._consumers: weakref.WeakSet[Consumer] = weakref.WeakSet()

    def __repr__(self) -> str:
        return f"<thalweg.Client {self._address!r} {'closed' if self._native_client is None else 'open'}>"

    @property
    def _native(self) -> _native.Client:
        if self._native_client is None:
            raise ClosedError("the client is closed")
        return self._native_client

    async def _call(self, name: str, /, **arguments: object) -> Any:
        """A call of the core, by its name there. A struct comes as a dictionary of its fields."""
        return await self._native.call(name, arguments)

    async def create_topic(
        self,
        name: str,
        *,
        partitions: int = 1,
        partitioner: str | None = None,
        partitioner_config: bytes | str = b"",
        retention_ms: int | None = None,
        retention_bytes: int | None = None,
        segment_bytes: int | None = None,
        segment_ms: int | None = None,
        timestamp_ahead_max_ms: int | None = None,
        replication_factor: int | None = None,
    ) -> Topic:
        """Makes a topic. `partitioner` is a plugin, "name" or "name@version"; -1 means no bound on retention.

        What is removed are whole segments: one is closed at `segment_bytes` (an eighth of `retention_bytes`, at least 1 MiB) or when it has
        been open for `segment_ms` (an eighth of `retention_ms`, from 5 s to a week). A record that is stamped more than
        `timestamp_ahead_max_ms` ahead of the broker's clock is refused with its batch; an hour by default, -1 for any time.
        `replication_factor` copies of each partition stand on different brokers; three, or as many as there are brokers.

        Raises AlreadyExistsError where there is one of that name, NotFoundError where there is no such plugin, DeniedError where this client may not
        change the cluster.
        """
        # How many a topic may have, the cluster says.
        _checks.given("partitions", partitions, "an int")
        _checks.whole("partitions", partitions, 0, _checks.INT32_MAX)
        _checks.whole("replication_factor", replication_factor, 1, _checks.INT32_MAX)
        for what, number in (("retention_ms", retention_ms), ("retention_bytes", retention_bytes), ("timestamp_ahead_max_ms", timestamp_ahead_max_ms)):
            _checks.whole(what, number, -1, _checks.INT64_MAX)
        for what, number in (("segment_bytes", segment_bytes), ("segment_ms", segment_ms)):
            _checks.whole(what, number, 1, _checks.INT64_MAX)
        _checks.some_text("name", name)
        _checks.text("partitioner", partitioner)
        config = _checks.some_data("partitioner_config", partitioner_config)
        if config and partitioner is None:
            raise InvalidError("partitioner_config is that of a partitioner, and none is named")
        made = await self._call(
            "create_topic",
            name=name,
            partitions=partitions,
            partitioner=partitioner,
            partitioner_config=config,
            retention_ms=retention_ms,
            retention_bytes=retention_bytes,
            segment_bytes=segment_bytes,
            segment_ms=segment_ms,
            timestamp_ahead_max_ms=timestamp_ahead_max_ms,
            replication_factor=replication_factor,
        )
        return Topic(**made)

    async def add_partitions(self, topic: str, total: int) -> Topic:
        """Gives a topic more partitions: so many that it has `total`. Asked for as many as it has, nothing changes, so that the call may be repeated.

        Keys are placed among all partitions from then on: a key may go to another partition than before, and its order holds within each of them,
        as in Kafka. What stands in the topic stays where it is. Producers and consumers follow without a restart; new partitions are read from their
        first records.

        Raises InvalidError for fewer partitions than there are and for more than 10,000, DisconnectedError where too few brokers can be reached for as long as
        the client's time-out, NotFoundError, UnsupportedError while a broker is of an older version, DeniedError where this client may not change the cluster.
        """
        _checks.some_text("topic", topic)
        _checks.given("total", total, "an int")
        _checks.whole("total", total, 1, _checks.INT32_MAX)
        return Topic(**await self._call("add_partitions", topic=topic, total=total))

    async def delete_topic(self, name: str) -> None:
        """Removes a topic and its records, for ever. Raises NotFoundError, DeniedError."""
        _checks.some_text("name", name)
        await self._call("delete_topic", name=name)

    async def topics(self) -> list[Topic]:
        """All topics, in the order of their names."""
        return [Topic(**t) for t in await self._call("topics")]

    async def offsets(self, topic: str, position: Start) -> dict[int, int]:
        """Offsets of a position by partition: "earliest", "latest" (the end, exclusive), or {"timestamp": milliseconds or datetime}.

        Offsets are not dense: "latest" less "earliest" is no count of records. Raises NotFoundError.
        """
        _checks.some_text("topic", topic)
        return dict(await self._call("offsets", topic=topic, position=parse_start(position)))

    async def upload_plugin(self, name: str, module: bytes | str | PathLike[str]) -> Plugin:
        """Uploads a module (bytes, or a path) as the next version of `name`; the same module keeps its version. A broker that answers has a
        minute to try it.

        Raises InvalidError for what is no plugin, or too large, DeniedError where this client may not change the cluster.
        """
        _checks.some_text("name", name)
        data = bytes(module) if isinstance(module, (bytes, bytearray, memoryview)) else Path(module).read_bytes()
        return Plugin(**await self._call("upload_plugin", name=name, module=data))

    async def plugins(self) -> list[Plugin]:
        """All plugins in all versions."""
        return [Plugin(**p) for p in await self._call("plugins")]

    def producer(
        self,
        topic: str | None = None,
        *,
        linger_ms: float = 5.0,
        batch_bytes: int = 128 << 10,
        compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none",
        acks: Literal["none", "leader", "quorum"] = "quorum",
        delivery_timeout: float = 120.0,
        buffer_bytes: int = 32 << 20,
    ) -> Producer:
        """A producer to a topic. It looks for the topic at its first record, or by `async with`. Without a topic each record names its own, by `topic=`;
        all of them share the buffer.

        `linger_ms` is how long a batch waits for more records while others are in flight (a lone record never waits), `batch_bytes` how large it gets.
        `acks` says when a send is done: "quorum", on the disks of a majority of the copies; "leader", in one broker's memory; "none", on its way.
        `delivery_timeout` bounds, in seconds, every send from call to outcome, retries included. `buffer_bytes` bounds the records without an
        outcome; above it, sends wait. Raises InvalidError for an option that is out of its range.
        """
        _checks.given("delivery_timeout", delivery_timeout, "a number of seconds")
        _checks.duration("delivery_timeout", delivery_timeout)
        _checks.given("linger_ms", linger_ms, "a number of milliseconds")
        _checks.duration("linger_ms", linger_ms, "milliseconds")
        _checks.byte_count("batch_bytes", batch_bytes)
        _checks.byte_count("buffer_bytes", buffer_bytes)
        _checks.text("topic", topic)
        _checks.choice("compression", compression, "none", "gzip", "snappy", "lz4", "zstd")
        _checks.choice("acks", acks, "none", "leader", "quorum")
        native = self._native.producer(topic, linger_ms, batch_bytes, compression, acks, delivery_timeout, buffer_bytes)
        return Producer(topic, native)

    def consumer(
        self,
        topics: str | Sequence[str],
        *,
        partitions: Sequence[int] | None = None,
        start: Start | Starts | None = None,
        until_end: bool = False,
        filter: str | None = None,
        filter_config: bytes | str = b"",
        on_filter_failure: Literal["fail", "skip", "pass"] = "fail",
        on_bad_record: Literal["fail", "skip"] = "fail",
        out_of_range: Literal["earliest", "latest", "fail"] = "fail",
        buffer_bytes: int = 32 << 20,
        group: str | None = None,
        instance: str | None = None,
        session_timeout: float = 3.0,
        auto_commit: float | None = 1.0,
        assignor: Literal["uniform", "range"] = "uniform",
        max_processing: float | None = None,
        wait_for_topics: bool = False,
        on_rebalance: Callable[[Rebalance], object] | None = None,
        close_timeout: float = 10.0,
    ) -> Consumer:
        """A consumer of a topic, or of several, by name or by pattern: of all partitions unless some are named.

        A pattern begins with "^", as in "^flights-", and stands for the topics whose names match it from their start on, those that come later included.

        With `group` it shares the partitions with the other consumers of that group id, and goes on where the group left off.
        With `until_end` it ends once everything has been scanned that was there at the start, in a group by whichever member.
        `filter` is a plugin, "name" or "name@version"; all members have the same.
        `start` is where to begin: "earliest", "latest", an offset, or {"timestamp": …}; by default at the end, and in a group, for partitions that
        it has not come to yet, with the first record kept. A mapping of partitions, as in {0: 100, 1: "earliest"}, gives these starts of their
        own, and the others begin at the end; not in a group.

        `on_bad_record` says what becomes of a stored batch that does not decode: "fail" raises `BadRecordError` at every call until a
        `seek` past it, "skip" passes it over and counts its records as unreadable. `out_of_range` says what becomes of a position that the log does
        not hold: "fail" raises `OffsetOutOfRangeError`, the others go on with the first record kept, or behind the last one. `buffer_bytes` bounds
        what is granted to brokers, or has come and was not taken, per topic.

        `auto_commit` is how often, in seconds, what is done is committed; None: only by `commit`. `instance` is a name that outlives the process, for
        static membership. Unheard for `session_timeout` seconds a member counts as dead. `on_rebalance` is called, and awaited where it is async,
        before the next record is handed out: for partitions that are revoked while they are still this member's, so that it may commit, and when the
        consumer is closed for all that this member has then. It may call anything but read. While a record of another partition is in hand, a revoked
        one waits for it for a second. `max_processing` is how long, in seconds, a record or batch may be kept before the member leaves the group,
        until it asks for the next one. `close_timeout` bounds how long `close` lets a loop in another task finish what it has in hand.

        What cannot be meant is refused at once, by an InvalidError or a TypeError that names the option. Opening it, or the
        first read, raises NotFoundError where there is no such topic (with `wait_for_topics` it is waited for, also when it is deleted) or filter, and InvalidError
        where filter or assignor are not those of the group's other members.
        """
        native = self._native
        numbers = None if partitions is None else _checks.partitions(partitions)
        if on_rebalance is not None and not callable(on_rebalance):
            raise TypeError(f"on_rebalance is {type(on_rebalance).__name__}; something to call is expected")
        for what, time in (
            ("session_timeout", session_timeout),
            ("auto_commit", auto_commit),
            ("max_processing", max_processing),
            ("close_timeout", close_timeout),
        ):
            _checks.duration(what, time)
        _checks.given("session_timeout", session_timeout, "a number of seconds")
        _checks.byte_count("buffer_bytes", buffer_bytes)
        names = _checks.topics(topics)
        _checks.text("group", group)
        _checks.text("instance", instance)
        _checks.text("filter", filter)
        _checks.choice("on_filter_failure", on_filter_failure, "fail", "skip", "pass")
        _checks.choice("on_bad_record", on_bad_record, "fail", "skip")
        _checks.choice("out_of_range", out_of_range, "earliest", "latest", "fail")
        _checks.choice("assignor", assignor, "uniform", "range")
        _checks.flag("until_end", until_end)
        _checks.flag("wait_for_topics", wait_for_topics)
        starts = parse_starts(start)
        config = _checks.some_data("filter_config", filter_config)
        if filter is None:
            for what, is_set in (("filter_config", config), ("on_filter_failure", on_filter_failure != "fail")):
                if is_set:
                    raise InvalidError(f"{what} is that of a filter, and none is named")
        if until_end and wait_for_topics:
            raise InvalidError(
                "until_end reads what is there when it begins, and wait_for_topics what comes later: leave one out"
            )
        if group is None:
            _check_no_group(
                instance=instance is not None,
                session_timeout=session_timeout != 3.0,
                auto_commit=auto_commit != 1.0,
                assignor=assignor != "uniform",
                max_processing=max_processing is not None,
                on_rebalance=on_rebalance is not None,
            )
        options = {
            "partitions": numbers,
            "start": None if start is None or starts else parse_start(start),
            "starts": starts,
            "until_end": until_end,
            "filter": filter,
            "filter_config": config,
            "on_filter_failure": on_filter_failure,
            "on_bad_record": on_bad_record,
            "out_of_range": out_of_range,
            "buffer_bytes": buffer_bytes,
            "tells": on_rebalance is not None,
            "group": group,
            "instance": instance,
            "session_timeout": session_timeout,
            "auto_commit": auto_commit,
            "assignor": assignor,
            "max_processing": max_processing,
            "wait_for_topics": wait_for_topics,
        }
        # Bounds, names and what goes together, the core knows.
        unopened = native.consumer(names, options)
        consumer = Consumer(names, group, unopened.open, on_rebalance, close_timeout)
        self._consumers.add(consumer)
        return consumer

    async def set_partitioner(
        self, topic: str, partitioner: str | None, partitioner_config: bytes | str = b""
    ) -> None:
        """Places a topic's records in another way from now on; None: by key hash and in turn. What stands in it stays where it is.

        Raises NotFoundError for the topic or the plugin, DeniedError where this client may not change the cluster.
        """
        _checks.some_text("topic", topic)
        _checks.text("partitioner", partitioner)
        config = _checks.some_data("partitioner_config", partitioner_config)
        if config and partitioner is None:
            raise InvalidError("partitioner_config is that of a partitioner, and none is named")
        await self._call("set_partitioner", topic=topic, partitioner=partitioner, config=config)

    async def groups(self) -> list[GroupInfo]:
        """All consumer groups."""
        return [GroupInfo(**g) for g in await self._call("groups")]

    async def describe_group(self, group: str) -> Group:
        """A group with its members and offsets. Raises NotFoundError."""
        _checks.some_text("group", group)
        found = await self._call("describe_group", group=group)

        def places(some: list[dict[str, Any]]) -> list[TopicPartition]:
            return [TopicPartition(**p) for p in some]

        members = [GroupMember(**m | {"partitions": places(m["partitions"]), "revoked": places(m["revoked"])}) for m in found["members"]]
        return Group(**found | {"members": members, "offsets": [GroupOffset(**o) for o in found["offsets"]]})

    async def delete_group(self, group: str) -> None:
        """Forgets a group without members, and how far it has come. Raises NotFoundError, InvalidError where it has members."""
        _checks.some_text("group", group)
        await self._call("delete_group", group=group)

    async def reset_group(
        self, group: str, topic: str, to: Start, *, partitions: Sequence[int] | None = None, dry_run: bool = False
    ) -> dict[int, int]:
        """Moves a group without members in all partitions of a topic, or in some; answers with the offset of each. With `dry_run` it only answers.

        `to` is a position as for a consumer's `start`. A group that does not exist is made, and begins there. Raises NotFoundError for the topic or a partition,
        InvalidError where the group has members, or `partitions` is empty.
        """
        _checks.some_text("group", group)
        _checks.some_text("topic", topic)
        numbers = None if partitions is None else _checks.partitions(partitions)
        _checks.flag("dry_run", dry_run)
        return dict(await self._call("reset_group", group=group, topic=topic, partitions=numbers, to=parse_start(to), dry_run=dry_run))

    async def close(self) -> None:
        """Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed."""
        self._native_client = None
        consumers, self._consumers = list(self._consumers), weakref.WeakSet()
        # The outcome of one that was closed before is known to whoever closed it.
        is_ours = [consumer._closing is None for consumer in consumers]
        outcomes = await asyncio.gather(*(consumer._leave(False) for consumer in consumers), return_exceptions=True)
        for outcome in itertools.compress(outcomes, is_ours):
            # Where a coordinator does not answer, its members count as gone when their sessions end. What else there is, a callback has raised.
            if isinstance(outcome, Exception) and not isinstance(outcome, ThalwegError):
                raise outcome

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
