"""The guide's programs: each is what the guide shows, and a service that is stopped by SIGTERM loses nothing.

`THALWEG_RESTARTS` is how often each of them is stopped and started again; 10 without it.
"""

import http.client
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
import thalweg.sync
from conftest import ROOT, Broker

GUIDES = ROOT / "docs/guides"
PROGRAMS = GUIDES / "python"
RESTARTS = int(os.environ.get("THALWEG_RESTARTS", "10"))
PARTITIONS = 3
SERVICE = ["-m", "uvicorn", "service:app", "--port", "0", "--no-access-log"]


def blocks(guide: str, language: str) -> list[str]:
    text = (GUIDES / guide).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    ("guide", "language", "programs"),
    [("python.md", "python", "python/*.py"), ("node.md", "js", "node/*.mjs"), ("rust.md", "rust", "../../sdk-rust/examples/*.rs")],
)
def test_each_code_block_of_a_guide_stands_in_a_program(guide: str, language: str, programs: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in GUIDES.glob(programs)]
    shown = blocks(guide, language)
    assert len(shown) >= 3
    for block in shown:
        assert any(block in text for text in texts), f"no program has this:\n{block}"


def test_the_package_s_readme_names_files_that_are_there() -> None:
    text = (ROOT / "sdk-python/README.md").read_text(encoding="utf-8")
    named = re.findall(r"\bdocs/[\w./-]*\w", text)
    assert len(named) >= 3
    assert [file for file in named if not (ROOT / file).exists()] == []


def environment(broker: Broker, shipped: pathlib.Path) -> dict[str, str]:
    own = {"THALWEG_BROKER": broker.address, "THALWEG_CA": str(broker.ca), "SHIPPED": str(shipped), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own}


def test_the_first_record(broker: Broker, tmp_path: pathlib.Path) -> None:
    said = subprocess.run(
        [sys.executable, PROGRAMS / "first.py"], env=environment(broker, tmp_path), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert re.fullmatch(r"stored in partition 0 at offset \d+", said[0])
    assert said[1].endswith("b'me' {'hello': 'world'}")


class Program:
    """A program of the guide in a process of its own, and what it says."""

    def __init__(self, command: list[str], broker: Broker, shipped: pathlib.Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=PROGRAMS, env=environment(broker, shipped), stderr=subprocess.PIPE, text=True
        )
        self.port: int | None = None
        self.said: list[str] = []
        self.thread = threading.Thread(target=self.listen)
        self.thread.start()

    def listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"running on http://127.0.0.1:(\d+)", line):
                self.port = int(found[1])

    def stop(self) -> int:
        """Asks it to end, and waits until it has."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.thread.join()


class Load:
    """Threads that send orders all the time: over HTTP where there is a service, else by the SDK."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.program: Program | None = None
        # Answered with 201, or delivered: id to partition and offset.
        self.taken: dict[str, tuple[int, int]] = {}
        self.is_over = False
        self.threads: list[threading.Thread] = []

    def start(self, work: Callable[[int], None], threads: int) -> None:
        self.threads = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        self.is_over = True
        for thread in self.threads:
            thread.join()

    def by_http(self, thread: int) -> None:
        connection, port, count = None, None, 0
        while not self.is_over:
            now = self.program.port if self.program else None
            if now is None:
                time.sleep(0.01)
                continue
            if connection is None or port != now:
                connection, port = http.client.HTTPConnection("127.0.0.1", now, timeout=30), now
            count += 1
            order = {"id": f"{thread}-{count}", "customer": f"customer {count % 17}"}
            try:
                connection.request("POST", "/orders", json.dumps(order), {"content-type": "application/json"})
                response = connection.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                # Whether it was stored, nobody knows.
                connection = None
                time.sleep(0.01)
                continue
            assert response.status == 201, body
            at = json.loads(body)
            self.taken[order["id"]] = (at["partition"], at["offset"])

    def by_sdk(self, at_once: int) -> None:
        """No more than its worker can do."""
        count = 0
        with thalweg.sync.connect(self.broker.address, ca=self.broker.ca) as client, client.producer("orders") as producer:
            while not self.is_over:
                orders = [json.dumps({"id": str(count + i), "customer": "c"}) for i in range(at_once)]
                count += len(orders)
                for order, at in zip(orders, producer.send_batch(orders), strict=True):
                    assert isinstance(at, thalweg.Delivery) and at.offset is not None
                    self.taken[json.loads(order)["id"]] = (at.partition, at.offset)
                time.sleep(0.02)


@pytest.mark.parametrize(
    ("command", "code", "batch"),
    [(SERVICE, -signal.SIGTERM, 1), (["worker.py"], 0, 100), (["worker_sync.py"], 0, 1)],
    ids=["service", "worker", "worker_sync"],
)
def test_a_program_that_is_stopped_at_any_moment_loses_nothing(
    command: list[str], code: int, batch: int, broker: Broker, tmp_path: pathlib.Path
) -> None:
    chance = random.Random(RESTARTS)
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        for topic in ("orders", "orders-rejected"):
            client.create_topic(topic, partitions=PARTITIONS)
        load = Load(broker)
        if command == SERVICE:
            load.start(load.by_http, 4)
        else:
            load.start(lambda _: load.by_sdk(20 if batch > 1 else 2), 1)
        shipped: Counter[tuple[int, int]] = Counter()
        ids: dict[tuple[int, int], str] = {}
        again = 0
        try:
            for run in range(RESTARTS + 1):
                file = tmp_path / f"shipped-{run}"
                file.touch()
                program = load.program = Program(command, broker, file)
                if run < RESTARTS:
                    # Now and then before it has begun.
                    is_early = chance.random() < 0.1
                    started = time.monotonic()
                    while not is_early and file.stat().st_size == 0 and program.process.poll() is None:
                        assert time.monotonic() - started < 30, program.said
                        time.sleep(0.01)
                    time.sleep(chance.random())
                else:
                    load.end()
                    everything = {(r.partition, r.offset): r.json()["id"] for r in records(client, "orders")}
                    left, moved = len(everything), time.monotonic()
                    while left > 0:
                        time.sleep(0.05)
                        before, left = left, len(everything.keys() - shipped.keys() - shipments(file).keys())
                        moved = time.monotonic() if left < before else moved
                        assert time.monotonic() - moved < 30, f"{left} are not shipped"
                ended = program.stop()
                said = "".join(program.said)
                assert "Traceback" not in said and "the worker failed" not in said, said
                # One that is stopped before it has begun ends as any process does.
                assert ended in (code, -signal.SIGTERM), said
                now = shipments(file)
                repeated: Counter[int] = Counter(partition for partition, offset in now if (partition, offset) in shipped)
                assert all(count <= batch for count in repeated.values()), f"run {run}: {repeated}"
                again += sum(repeated.values())
                shipped.update(now.keys())
                ids.update(now)
        finally:
            load.end()
            if load.program is not None and load.program.process.poll() is None:
                load.program.stop()
        # What was answered is there, all that is there was shipped, and nothing else.
        for order, at in load.taken.items():
            assert everything.get(at) == order
        assert ids == everything
        print(f"{RESTARTS} restarts, {len(load.taken)} answered, {len(everything)} stored and shipped, {again} of them again")


def records(client: thalweg.sync.Client, topic: str) -> list[thalweg.Record]:
    with client.consumer(topic, start="earliest", until_end=True) as consumer:
        return list(consumer)


def shipments(file: pathlib.Path) -> dict[tuple[int, int], str]:
    """What a program has done: the order's id by partition and offset. Nothing is done twice in one run."""
    lines = [line.split(" ") for line in file.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    done = {(int(partition), int(offset)): id.strip() for partition, offset, id in lines}
    assert len(done) == len(lines), file
    return done


def test_what_is_no_order_is_put_aside(broker: Broker, tmp_path: pathlib.Path) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.producer("orders") as producer:
            producer.send("no order", key="k")
            producer.send({"id": "1", "customer": "c"})
        program = Program(SERVICE, broker, tmp_path / "shipped")
        started = time.monotonic()
        while not (tmp_path / "shipped").exists():
            assert time.monotonic() - started < 30, program.said
            time.sleep(0.01)
        program.stop()
        [record] = records(client, "orders-rejected")
        assert (record.key, record.text(), record.headers[0][0]) == (b"k", "no order", "error")
