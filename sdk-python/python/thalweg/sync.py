# Generated from _client.py, _producer.py and _consumer.py by `python sdk-python/generate_sync.py`. Change those, or _sync.py.
"""The same client without asyncio: `with` and `for` instead of `async with` and `async for`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Literal

from . import _client, _sync
from ._checks import Pem
from ._client import Group, GroupInfo, Plugin, Topic
from ._consumer import Counts, Place, Rebalance, Start, Starts, TopicPartition
from ._errors import ThalwegError
from ._native import Batch, Record
from ._producer import Data, Delivery, Headers, Message, OnDelivery, Timestamp, Value

__all__ = ["Client", "Consumer", "Producer", "connect"]


def connect(
    address: str,
    *,
    client_id: str = "thalweg-python",
    ca: Pem | None = None,
    cert: Pem | None = None,
    key: Pem | None = None,
    timeout: float = 10.0,
) -> Client:
    """Connects to a cluster by the address of any broker, `thalweg://host:port`.

    `client_id` is what operators see of this client, in the broker's log and in `thalweg group describe`. `ca` is the CA to trust; without it THALWEG_CA, the
    context of `thalweg dev` on this machine, and the platform's roots are used. `cert` and `key` prove who this client is: changing a cluster from another
    machine needs them. All three are PEM, as text, as bytes, or the path of a file. Raises DisconnectedError when no broker answers within `timeout` seconds.
    """
    return Client(
        _sync.run(lambda: _client.connect(address, client_id=client_id, ca=ca, cert=cert, key=key, timeout=timeout))
    )


class Client(_sync.ClientBase):
    """A connected client, made by `connect`. The connection closes with `close()` and the last producer and consumer.

    Every call that asks the cluster raises DisconnectedError or TimedOutError where no broker answers within the client's time-out; both are `retriable`.
    InvalidError: the client is closed, or an argument is out of its range.
    """

    def create_topic(
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

        What is removed are whole segments: one is closed at `segment_bytes` (an eighth of `retention_bytes`, at least 1 MiB) or when it has been open for
        `segment_ms` (an eighth of `retention_ms`, from 5 s to a week). A record that is stamped more than `timestamp_ahead_max_ms` ahead of the broker's clock
        is refused with its batch; an hour by default, -1 for any time. `replication_factor` copies of each partition stand on different brokers; three, or as
        many as there are brokers.

        Raises AlreadyExistsError where there is one of that name, NotFoundError where there is no such plugin, DeniedError where this client may not change the
        cluster.
        """
        return _sync.run(
            lambda: self._inner.create_topic(
                name,
                partitions=partitions,
                partitioner=partitioner,
                partitioner_config=partitioner_config,
                retention_ms=retention_ms,
                retention_bytes=retention_bytes,
                segment_bytes=segment_bytes,
                segment_ms=segment_ms,
                timestamp_ahead_max_ms=timestamp_ahead_max_ms,
                replication_factor=replication_factor,
            )
        )

    def add_partitions(self, topic: str, total: int) -> Topic:
        """Gives a topic more partitions: so many that it has `total`. Asked for as many as it has, nothing changes, so that the call may be repeated.

        Keys are placed among all partitions from then on: a key may go to another partition than before, and its order holds within each of them, as in Kafka.
        What stands in the topic stays where it is. Producers and consumers follow without a restart; new partitions are read from their first records.

        Raises InvalidError for fewer partitions than there are and for more than 10,000, DisconnectedError where too few brokers can be reached for as long as
        the client's time-out, NotFoundError, UnsupportedError while a broker is of an older version, DeniedError where this client may not change the cluster.
        """
        return _sync.run(lambda: self._inner.add_partitions(topic, total))

    def delete_topic(self, name: str) -> None:
        """Removes a topic and its records, for ever. Raises NotFoundError, DeniedError."""
        _sync.run(lambda: self._inner.delete_topic(name))

    def topics(self) -> list[Topic]:
        """All topics, in the order of their names."""
        return _sync.run(lambda: self._inner.topics())

    def offsets(self, topic: str, position: Start) -> dict[int, int]:
        """Offsets of a position by partition: "earliest", "latest" (the end, exclusive), or {"timestamp": milliseconds or datetime}.

        Offsets are not dense: "latest" less "earliest" is no count of records. Raises NotFoundError.
        """
        return _sync.run(lambda: self._inner.offsets(topic, position))

    def upload_plugin(self, name: str, module: bytes | str | PathLike[str]) -> Plugin:
        """Uploads a module (bytes, or a path) as the next version of `name`; the same module keeps its version. A broker that answers has a minute to try it.

        Raises InvalidError for what is no plugin, or too large, DeniedError where this client may not change the cluster.
        """
        return _sync.run(lambda: self._inner.upload_plugin(name, module))

    def plugins(self) -> list[Plugin]:
        """All plugins in all versions."""
        return _sync.run(lambda: self._inner.plugins())

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
        """A producer to a topic. It looks for the topic at its first record, or by `with`. Without a topic each record names its own, by `topic=`; all of them
        share the buffer.

        `linger_ms` is how long a batch waits for more records while others are in flight (a lone record never waits), `batch_bytes` how large it gets. `acks`
        says when a send is done: "quorum", on the disks of a majority of the copies; "leader", in one broker's memory; "none", on its way. `delivery_timeout`
        bounds, in seconds, every send from call to outcome, retries included. `buffer_bytes` bounds the records without an outcome; above it, sends wait.
        Raises InvalidError for an option that is out of its range.
        """
        return self._made(
            Producer(
                self._inner.producer(
                    topic,
                    linger_ms=linger_ms,
                    batch_bytes=batch_bytes,
                    compression=compression,
                    acks=acks,
                    delivery_timeout=delivery_timeout,
                    buffer_bytes=buffer_bytes,
                )
            )
        )

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

        With `group` it shares the partitions with the other consumers of that group id, and goes on where the group left off. With `until_end` it ends once
        everything has been scanned that was there at the start, in a group by whichever member. `filter` is a plugin, "name" or "name@version"; all members
        have the same. `start` is where to begin: "earliest", "latest", an offset, or {"timestamp": …}; by default at the end, and in a group, for partitions
        that it has not come to yet, with the first record kept. A mapping of partitions, as in {0: 100, 1: "earliest"}, gives these starts of their own, and
        the others begin at the end; not in a group.

        `on_bad_record` says what becomes of a stored batch that does not decode: "fail" raises `BadRecordError` at every call until a `seek` past it, "skip"
        passes it over and counts its records as unreadable. `out_of_range` says what becomes of a position that the log does not hold: "fail" raises
        `OffsetOutOfRangeError`, the others go on with the first record kept, or behind the last one. `buffer_bytes` bounds what is granted to brokers, or has
        come and was not taken, per topic.

        `auto_commit` is how often, in seconds, what is done is committed; None: only by `commit`. `instance` is a name that outlives the process, for static
        membership. Unheard for `session_timeout` seconds a member counts as dead. `on_rebalance` is a plain function; the thread that reads calls it before the
        next record is handed out: for partitions that are revoked while they are still this member's, so that it may commit, and when the consumer is closed,
        by the thread that closes it, for all that this member has then. It may call anything but read. While a record of another partition is in hand, a
        revoked one waits for it for a second. `max_processing` is how long, in seconds, a record or batch may be kept before the member leaves the group, until
        it asks for the next one. `close_timeout` bounds how long `close` lets a loop in another thread finish what it has in hand.

        What cannot be meant is refused at once, by an InvalidError or a TypeError that names the option. Opening it, or the first read, raises NotFoundError
        where there is no such topic (with `wait_for_topics` it is waited for, also when it is deleted) or filter, and InvalidError where filter or assignor are
        not those of the group's other members.
        """
        return self._made(
            Consumer(
                self._inner.consumer(
                    topics,
                    partitions=partitions,
                    start=start,
                    until_end=until_end,
                    filter=filter,
                    filter_config=filter_config,
                    on_filter_failure=on_filter_failure,
                    on_bad_record=on_bad_record,
                    out_of_range=out_of_range,
                    buffer_bytes=buffer_bytes,
                    group=group,
                    instance=instance,
                    session_timeout=session_timeout,
                    auto_commit=auto_commit,
                    assignor=assignor,
                    max_processing=max_processing,
                    wait_for_topics=wait_for_topics,
                    on_rebalance=on_rebalance,
                    close_timeout=close_timeout,
                )
            )
        )

    def set_partitioner(self, topic: str, partitioner: str | None, partitioner_config: bytes | str = b"") -> None:
        """Places a topic's records in another way from now on; None: by key hash and in turn. What stands in it stays where it is.

        Raises NotFoundError for the topic or the plugin, DeniedError where this client may not change the cluster.
        """
        _sync.run(lambda: self._inner.set_partitioner(topic, partitioner, partitioner_config))

    def groups(self) -> list[GroupInfo]:
        """All consumer groups."""
        return _sync.run(lambda: self._inner.groups())

    def describe_group(self, group: str) -> Group:
        """A group with its members and offsets. Raises NotFoundError."""
        return _sync.run(lambda: self._inner.describe_group(group))

    def delete_group(self, group: str) -> None:
        """Forgets a group without members, and how far it has come. Raises NotFoundError, InvalidError where it has members."""
        _sync.run(lambda: self._inner.delete_group(group))

    def reset_group(
        self, group: str, topic: str, to: Start, *, partitions: Sequence[int] | None = None, dry_run: bool = False
    ) -> dict[int, int]:
        """Moves a group without members in all partitions of a topic, or in some; answers with the offset of each. With `dry_run` it only answers.

        `to` is a position as for a consumer's `start`. A group that does not exist is made, and begins there. Raises NotFoundError for the topic or a
        partition, InvalidError where the group has members, or `partitions` is empty.
        """
        return _sync.run(lambda: self._inner.reset_group(group, topic, to, partitions=partitions, dry_run=dry_run))

    def close(self) -> None:
        """Closes the consumers that were made here, and lets the connection go; producers keep theirs until they are closed."""
        self._close()


class Producer(_sync.ProducerBase):
    """Sends records to one topic, or to any.

    `send()` means delivered; `enqueue()` means buffered, and waits while the buffer is full. Progress needs no flush. Values are bytes or str, or anything that
    is a JSON object or list.

    Each call takes its record, and its place in line, before it returns: the order of calls is the order of records in each partition. A call that a signal has
    ended may be sent all the same; if it fails, the next `flush()` or `close()` says so.
    """

    @property
    def topic(self) -> str | None:
        """The topic; None where each record names its own."""
        return self._inner.topic

    def send(
        self,
        value: Value,
        *,
        key: Data | None = None,
        headers: Headers | None = None,
        timestamp_ms: Timestamp | None = None,
        partition: int | None = None,
        topic: str | None = None,
    ) -> Delivery:
        """Sends a record and waits until the record is delivered. `partition` sends it there, whatever its key; `topic` does, with a producer of any topic.

        Raises TypeError for what is no data, InvalidError above a limit, PluginFailedError where the topic's partitioner fails on it, TimedOutError without an
        outcome within `delivery_timeout`.
        """
        return _sync.run(
            lambda: self._inner.send(
                value, key=key, headers=headers, timestamp_ms=timestamp_ms, partition=partition, topic=topic
            )
        )

    def send_batch(self, messages: Iterable[Message | Value]) -> list[Delivery | ThalwegError]:
        """Sends records, waits, and gives each one's outcome in order: the delivery, or the error of that record.

        Raises TypeError for what is no data; then none of them is sent.
        """
        return _sync.run(lambda: self._inner.send_batch(messages))

    def enqueue(
        self,
        value: Value,
        *,
        key: Data | None = None,
        headers: Headers | None = None,
        timestamp_ms: Timestamp | None = None,
        partition: int | None = None,
        topic: str | None = None,
        on_delivery: OnDelivery | None = None,
    ) -> None:
        """Buffers a record and waits while the buffer is full.

        `on_delivery` is called, in order, on a thread of its own, from where it may call anything, with the delivery, or with the error; without it, an error
        is raised by the next `flush()` or `close()`. Raises TypeError for what is no data.
        """
        self._enqueue(
            value,
            key=key,
            headers=headers,
            timestamp_ms=timestamp_ms,
            partition=partition,
            topic=topic,
            on_delivery=on_delivery,
        )

    def enqueue_batch(self, messages: Iterable[Message | Value]) -> None:
        """Buffers records together and waits while the buffer is full. The fast way in.

        An error of one of them is raised by the next `flush()` or `close()`. Raises TypeError for what is no data; then none of them is sent.
        """
        _sync.run(lambda: self._inner.enqueue_batch(messages))

    @property
    def pending(self) -> int:
        """Records that were sent, by whichever call, and have no outcome yet."""
        return self._inner.pending

    def flush(self, timeout: float | None = None) -> None:
        """Waits until every record that was sent before has its outcome.

        Raises TimedOutError where that takes longer than `timeout` seconds: the records are still on their way then, and another `flush` waits for them; and
        the error of a buffered record that nobody took, with a note of how many it stands for.
        """
        self._flush(timeout)

    def close(self) -> None:
        """Refuses further records from now on, and waits until those that were sent before have their outcomes.

        Call it before the process ends: what has not left by then is lost. Raises as `flush` does. Leaving `with` does the same, but when it is left by Ctrl-C
        or cancelled, that waits for 2 s at most.
        """
        self._close()


class Consumer(_sync.ConsumerBase):
    """Reads records: `for record in consumer`, or `for batch in consumer.batches()`, or one at a time by `next` and `next_batch`.

    A record is done when the next one is asked for, a batch when the next batch is; in a group, what is done is committed now and then, and when the consumer
    is closed. Leaving `with` without an exception takes what is in hand for done, unless another thread has it: that may end its body, and what it has not
    ended is not done. `close()` takes nothing for done: it may come from a signal handler, or from `finally` after an exception.

    When it is open (`with`, or the first call that needs it), every partition's start has been resolved: what is sent from then on comes. After an error of a
    partition every further call raises it again, until a `seek` past it. Whoever gives up waiting for a record (a time-out, Ctrl-C) loses nothing: the next one
    to ask gets it.
    """

    @property
    def topics(self) -> list[str]:
        """The topics that it reads."""
        return self._inner.topics

    @property
    def group(self) -> str | None:
        """The group id; None without a group."""
        return self._inner.group

    @property
    def topic(self) -> str:
        """The topic, or the first of several."""
        return self._inner.topic

    @property
    def ended(self) -> bool:
        """Whether nothing more comes: it was closed, or with `until_end` everything has been read.

        It tells why `next(timeout=…)` has answered None, and is no condition to read by: a loop of `while not consumer.ended` that is closed in the middle of
        its body does not ask for what is next, and what it has finished is not done. `while (record := consumer.next()) is not None` ends as it should.
        """
        return self._inner.ended

    def next(self, timeout: float | None = None) -> Record | None:
        """The next record; the one before it is done. None: nothing came within `timeout` seconds, or nothing more comes (`ended` tells).

        A signal handler that raises ends the call, and a `for` loop. Without a group, the one record that was on its way
        to the caller at that moment may be lost then; in a group it is not done, and comes again. A handler that sets a
        flag loses nothing.

        Raises PluginFailedError where the filter fails on a record, BadRecordError where a stored batch does not decode, OffsetOutOfRangeError where the log
        does not hold the position, NotFoundError where the topic was deleted, DamagedError where the only copy is damaged: each again until a `seek` past it.
        ClosedError: the consumer is closed.
        """
        return self._next(timeout)

    def next_batch(self, max_records: int | None = None, timeout: float | None = None) -> Batch | None:
        """The next records that came together, at most `max_records`; see `next`. What is left of a batch comes next. Raises as `next` does."""
        return self._next_batch(max_records, timeout)

    def batches(self, max_records: int | None = None) -> Iterator[Batch]:
        """Batches as they come: the fast way out. A batch that was begun record by record goes on with what is left of it."""
        return self._batches(max_records)

    def subscribe(self, topics: str | Sequence[str]) -> None:
        """Reads these topics from now on, instead of those that it read: by name, or by a pattern, which begins with "^". What stays wanted goes on where it
        is.

        Without a group, records that wait of topics that are not wanted any more are dropped, and new ones begin where `start` says; in a group their
        partitions are given up as in any rebalance. When it returns, the group's coordinator knows; without a group, every new start has been resolved.

        Raises NotFoundError for a topic that does not exist, unless `wait_for_topics` is set, InvalidError for what is no name and no pattern, and for a
        consumer of chosen partitions or with `until_end`; TimedOutError where nobody answers: the topics change as soon as somebody does.
        """
        _sync.run(lambda: self._inner.subscribe(topics))

    def seek(self, place: Place, to: Start) -> None:
        """Moves a partition: a number, or (topic, number) where several topics are read. Records that wait are dropped. Unless to an offset, it waits until the
        leader has looked that up: `position` is where it went, and what is sent from then on comes.

        `to` is "earliest", "latest", an offset or {"timestamp": milliseconds or datetime}. Raises NotFoundError for a partition that is not read; a position
        that the log does not hold is told by the next read.
        """
        _sync.run(lambda: self._inner.seek(place, to))

    def pause(self, place: Place) -> None:
        """Hands out nothing of a partition from the next record on. What waits of it comes first when it is resumed.

        A rebalance forgets it. Raises NotFoundError for a partition that is not read.
        """
        _sync.run(lambda: self._inner.pause(place))

    def resume(self, place: Place) -> None:
        """Hands out records of a paused partition again. Raises NotFoundError for a partition that is not read."""
        _sync.run(lambda: self._inner.resume(place))

    def paused(self) -> list[TopicPartition]:
        """Partitions that are paused."""
        return _sync.run(lambda: self._inner.paused())

    def position(self, place: Place) -> int | None:
        """Next offset that has not been handed out, nor passed over by the filter; None before the broker has said where reading starts.

        After a `seek` it is where that goes. Raises NotFoundError for a partition that is not read.
        """
        return _sync.run(lambda: self._inner.position(place))

    def lag(self, place: Place) -> int | None:
        """Records of a partition that are left to hand out or to filter; None before the broker has said where it ends, and as with `position`.

        Raises NotFoundError for a partition that is not read.
        """
        return _sync.run(lambda: self._inner.lag(place))

    def committed(self, place: Place) -> int | None:
        """How far the group has come in a partition that this member reads; None: not yet at all.

        Raises InvalidError without a group, NotFoundError for a partition that is another's.
        """
        return _sync.run(lambda: self._inner.committed(place))

    def assignment(self) -> list[TopicPartition]:
        """Partitions that are read at the moment; in a group, those that it has given to this member."""
        return _sync.run(lambda: self._inner.assignment())

    def commit(self, offsets: Mapping[Place, int] | Record | None = None) -> None:
        """Commits all that was handed out so far, what is in hand included, or what is before and with one record, or next offsets by partition.

        Raises RebalancedError where a partition is another member's by now, OffsetOutOfRangeError for an offset past its end, InvalidError without a group,
        TimedOutError where the group's coordinator does not answer.
        """
        _sync.run(lambda: self._inner.commit(offsets))

    def counts(self) -> Counts:
        """Records scanned so far of the partitions that are read at the moment, or were when it was closed."""
        return _sync.run(lambda: self._inner.counts())

    def close(self) -> None:
        """Ends the subscription, and a loop that runs.

        What is in hand is not done, unless it is finished now: a loop that runs in another thread may end its body, for at most `close_timeout` seconds, and
        then ends as if there were nothing more; so does a loop around `next`, which answers None once. In a loop of the same thread, leave the loop and the
        `with` block instead: that takes what is in hand for done.

        In a group, `on_rebalance` is told then, by this thread, that what this member holds is revoked; a commit in it counts, and `commit()` without offsets
        is without what is in hand there: that is not done. It is not told where it calls `close` itself. What is done is committed unless that is manual.
        Raises what `on_rebalance` raises, and TimedOutError where the group's coordinator does not answer: the member counts as gone when its session ends.
        """
        self._close()
