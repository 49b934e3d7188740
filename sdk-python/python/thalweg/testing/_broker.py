"""Starts brokers, and ends them in any case."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import weakref
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from .. import _client, sync
from ._binary import BrokerError, find_binary

# What runs `"$@"` in its own place, with a guard beside it that waits for the end of standard input. That comes when the process that holds the other
# end of the pipe is gone, by kill -9 as well, and on every Unix. The guard is of the broker's process group: whoever kills the group ends it too, and the
# number of the group cannot become another process's while it lives. $0 is a directory to remove, or empty.
_GUARDED = """
exec 3<&0 </dev/null
( read -r gone <&3; kill -9 $$; sleep 1; [ -z "$0" ] || rm -rf -- "$0"; kill -9 0 ) >/dev/null 2>&1 &
exec "$@" 3<&-
"""

_STOP_TIMEOUT = 15.0
"""How long a broker may take to stop in order, in seconds; then it is killed."""

_LOG_LINES_SHOWN = 30


def unique(prefix: str = "test") -> str:
    """A name for a topic or a group that no other test has."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


class _Directory:
    """A directory that was given, or a temporary one."""

    def __init__(self, given: str | PathLike[str] | None) -> None:
        self.is_temporary = given is None
        self._path = None if given is None else Path(given).absolute()
        self._removal: weakref.finalize[[Path, int], _Directory] | None = None

    @property
    def path(self) -> Path:
        if self._path is None:
            raise BrokerError("it has not been started")
        return self._path

    def make(self) -> Path:
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="thalweg-"))
            self._removal = weakref.finalize(self, _remove, self._path, os.getpid())
        self._path.mkdir(parents=True, exist_ok=True)
        return self._path

    def remove(self) -> None:
        if self._removal is not None:
            self._removal()
            self._path = None


def _remove(path: Path, owner: int) -> None:
    # A child that was forked has the finalizer as well.
    if os.getpid() == owner:
        shutil.rmtree(path, ignore_errors=True)


class _Running:
    """What a broker and a cluster have in common: an address, a CA, and `with`."""

    @property
    def address(self) -> str:
        """`thalweg://localhost:PORT`, for `thalweg.connect`."""
        raise NotImplementedError

    @property
    def ca(self) -> Path:
        """File with the CA to trust: `thalweg.connect(…, ca=)`, or THALWEG_CA for a process under test."""
        raise NotImplementedError

    def start(self) -> Self:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def connect(self, *, timeout: float = 10.0) -> _client.connect:
        """A client: `async with broker.connect() as client`, or `await broker.connect()`."""
        return _client.connect(self.address, ca=self.ca, timeout=timeout)

    def connect_sync(self, *, timeout: float = 10.0) -> sync.Client:
        """A client without asyncio: `with broker.connect_sync() as client`."""
        return sync.connect(self.address, ca=self.ca, timeout=timeout)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)


class Broker(_Running):
    """A `thalweg dev` of its own: `with Broker() as broker`, `async with`, or `start()` and `close()`.

    Topics are made on first use. `directory` is where its records and its log are, and stay; without it, in a temporary one that goes with `close()` or
    the end of this process. `port` 0 takes a free one. `binary` is the `thalweg` command, see `find_binary`; `arguments` are further ones for it.

    The calls wait for the process: in a coroutine, `await asyncio.to_thread(broker.restart)`.
    """

    def __init__(
        self,
        *,
        directory: str | PathLike[str] | None = None,
        port: int = 0,
        binary: str | PathLike[str] | None = None,
        arguments: Sequence[str] = (),
        start_timeout: float = 30.0,
    ) -> None:
        self._directory = _Directory(directory)
        self._port = port
        self._binary = binary
        self._arguments = list(arguments)
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        # The pipe whose end the guard waits for.
        self._held: IO[bytes] | None = None
        self._owner = os.getpid()
        self._address: str | None = None
        self._metrics = ""
        # Where in the log the present process begins, in bytes.
        self._log_start = 0

    def start(self) -> Self:
        """Starts it, and returns once it can be reached. Raises BrokerError with its log if it ends, or takes more than `start_timeout` seconds."""
        self._spawn()
        try:
            self._wait_until_ready()
        except BaseException:
            # Ctrl-C, too.
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ends it in order, as an operator does (SIGTERM). Its data stays for `restart()`."""
        if self._process is None or os.getpid() != self._owner:
            return
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_TIMEOUT)
        self.kill()

    def kill(self) -> None:
        """Ends it at once, as a crash does (SIGKILL). Its data stays for `restart()`."""
        process, self._process = self._process, None
        if process is None or os.getpid() != self._owner:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._held is not None:
            self._held.close()

    def restart(self) -> None:
        """Starts it again on the same data and port; stops it first if it runs."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Ends it, and removes its directory if that is a temporary one."""
        if os.getpid() != self._owner:
            return
        # What it would write in good order is removed in the next moment.
        self.kill() if self._directory.is_temporary else self.stop()
        self._directory.remove()

    @property
    def address(self) -> str:
        if self._address is None:
            raise BrokerError("the broker has not been started")
        return self._address

    @property
    def port(self) -> int:
        """Its UDP port."""
        return int(self.address.rsplit(":", 1)[1])

    @property
    def ca(self) -> Path:
        return self.directory / "data/tls/ca.pem"

    @property
    def metrics(self) -> str:
        """`http://…/metrics`"""
        return self._metrics

    @property
    def directory(self) -> Path:
        """Where its records (`data`) and its log (`broker.log`) are."""
        return self._directory.path

    @property
    def pid(self) -> int | None:
        """Its process; None: it does not run."""
        return None if self._process is None else self._process.pid

    def log(self) -> str:
        """What it has said since its last start, errors and warnings included; THALWEG_LOG in the environment sets the level."""
        try:
            said = (self.directory / "broker.log").read_bytes()
        except FileNotFoundError:
            return ""
        return said[self._log_start :].decode(errors="replace")

    def _command(self) -> list[str]:
        """What comes after `thalweg`."""
        return ["dev", "--port", str(self._port), "--http-port", "0", "--data-dir", str(self.directory / "data")]

    def _removable(self) -> str:
        """What the guard removes; empty: nothing."""
        return str(self.directory) if self._directory.is_temporary else ""

    def _spawn(self) -> None:
        if self._process is not None:
            raise BrokerError("the broker runs already")
        program = find_binary(self._binary)
        directory = self._directory.make()
        # A file, not a pipe: nobody has to read it, and a test that hangs does not make the broker hang.
        with open(directory / "broker.log", "ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDED, self._removable(), str(program), *self._command(), *self._arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(directory),
                # Ctrl-C is for the tests: they close their clients before the broker goes.
                start_new_session=True,
            )
        # Taken from the Popen, which the interpreter keeps when a running process is dropped: so the pipe ends with this object.
        self._held, self._process.stdin = self._process.stdin, None

    def _wait_until_ready(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + self._start_timeout
        while True:
            ended = self._process.poll()
            said = self.log()
            ready = re.search(r"^Thalweg broker.* on (thalweg://\S+)$.*?^ +metrics +(\S+)$", said, re.MULTILINE | re.DOTALL)
            if ready is not None and ended is None:
                self._address, self._metrics = ready.groups()
                self._port = self.port
                return
            if ended is not None:
                raise _failed(f"the broker ended at its start ({_ending(ended)})", said)
            if time.monotonic() > deadline:
                raise _failed(f"the broker was not ready within {self._start_timeout:g} s", said)
            time.sleep(0.01)


def _environment(directory: Path) -> dict[str, str]:
    # What is set for clients, or for another broker, is not for this one.
    others = {name: value for name, value in os.environ.items() if not name.startswith("THALWEG_") or name == "THALWEG_LOG"}
    # `thalweg dev` leaves its address where clients of this user find it. One of a test is not for them.
    return {"THALWEG_LOG": "info", **others, "XDG_STATE_HOME": str(directory / "state")}


def _failed(what: str, log: str) -> BrokerError:
    shown = "\n".join(f"  {line}" for line in log.splitlines()[-_LOG_LINES_SHOWN:])
    return BrokerError(f"{what}. Its log:\n{shown or '  (empty)'}", log)


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {-code}"


class _Member(Broker):
    """A broker of a cluster."""

    def __init__(self, cluster: Path, number: int, binary: str | PathLike[str] | None, arguments: Sequence[str], start_timeout: float, removable: str) -> None:
        directory = cluster / f"broker-{number}"
        super().__init__(directory=directory, binary=binary, arguments=arguments, start_timeout=start_timeout)
        self._goes_with = removable

    @property
    def ca(self) -> Path:
        return self.directory.parent / "ca.pem"

    def _command(self) -> list[str]:
        config = str(self.directory / "broker.toml")
        return ["serve", "--config", config, "--http", "127.0.0.1:0", "--topics-on-first-use", "true"]

    def _removable(self) -> str:
        return self._goes_with


class Cluster(_Running):
    """Brokers that replicate to each other: `with Cluster() as cluster`, `async with`, or `start()` and `close()`.

    `brokers` has each of them, to kill and restart: a topic has three copies, and one broker of three may die at any moment. The options are those of
    `Broker`; `arguments` are for `thalweg serve`.
    """

    def __init__(
        self,
        brokers: int = 3,
        *,
        directory: str | PathLike[str] | None = None,
        binary: str | PathLike[str] | None = None,
        arguments: Sequence[str] = (),
        start_timeout: float = 30.0,
    ) -> None:
        self.brokers: list[Broker] = []
        self._count = brokers
        self._directory = _Directory(directory)
        self._binary = binary
        self._arguments = list(arguments)
        self._start_timeout = start_timeout

    def start(self) -> Self:
        """Makes the cluster, and returns once every broker can be reached; raises BrokerError with the log of one that cannot."""
        if self.brokers:
            raise BrokerError("the cluster runs already")
        root = self._directory.make()
        if not (root / "ca.key").exists():
            self._init(root)
        removable = str(root) if self._directory.is_temporary else ""
        numbers = range(1, self._count + 1)
        self.brokers = [_Member(root, number, self._binary, self._arguments, self._start_timeout, removable) for number in numbers]
        try:
            # All before any is waited for: the first is ready when a majority is there.
            for broker in self.brokers:
                broker._spawn()
            for broker in self.brokers:
                broker._wait_until_ready()
        except BaseException:
            self._end()
            raise
        return self

    def _init(self, root: Path) -> None:
        specs = [f"{number}@localhost:{port}" for number, port in enumerate(_free_ports(self._count), 1)]
        command = [str(find_binary(self._binary)), "cluster", "init", str(root), *specs]
        made = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise _failed("the cluster cannot be made", made.stdout + made.stderr)

    def close(self) -> None:
        """Ends every broker, and removes the directory if it is a temporary one."""
        self._end()
        self._directory.remove()

    def _end(self) -> None:
        for broker in self.brokers:
            broker.kill() if self._directory.is_temporary else broker.stop()
        self.brokers = []

    @property
    def address(self) -> str:
        """All brokers as one address."""
        if not self.brokers:
            raise BrokerError("the cluster has not been started")
        return "thalweg://" + ",".join(broker.address.removeprefix("thalweg://") for broker in self.brokers)

    @property
    def ca(self) -> Path:
        return self._directory.path / "ca.pem"


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        # All are held until the last is found, so that they differ.
        sockets = [held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
