"""`cargo xtask bench clients`: what one-record calls and reading cost in the client, beside the clients of Kafka in the same run.

Each measurement is a process of its own, and only its CPU time is counted, all threads of it: the broker (`thalweg dev`), and the mock cluster of
librdkafka for the others, are other processes. How to read the rows, and the results: bench/RESULTS.md.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

HERE = pathlib.Path(__file__).resolve()
VALUE = b"x" * 100
# The mock cluster's own number.
PARTITIONS = 4
GATHERED = 1_000
READ = 600_000
# The mock cluster keeps 5 MiB a partition: they are read several times.
MOCK_READ, MOCK_ROUNDS = 100_000, 6
PENDING, PENDING_BYTES, BUFFER_BYTES = 100_000, 1 << 10, 32 << 20
MIB = 1 << 20

# ---- What is measured, each in a process of its own. `at` tells where the broker is.

Settings = dict[str, Any]
Result = dict[str, float]


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def anonymous() -> int:
    """Memory of the process without what stands in files, as its program does."""
    resident, shared = pathlib.Path("/proc/self/statm").read_text().split()[1:3]
    return (int(resident) - int(shared)) * resource.getpagesize()


class Clock:
    """CPU time from its making to `result`."""

    def __init__(self) -> None:
        gc.collect()
        self._since = cpu_s()

    def result(self, records: int) -> Result:
        return {"records": records, "cpu_s": cpu_s() - self._since}


def stopped(at: Settings) -> None:
    os.kill(at["pid"], signal.SIGSTOP)


@contextlib.asynccontextmanager
async def ours(at: Settings) -> Any:
    import thalweg

    async with thalweg.connect(at["address"], ca=at["ca"]) as client:
        if not at.get("exists"):
            await client.create_topic(at["topic"], partitions=PARTITIONS)
        yield client


async def thalweg_fill(at: Settings) -> Result:
    async with ours(at) as client, client.producer(at["topic"]) as producer:
        for _ in range(READ // 1_000):
            await producer.enqueue_batch([VALUE] * 1_000)
    return {}


async def thalweg_send(at: Settings) -> Result:
    async with ours(at) as client, client.producer(at["topic"]) as producer:

        async def send(records: int) -> None:
            for _ in range(records // GATHERED):
                await asyncio.gather(*[producer.send(VALUE) for _ in range(GATHERED)])

        await send(5_000)
        clock = Clock()
        await send(100_000)
        return clock.result(100_000)


async def thalweg_enqueue(at: Settings) -> Result:
    async with ours(at) as client, client.producer(at["topic"]) as producer:

        async def enqueue(records: int) -> None:
            for _ in range(records):
                await producer.enqueue(VALUE)
            await producer.flush()

        await enqueue(5_000)
        clock = Clock()
        await enqueue(300_000)
        return clock.result(300_000)


def thalweg_sync_enqueue(at: Settings) -> Result:
    import thalweg.sync

    with thalweg.sync.connect(at["address"], ca=at["ca"]) as client:
        client.create_topic(at["topic"], partitions=PARTITIONS)
        with client.producer(at["topic"]) as producer:

            def enqueue(records: int) -> None:
                for _ in range(records):
                    producer.enqueue(VALUE)
                producer.flush()

            enqueue(1_000)
            clock = Clock()
            enqueue(100_000)
            return clock.result(100_000)


def reading(in_group: bool, by_batches: bool) -> Callable[[Settings], Awaitable[Result]]:
    async def read(at: Settings) -> Result:
        async with ours({**at, "exists": True}) as client:
            clock, count = Clock(), 0
            group = at["topic"] if in_group else None
            async with client.consumer(at["filled"], group=group, start="earliest", until_end=True) as consumer:
                if by_batches:
                    async for batch in consumer.batches():
                        count += len(batch.values())
                else:
                    async for record in consumer:
                        count += record.value is not None
            assert count == READ, f"{count} records were read"
            return clock.result(count)

    return read


async def thalweg_memory(at: Settings) -> Result:
    async with ours(at) as client:
        producer = client.producer(at["topic"], buffer_bytes=BUFFER_BYTES)
        await producer.send(VALUE)
        return await grown(at, lambda i: producer.send(b"%08d" % i * (PENDING_BYTES // 8)))


async def grown(at: Settings, send: Callable[[int], Awaitable[Any]]) -> Result:
    """What the process has grown by with so many sends on their way. It ends without them."""
    stopped(at)
    gc.collect()
    before = anonymous()
    sending = [asyncio.ensure_future(send(i)) for i in range(PENDING)]
    await asyncio.sleep(2)
    assert not any(each.done() for each in sending), "a send has an outcome, without a broker"
    gc.collect()
    tell({"held_bytes": anonymous() - before})
    os._exit(0)


async def aiokafka_send(at: Settings) -> Result:
    async with aiokafka_producer(at) as producer:

        async def send(records: int) -> None:
            for _ in range(records // GATHERED):
                await asyncio.gather(*[await producer.send(at["topic"], VALUE) for _ in range(GATHERED)])

        await send(5_000)
        clock = Clock()
        await send(50_000)
        return clock.result(50_000)


async def aiokafka_memory(at: Settings) -> Result:
    async with aiokafka_producer(at) as producer:
        await producer.send_and_wait(at["topic"], VALUE)
        return await grown(at, lambda i: producer.send_and_wait(at["topic"], b"%08d" % i * (PENDING_BYTES // 8)))


def aiokafka_producer(at: Settings) -> Any:
    import aiokafka

    return aiokafka.AIOKafkaProducer(bootstrap_servers=at["address"], acks="all")


def confluent_enqueue(at: Settings) -> Result:
    import confluent_kafka

    producer, topic = confluent_kafka.Producer({"bootstrap.servers": at["address"]}), at["topic"]

    def enqueue(records: int) -> None:
        for _ in range(records):
            while True:
                try:
                    producer.produce(topic, VALUE)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    enqueue(5_000)
    clock = Clock()
    enqueue(300_000)
    return clock.result(300_000)


def confluent_fill(at: Settings) -> Result:
    import confluent_kafka

    producer = confluent_kafka.Producer({"bootstrap.servers": at["address"]})
    for i in range(MOCK_READ):
        producer.produce(at["topic"], VALUE, partition=i % PARTITIONS)
        if i % 10_000 == 0:
            producer.flush(60)
    assert producer.flush(60) == 0
    return {}


def confluent_reading(by_batches: bool) -> Callable[[Settings], Result]:
    def read(at: Settings) -> Result:
        import confluent_kafka

        clock = Clock()
        consumer = confluent_kafka.Consumer({"bootstrap.servers": at["address"], "group.id": "bench", "enable.auto.commit": False})
        for _ in range(MOCK_ROUNDS):
            consumer.assign([confluent_kafka.TopicPartition(at["filled"], p, 0) for p in range(PARTITIONS)])
            count = 0
            while count < MOCK_READ:
                if by_batches:
                    count += len([message.value() for message in consumer.consume(1_000, 1)])
                elif (message := consumer.poll(1)) is not None:
                    count += message.value() is not None
        result = clock.result(MOCK_READ * MOCK_ROUNDS)
        consumer.close()
        return result

    return read


WORKS: dict[str, Callable[[Settings], Any]] = {
    "thalweg-fill": thalweg_fill,
    "thalweg-send": thalweg_send,
    "thalweg-enqueue": thalweg_enqueue,
    "thalweg-sync-enqueue": thalweg_sync_enqueue,
    "thalweg-memory": thalweg_memory,
    "thalweg-records": reading(False, False),
    "thalweg-batches": reading(False, True),
    "thalweg-group-records": reading(True, False),
    "thalweg-group-batches": reading(True, True),
    "aiokafka-send": aiokafka_send,
    "aiokafka-memory": aiokafka_memory,
    "confluent-fill": confluent_fill,
    "confluent-enqueue": confluent_enqueue,
    "confluent-records": confluent_reading(False),
    "confluent-batches": confluent_reading(True),
}


def tell(result: Result) -> None:
    print(json.dumps(result), flush=True)


def child(work: str, at: Settings) -> None:
    result = WORKS[work](at)
    tell(asyncio.run(result) if asyncio.iscoroutine(result) else result)


def mock() -> None:
    """A mock cluster: says where it is, and ends with its input."""
    import confluent_kafka

    producer = confluent_kafka.Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 3})
    brokers = producer.list_topics(timeout=10).brokers.values()
    print(",".join(f"{broker.host}:{broker.port}" for broker in brokers), flush=True)
    sys.stdin.read()


# ---- The rows.


@dataclass(frozen=True)
class Row:
    """`work` and `peer` are run by this file, or by clients.mjs where they begin with `node:`. `target` is records per CPU-second, MiB at most for
    memory, or else the part of what the row `beside` has."""

    name: str
    work: str
    target: float | None = None
    peer: str | None = None
    peer_name: str = ""
    beside: str | None = None

    @property
    def is_memory(self) -> bool:
        return self.work.endswith("memory")


PENDING_MIB = (BUFFER_BYTES + PENDING * 1024) / MIB

ROWS = [
    Row("python send, gathered by 1,000", "thalweg-send", 150_000, "aiokafka-send", "aiokafka send"),
    Row("python enqueue", "thalweg-enqueue", 500_000, "confluent-enqueue", "confluent produce"),
    Row("python sync enqueue", "thalweg-sync-enqueue", 300_000, "confluent-enqueue", "confluent produce"),
    Row("node send, gathered by 1,000", "node:thalweg-send", 300_000, "node:kafkajs-send", "kafkajs send"),
    Row("node enqueue", "node:thalweg-enqueue", 600_000, "node:kafkajs-batch", "kafkajs send of 1,000"),
    Row("python records", "thalweg-records", 1_400_000, "confluent-records", "confluent poll"),
    Row("python batches", "thalweg-batches", 2_700_000, "confluent-batches", "confluent consume(1000)"),
    Row("python records in a group", "thalweg-group-records", 0.8, beside="python records"),
    Row("python batches in a group", "thalweg-group-batches", 0.8, beside="python batches"),
    Row("node records", "node:thalweg-records"),
    Row("node batches", "node:thalweg-batches"),
    Row("node records in a group", "node:thalweg-group-records", 0.8, beside="node records"),
    Row("node batches in a group", "node:thalweg-group-batches", 0.8, beside="node batches"),
    Row("python memory, MiB", "thalweg-memory", PENDING_MIB, "aiokafka-memory", "aiokafka"),
    Row("node memory, MiB", "node:thalweg-memory", PENDING_MIB, "node:kafkajs-memory", "kafkajs"),
]


class Bench:
    def __init__(self, node: str, repeats: int) -> None:
        self._node = node
        self._repeats = repeats
        self._topics = 0
        # Where things are, by kind.
        self._places: dict[str, Settings] = {}
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def run(self, rows: list[Row]) -> list[dict[str, Any]]:
        results: dict[str, dict[str, Any]] = {}
        for row in rows:
            own, peers = [], []
            for _ in range(self._repeats):
                # In turn: whatever else the machine does meets both.
                own.append(self._measure(row, row.work))
                if row.peer is not None:
                    peers.append(self._measure(row, row.peer))
            results[row.name] = self._result(row, own, peers, results)
            print(line(results[row.name]), file=sys.stderr, flush=True)
        return list(results.values())

    def _result(self, row: Row, own: list[float], peers: list[float], results: dict[str, Any]) -> dict[str, Any]:
        best = min if row.is_memory else max
        result: dict[str, Any] = {"row": row.name, "best": best(own), "median": statistics.median(own), "target": row.target}
        beside = results.get(row.beside) if row.beside is not None else None
        if peers:
            result |= {"peer": row.peer_name, "peer_best": best(peers), "peer_median": statistics.median(peers)}
        elif beside is not None:
            result |= {"peer": row.beside, "peer_best": beside["best"], "peer_median": beside["median"]}
        if "peer" in result:
            result["of_peer"] = result["median"] / result["peer_median"]
        reached = None
        if row.beside is not None:
            reached = result["of_peer"] >= row.target if beside is not None else None
        elif row.target is not None:
            reached = result["median"] <= row.target if row.is_memory else result["median"] >= row.target
        return {**result, "reached": reached}

    def _measure(self, row: Row, work: str) -> float:
        with contextlib.ExitStack() as own:
            at = dict(self._place(work, row, own))
            self._topics += 1
            result = self._run(work, {**at, "topic": f"bench-{self._topics}"})
        return result["held_bytes"] / MIB if row.is_memory else result["records"] / result["cpu_s"]

    def _place(self, work: str, row: Row, own: contextlib.ExitStack) -> Settings:
        is_ours = "thalweg-" in work
        if row.is_memory:
            # It is stopped in the middle.
            return _broker(own) if is_ours else _mock(own)
        kind = "thalweg" if is_ours else "mock"
        if kind not in self._places:
            at = _broker(self._ends) if is_ours else _mock(self._ends)
            self._places[kind] = {**at, "filled": "filled"}
        at = self._places[kind]
        if ("records" in work or "batches" in work) and not at.get("is_filled"):
            self._run("thalweg-fill" if is_ours else "confluent-fill", {**at, "topic": at["filled"]})
            at["is_filled"] = True
        return at

    def _run(self, work: str, at: Settings) -> Result:
        if work.startswith("node:"):
            nursery = ["--min-semi-space-size=16"] if work.endswith("memory") else []
            command = [self._node, "--expose-gc", *nursery, str(HERE.with_name("clients.mjs")), work.removeprefix("node:")]
        else:
            command = [sys.executable, str(HERE), "child", work]
        ended = subprocess.run([*command, json.dumps(at)], stdout=subprocess.PIPE, text=True, timeout=600, check=False)
        if ended.returncode != 0 or not ended.stdout:
            sys.exit(f"error: {work} ended with {ended.returncode}")
        result: Result = json.loads(ended.stdout.splitlines()[-1])
        return result


def _broker(ends: contextlib.ExitStack) -> Settings:
    from thalweg.testing import Broker

    broker = ends.enter_context(Broker())
    return {"address": broker.address, "ca": str(broker.ca), "pid": broker.pid}


def _mock(ends: contextlib.ExitStack) -> Settings:
    process = ends.enter_context(_ending(subprocess.Popen([sys.executable, str(HERE), "mock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)))
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    if not address:
        sys.exit("error: the mock cluster does not start")
    return {"address": address, "pid": process.pid}


@contextlib.contextmanager
def _ending(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def about(node: str) -> dict[str, Any]:
    """What was measured, and on what."""
    packages = HERE.with_name("node_modules")
    kafkajs = json.loads((packages / "kafkajs/package.json").read_text())["version"]
    versions = {name: importlib.metadata.version(name) for name in ("aiokafka", "confluent-kafka")}
    node_version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "at": time.strftime("%Y-%m-%d %H:%M"),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "versions": {**versions, "kafkajs": kafkajs, "python": platform.python_version(), "node": node_version.removeprefix("v")},
    }


def table(told: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in told["versions"].items())
    load = ", ".join(f"{each:.1f}" for each in told["load"])
    lines = [
        f"{told['at']}, {told['cpus']} cores, load at the start {load}; {versions}",
        "",
        "| row | best | median | target | | peer | its best | its median | of the peer |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *map(line, told["rows"])])


def line(result: dict[str, Any]) -> str:
    reached = {None: "", True: "reached", False: "not reached"}[result["reached"]]
    target = _number(result["target"]) if result["target"] is not None else ""
    cells = [result["row"], _number(result["best"]), _number(result["median"]), target, reached]
    if "peer" in result:
        cells += [result["peer"], _number(result["peer_best"]), _number(result["peer_median"]), f"{result['of_peer']:.2f}"]
    return "| " + " | ".join([*cells, *[""] * (9 - len(cells))]) + " |"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 1_000 else f"{number:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="cargo xtask bench clients")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--thalweg", help="the `thalweg` command")
    parser.add_argument("--node", default="node")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="only rows whose name has this in it")
    arguments = parser.parse_args()
    if arguments.thalweg is not None:
        os.environ["THALWEG_BIN"] = arguments.thalweg
    rows = [row for row in ROWS if not arguments.rows or any(word in row.name for word in arguments.rows)]
    if not rows:
        parser.error("there are " + "; ".join(row.name for row in ROWS))
    # So that what was started ends, also what has been stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    told = about(arguments.node)
    with Bench(arguments.node, arguments.repeats) as bench:
        told["rows"] = bench.run(rows)
    print(json.dumps(told, indent=2) if arguments.json else table(told))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], json.loads(sys.argv[3]))
    elif sys.argv[1:] == ["mock"]:
        mock()
    else:
        main()
