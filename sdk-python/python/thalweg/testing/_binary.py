"""Where the `thalweg` command is."""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from os import PathLike
from pathlib import Path


class BrokerError(Exception):
    """A broker did not start, or is not there. `log` is what it said, as far as it came to that.

    No ThalwegError, so that code under test that handles those does not swallow it.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


class BinaryNotFoundError(BrokerError, FileNotFoundError):
    """There is no `thalweg` command: the message says where it was looked for, and how to get one."""


_REMEDY = (
    "`pip install thalweg-cli` brings it. "
    "In a checkout, `cargo build --profile fast -p thalweg-cli` makes target/fast/thalweg: put it into PATH, set THALWEG_BIN to it, or pass binary="
)


def find_binary(binary: str | PathLike[str] | None = None) -> Path:
    """The `thalweg` command: `binary`, or THALWEG_BIN, or that of the installed package thalweg-cli, or what PATH has.

    Raises BinaryNotFoundError, also where `binary` or THALWEG_BIN names what cannot be run and PATH has another one.
    """
    for what, given in (("binary", binary), ("THALWEG_BIN", os.environ.get("THALWEG_BIN"))):
        if given:
            found = shutil.which(given)
            if found is None:
                raise BinaryNotFoundError(f"{what} is {os.fspath(given)}, which is no program. {_REMEDY}")
            return Path(found).absolute()
    found = _packaged() or shutil.which("thalweg")
    if found is None:
        raise BinaryNotFoundError(
            f"the `thalweg` command is missing: THALWEG_BIN is not set, the package thalweg-cli has none, and it is not in PATH. {_REMEDY}"
        )
    return Path(found).absolute()


def _packaged() -> str | None:
    """The command as a file of thalweg-cli, wherever that was installed: its folder of scripts need not be in PATH."""
    try:
        files = metadata.files("thalweg-cli") or []
    except metadata.PackageNotFoundError:
        return None
    places = (os.path.normpath(file.locate()) for file in files if file.name == "thalweg")
    return next((place for place in places if shutil.which(place)), None)
