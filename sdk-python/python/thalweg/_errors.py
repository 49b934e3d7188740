"""One exception class per kind of error; the kind tells what to do about it."""

from __future__ import annotations


class ThalwegError(Exception):
    """Base of all errors. `code` names the kind, `retriable` tells whether the same call may succeed later."""

    code: str = "internal"
    retriable: bool = False


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
    )
}


def make(code: str, message: str) -> ThalwegError:
    """The exception for a native error."""
    return _CLASSES[code](message)
