"""One exception class per kind of error; the kind tells what to do about it."""

from __future__ import annotations

from typing import Any


class ThalwegError(Exception):
    """Base of all errors. `code` names the kind, `retriable` tells whether the same call may succeed later.

    An error about a place in a log names it, as far as that is known: `topic`, `partition`, `offset`, and where that log begins and
    ends (exclusive). One about records that were not delivered has the first one's `key`, and `records`, how many they are. Where a
    plugin failed, `plugin` says which one (name, version and digest), and `reason` how.
    """

    code: str = "internal"
    """Names the kind; equal in all languages."""
    retriable: bool = False
    """Whether the same call may succeed later."""
    topic: str | None = None
    """The topic that it is about."""
    partition: int | None = None
    """The partition that it is about."""
    offset: int | None = None
    """The offset that it is about."""
    log_start: int | None = None
    """First offset that the log keeps."""
    log_end: int | None = None
    """End of the log (exclusive)."""
    key: bytes | None = None
    """Key of the record that was not delivered; of several, of the first one."""
    records: int | None = None
    """How many records were not delivered."""
    plugin: str | None = None
    """The plugin that failed: its name, version and digest."""
    reason: str | None = None
    """How it failed."""


class TimedOutError(ThalwegError, TimeoutError):
    """Nothing came back in time: try again or wait longer."""

    code = "timeout"
    retriable = True


class DisconnectedError(ThalwegError, ConnectionError):
    """No broker could be reached: check address and network."""

    code = "disconnected"
    retriable = True


class NotFoundError(ThalwegError, LookupError):
    """The topic, partition or plugin does not exist: create it or mend the name."""

    code = "not_found"


class DeniedError(ThalwegError, PermissionError):
    """Not allowed: certificate or permission."""

    code = "denied"


class InvalidError(ThalwegError, ValueError):
    """The request itself is wrong: fix it."""

    code = "invalid"


class RebalancedError(ThalwegError):
    """Another owns this now: rejoin."""

    code = "rebalanced"


class PluginFailedError(ThalwegError):
    """A plugin failed on a record: fix the plugin or the record."""

    code = "plugin_failed"


class StorageFullError(ThalwegError):
    """The broker's disk or a published bound is full: free space or slow down."""

    code = "storage_full"
    retriable = True


class DamagedError(ThalwegError):
    """Stored data is damaged and there is no other copy: the broker's operator puts it right."""

    code = "damaged"


class InternalError(ThalwegError):
    """A broken invariant: report it."""

    code = "internal"


class UnsupportedError(ThalwegError):
    """This version cannot do it: upgrade."""

    code = "unsupported"


class OffsetOutOfRangeError(ThalwegError, LookupError):
    """The log does not hold the position (any more, or yet): seek to where it does."""

    code = "offset_out_of_range"


class BadRecordError(ThalwegError):
    """What is stored there does not decode: seek past it, or read with `on_bad_record="skip"`."""

    code = "bad_record"


class AlreadyExistsError(ThalwegError):
    """It is there already: use it, or take another name."""

    code = "already_exists"


class ClosedError(ThalwegError):
    """The client, producer or consumer was closed: open another one."""

    code = "closed"


_CLASSES: dict[str, type[ThalwegError]] = {
    c.code: c
    for c in (
        TimedOutError,
        DisconnectedError,
        NotFoundError,
        DeniedError,
        InvalidError,
        RebalancedError,
        PluginFailedError,
        StorageFullError,
        DamagedError,
        InternalError,
        UnsupportedError,
        OffsetOutOfRangeError,
        BadRecordError,
        AlreadyExistsError,
        ClosedError,
    )
}


def make(code: str, message: str, about: dict[str, Any]) -> ThalwegError:
    """The exception for a native error, with the attributes that are known."""
    error = _CLASSES[code](message)
    error.__dict__.update(about)
    return error
