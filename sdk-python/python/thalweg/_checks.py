"""What cannot be meant is refused by name: nothing is rounded, wrapped or cut in silence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from ._errors import InvalidError

Pem: TypeAlias = str | bytes | PathLike[str]
"""PEM, as text or bytes, or the path of a file with it."""

INT32_MAX = 2**31 - 1
UINT32_MAX = 2**32 - 1
# Whoever waits for less still gets what is there: it takes about as long to be looked at.
TIMEOUT_MIN = 0.005
INT64_MAX = 2**63 - 1
_FOREVER_S = 100 * 365 * 24 * 3600.0


def counted(count: int, name: str) -> str:
    """A number of things by their name: "1 record", "2 records"."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def given(name: str, value: Any, what: str) -> None:
    """Anything but None."""
    if value is None:
        raise TypeError(f"{name} is None; {what} is expected")


def flag(name: str, value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}; a bool is expected")


def choice(name: str, value: Any, *choices: str) -> None:
    """One of these words."""
    some_text(name, value)
    if value not in choices:
        raise InvalidError(f'{name} is "{value}"; {", ".join(choices[:-1])} or {choices[-1]}')


def whole(name: str, value: Any, least: int, most: int) -> None:
    """An int from `least` to `most`, or None."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}; an int is expected")
    if not least <= value <= most:
        raise InvalidError(f"{name} is {value}; a number from {least} to {most} is expected")


def duration(name: str, value: Any, unit: str = "seconds") -> None:
    """A time that is not negative, at most a hundred years, or None."""
    if value is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}; {unit} as a number are expected")
    most = _FOREVER_S * (1000 if unit == "milliseconds" else 1)
    if not 0 <= value <= most:
        raise InvalidError(f"{name} is {value}; {unit} from 0 to {most:.0f} are expected")


def byte_count(name: str, value: Any) -> None:
    """A number of bytes, at least one."""
    given(name, value, "an int")
    whole(name, value, 1, INT64_MAX)


def partition(value: Any) -> None:
    """A partition's number."""
    given("partition", value, "an int")
    whole("partition", value, 0, INT32_MAX)


def partitions(value: Any) -> list[int]:
    """Numbers of partitions."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise TypeError(f"partitions is {type(value).__name__}; a list of ints is expected")
    numbers = list(value)
    for number in numbers:
        partition(number)
    return numbers


def no_text(name: str, error: UnicodeEncodeError) -> InvalidError:
    """What to say of text that has no bytes in UTF-8: JSON can hold such text, and so can names of files."""
    character = error.object[error.start]
    return InvalidError(f"{name} is not valid text: character {error.start} is {character!r}, half of a surrogate pair, which UTF-8 has no bytes for")


def topics(given: Any) -> list[str]:
    """Topics, by name or by pattern."""
    if isinstance(given, bytes) or not isinstance(given, Iterable):
        raise TypeError(f"topics is {type(given).__name__}; a str, or a list of them, is expected")
    names = [given] if isinstance(given, str) else list(given)
    # What is a name or a pattern, the core knows.
    for name in names:
        if name is None:
            raise TypeError("topics holds None; str is expected")
        text("topics", name)
    return names


def text(name: str, value: Any) -> None:
    """A str that has bytes in UTF-8, or None."""
    if value is None:
        return
    if not isinstance(value, str):
        raise TypeError(f"{name} is {type(value).__name__}; str is expected")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise no_text(name, error) from None


def some_text(name: str, value: Any) -> None:
    """A str that has bytes in UTF-8."""
    given(name, value, "str")
    text(name, value)


def data(name: str, value: Any) -> bytes | None:
    """The bytes of what was given as text or as bytes, or None."""
    if value is None or type(value) is bytes:
        return value
    if isinstance(value, str):
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise no_text(name, error) from None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{name} is {type(value).__name__}; bytes or str is expected")


def some_data(name: str, value: Any) -> bytes:
    """The bytes of what was given as text or as bytes."""
    found = data(name, value)
    if found is None:
        raise TypeError(f"{name} is None; bytes or str is expected")
    return found


def pem_kind(name: str, given: Any) -> None:
    """PEM as text, as bytes, or as a path, or None."""
    if given is not None and not isinstance(given, (str, bytes, bytearray, PathLike)):
        raise TypeError(f"{name} is {type(given).__name__}; PEM as a str or bytes, or a path, is expected")


def pem(name: str, given: Any) -> bytes:
    """The bytes of PEM that was given as text, as bytes, or as a path. No message shows what was given: it may be a key."""
    if isinstance(given, PathLike) or (isinstance(given, str) and "\n" not in given and "-----BEGIN " not in given):
        return Path(given).read_bytes()
    found = some_data(name, given)
    if b"-----BEGIN " not in found:
        raise InvalidError(f"{name} is not in PEM form: it has no -----BEGIN")
    return found


def milliseconds(name: str, at: datetime) -> int:
    """Milliseconds since 1970."""
    try:
        return round(at.timestamp() * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidError(f"{name} is {at}, which has no time since 1970: {error}") from None


def parse_start(start: Any, name: str = "start") -> tuple[str, int]:
    """A position as the native half wants it."""
    if isinstance(start, str) and start in ("earliest", "latest"):
        return start, 0
    if isinstance(start, int) and not isinstance(start, bool):
        whole(name, start, 0, INT64_MAX)
        return "offset", start
    if isinstance(start, Mapping) and set(start) == {"timestamp"}:
        at = start["timestamp"]
        if isinstance(at, datetime):
            return "timestamp", milliseconds(f"{name}'s timestamp", at)
        whole(f"{name}'s timestamp", at, 0, INT64_MAX)
        if at is not None:
            return "timestamp", at
    raise InvalidError(
        f'{name} is {start!r}; "earliest", "latest", an offset or {{"timestamp": milliseconds or datetime}} is expected'
    )


def parse_starts(starts: Any) -> list[tuple[str | None, int, str, int]]:
    """Positions of single partitions as the native half wants them: none for a position that is meant for all."""
    if not isinstance(starts, Mapping) or not starts or set(starts) == {"timestamp"}:
        return []
    if any(isinstance(place, str) for place in starts):
        raise InvalidError(
            f'start is {starts!r}; a time is {{"timestamp": milliseconds or datetime}}, and starts of partitions are by '
            "number, or by (topic, number)"
        )
    return [(*split_place(place), *parse_start(start, f"start of {place!r}")) for place, start in starts.items()]


def split_place(place: Any) -> tuple[str | None, int]:
    """Topic and partition as the native half wants them."""
    if isinstance(place, tuple) and len(place) == 2 and isinstance(place[0], str):
        text("topic", place[0])
        partition(place[1])
        return place[0], place[1]
    if isinstance(place, int) and not isinstance(place, bool):
        partition(place)
        return None, place
    raise TypeError(f"{place!r} is no partition: its number, or (topic, number), is expected")
