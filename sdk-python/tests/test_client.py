"""What users of the Python SDK rely on."""

import asyncio
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import pytest
import thalweg
import thalweg.sync
from conftest import PLUGINS
from thalweg import _sync
from thalweg.testing import Broker


def test_sync_has_the_same_names(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        client.create_topic("t", partitions=2)
        assert [t.name for t in client.topics()] == ["t"]
        with client.producer("t") as producer:
            at = producer.send({"a": 1}, key="k")
            producer.enqueue_batch([thalweg.Message(str(i), key="k") for i in range(100)])
        with client.consumer("t", start="earliest", until_end=True) as consumer:
            records = list(consumer)
            assert consumer.counts().delivered == 101
        assert records[0].json() == {"a": 1}
        assert [r.text() for r in records[1:]] == [str(i) for i in range(100)]
        assert {r.partition for r in records} == {at.partition}
        assert client.offsets("t", "latest")[at.partition] > 100


def test_errors_have_their_class(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with pytest.raises(thalweg.NotFoundError, match="does not exist"):
            client.delete_topic("nothing")
        with pytest.raises(ValueError, match="partition count"):
            client.create_topic("t", partitions=0)
        client.create_topic("grows", partitions=2)
        assert client.add_partitions("grows", 3).partitions == 3
        assert client.add_partitions("grows", 3).partitions == 3
        with pytest.raises(thalweg.InvalidError, match="has 3 partitions, and 2 are asked for: partitions are never removed"):
            client.add_partitions("grows", 2)
        with pytest.raises(thalweg.InvalidError, match="it must be between 1 and 10000"):
            client.add_partitions("grows", 10_001)
        with pytest.raises(thalweg.NotFoundError, match="does not exist"):
            client.add_partitions("nothing", 3)
        for wrong, error in ((0, thalweg.InvalidError), (None, TypeError), ("3", TypeError), (True, TypeError)):
            with pytest.raises(error, match="^total is"):
                client.add_partitions("grows", wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="^topic is"):
            client.add_partitions(None, 3)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="replication factor 3 needs as many brokers"):
            client.create_topic("t", partitions=1, replication_factor=3)
        with pytest.raises(thalweg.InvalidError, match="go together"):
            thalweg.sync.connect(broker.address, ca=broker.ca, cert="cert.pem")
        with pytest.raises(thalweg.InvalidError, match="not a WebAssembly module"):
            client.upload_plugin("p", b"rubbish")
        with pytest.raises(thalweg.NotFoundError, match="plugin"):
            client.consumer("t", filter="nothing").__enter__()
        with client.producer("t") as producer, pytest.raises(thalweg.InvalidError, match="the limit is 1048576"):
            producer.send(b"x" * (2 << 20))
        with pytest.raises(thalweg.NotFoundError, match="no partition 7"):
            client.consumer("t", partitions=[7]).__enter__()


def test_a_topic_that_is_there_already_has_an_error_of_its_own(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        client.create_topic("t")
        with pytest.raises(thalweg.AlreadyExistsError, match='"t"') as raised:
            client.create_topic("t")
        assert not isinstance(raised.value, thalweg.InvalidError)
        assert (raised.value.code, raised.value.retriable) == ("already_exists", False)
        with pytest.raises(thalweg.InvalidError) as bad:
            client.create_topic("a/b")
        assert not isinstance(bad.value, thalweg.AlreadyExistsError)


def test_ids_have_the_characters_of_topic_names(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        client.create_topic("ids")
        for group, instance, what in (("a b", None, "group id"), ("\x1b[2J", None, "group id"), ("g", "till 3", "instance id")):
            with pytest.raises(thalweg.InvalidError, match=what), client.consumer("ids", group=group, instance=instance):
                pass


def test_operators_see_the_client_id(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca, client_id="billing") as client:
        client.create_topic("t")
        with client.consumer("t", group="g") as consumer:
            consumer.next(timeout=0)
            assert [member.client for member in client.describe_group("g").members] == ["billing"]
    for bad in ("a\nb", "till 3", "x" * 250):
        with pytest.raises(thalweg.InvalidError, match="client id"):
            thalweg.sync.connect(broker.address, ca=broker.ca, client_id=bad)
    with pytest.raises(TypeError, match="client_id"):
        thalweg.sync.connect(broker.address, ca=broker.ca, client_id=7)  # type: ignore[arg-type]


def test_pem_is_taken_as_text_as_bytes_or_from_a_file_and_is_never_shown(broker: Broker) -> None:
    pem = broker.ca.read_text()
    for ca in (broker.ca, str(broker.ca), pem, pem.encode()):
        thalweg.sync.connect(broker.address, ca=ca).close()
    with pytest.raises(TypeError, match="ca is int"):
        thalweg.sync.connect(broker.address, ca=7)  # type: ignore[arg-type]
    secret = "c2VjcmV0" * 8
    for what in (f"{secret}\n{secret}", secret.encode(), f"-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"):
        with pytest.raises(thalweg.InvalidError) as refused:
            thalweg.sync.connect(broker.address, ca=pem, cert=pem, key=what)
        assert secret not in str(refused.value), what


def test_what_happens_to_connections_is_logged(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="thalweg")
    at = broker.address.removeprefix("thalweg://")
    with thalweg.sync.connect(broker.address, ca=broker.ca):
        broker.kill()
        deadline = time.monotonic() + 60
        while not any(f"{at} is lost" in r.message for r in caplog.records):
            assert time.monotonic() < deadline, caplog.messages
            time.sleep(0.05)
        broker.restart()
    said = [(r.name, r.levelname) for r in caplog.records if at in r.message]
    assert ("thalweg", "INFO") in said
    assert ("thalweg", "WARNING") in said


def test_a_broker_that_is_down_is_named(tmp_path: pathlib.Path) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="127.0.0.1:1 cannot be reached"):
        thalweg.sync.connect("thalweg://127.0.0.1:1", timeout=1.0)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("call", ["topics", "create_topic", "delete_topic", "offsets", "groups", "describe_group", "reset_group", "upload_plugin", "consumer"])
def test_a_call_ends_within_the_client_s_time_though_no_broker_answers(broker: Broker, call: str) -> None:
    async def opens(client: thalweg.Client) -> None:
        async with client.consumer("t"):
            pass

    calls: dict[str, Callable[[thalweg.Client], Awaitable[object]]] = {
        "topics": lambda client: client.topics(),
        "create_topic": lambda client: client.create_topic("u"),
        "delete_topic": lambda client: client.delete_topic("t"),
        "offsets": lambda client: client.offsets("t", "latest"),
        "groups": lambda client: client.groups(),
        "describe_group": lambda client: client.describe_group("g"),
        "reset_group": lambda client: client.reset_group("g", "t", "earliest"),
        "upload_plugin": lambda client: client.upload_plugin("p", b"x"),
        "consumer": opens,
    }

    async def go() -> None:
        async with broker.connect(timeout=1.5) as client:
            await client.create_topic("t")
            broker.kill()
            started = time.monotonic()
            with pytest.raises((thalweg.DisconnectedError, thalweg.TimedOutError)):
                await calls[call](client)
            assert time.monotonic() - started < 3

    asyncio.run(go())


GIVEN_UP = """
import asyncio, gc, logging, os, signal, sys, thalweg

# That a connection is lost may be said.
logging.getLogger("thalweg").disabled = True

async def main():
    client = await thalweg.connect(sys.argv[1], ca=sys.argv[2], timeout=0.5)
    os.kill(int(sys.argv[3]), signal.SIGSTOP)
    try:
        await asyncio.wait_for(WHAT, 0.2)
    except TimeoutError:
        await asyncio.sleep(float(sys.argv[4]))
        gc.collect()
    else:
        print("a broker that is stopped has answered")
    finally:
        os.kill(int(sys.argv[3]), signal.SIGCONT)

asyncio.run(main())
gc.collect()
"""


@pytest.mark.parametrize("stays", ["0", "1.5"], ids=["the loop ends at once", "the loop goes on"])
@pytest.mark.parametrize(
    "what",
    [
        "thalweg.connect(sys.argv[1], ca=sys.argv[2], timeout=0.5)._connect()",
        "client.topics()",
        "client.producer('t').__aenter__()",
        "client.producer('t', delivery_timeout=0.5).send('x')",
        "client.consumer('t').__aenter__()",
        "client.consumer('t', group='g').next()",
        "anext(aiter(client.consumer('t')))",
    ],
    ids=["client", "call", "producer", "send", "consumer", "member", "loop"],
)
def test_nothing_is_said_of_a_call_that_was_given_up(broker: Broker, what: str, stays: str) -> None:
    """asyncio said "Future exception was never retrieved", or that its loop is closed."""
    command = [sys.executable, "-c", GIVEN_UP.replace("WHAT", what), broker.address, str(broker.ca), str(broker.pid), stays]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_untrusted_certificate_is_denied(broker: Broker) -> None:
    with Broker() as other, pytest.raises(thalweg.DeniedError, match="not trusted"):
        thalweg.sync.connect(broker.address, ca=other.ca)


def test_seek_pause_and_resume(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            async with client.producer("t") as producer:
                await producer.send_batch([str(i) for i in range(50)])
            async with client.consumer("t", start="earliest") as consumer:
                records = aiter(consumer)
                first = await anext(records)
                await consumer.seek(0, first.offset + 10)
                assert (await anext(records)).text() == "10"
                await consumer.pause(0)
                await consumer.resume(0)
                await consumer.seek(0, "earliest")
                assert (await anext(records)).text() == "0"

    asyncio.run(go())


def test_a_restart_of_the_broker_is_only_a_pause(broker: Broker) -> None:
    async def go() -> None:
        async with broker.connect(timeout=20) as client:
            async with client.producer("t") as producer:
                await producer.send("before")
                broker.kill()
                sending = asyncio.ensure_future(producer.send("after"))
                await asyncio.sleep(0.3)
                await asyncio.to_thread(broker.restart)
                await sending
            consumer = client.consumer("t", start="earliest", until_end=True)
            assert [r.text() async for r in consumer] == ["before", "after"]

    asyncio.run(go())


def test_after_a_fork_there_is_an_error_and_no_hang(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        pid = os.fork()
        if pid == 0:
            try:
                client.topics()
                os._exit(1)
            except thalweg.InvalidError:
                os._exit(7)
            except BaseException:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_a_forked_child_reads_nothing_of_its_parent_s_consumer(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client, client.producer("t") as producer:
        producer.send_batch([str(i) for i in range(10)])
        with client.consumer("t", start="earliest", until_end=True) as consumer:
            # The others have come with it.
            assert consumer.next().text() == "0"
            pid = os.fork()
            if pid == 0:
                try:
                    consumer.next(timeout=0)
                    os._exit(1)
                except thalweg.InvalidError as error:
                    os._exit(7 if "fork" in str(error) else 3)
                except BaseException:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert [record.text() for record in consumer] == [str(i) for i in range(1, 10)]


# Runs something in a child, which has to come to its end.
IN_A_CHILD = """
import os, traceback

def forked(child):
    pid = os.fork()
    if pid == 0:
        try:
            child()
            os._exit(7)
        finally:
            traceback.print_exc()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

"""

FORKED_PRODUCER = """
import asyncio, os, sys, time, traceback
import thalweg.sync

def refused(call):
    started = time.monotonic()
    try:
        call()
    except thalweg.InvalidError as error:
        assert "fork" in str(error), error
        assert time.monotonic() - started < 5
    else:
        sys.exit("nothing was raised")

def calls(producer):
    yield lambda: producer.send("y")
    yield lambda: producer.enqueue("y")
    yield lambda: producer.enqueue("y", on_delivery=print)
    yield lambda: producer.send_batch(["y"])
    yield lambda: producer.enqueue_batch(["y"])
    yield lambda: producer.flush()
    yield lambda: producer.close()

def in_sync():
    with thalweg.sync.connect(sys.argv[1], ca=sys.argv[2]) as client, client.producer("t") as producer:
        producer.send("x")
        def child():
            for call in calls(producer):
                refused(call)
            refused(lambda: thalweg.sync.connect(sys.argv[1], ca=sys.argv[2]))
        forked(child)
        producer.send("x")

async def in_asyncio():
    async with thalweg.connect(sys.argv[1], ca=sys.argv[2]) as client, client.producer("t") as producer:
        await producer.send("x")
        kept = [producer.send("x"), producer.send("x")]
        def child():
            async def run(call):
                await call()
            for call in calls(producer):
                refused(lambda: asyncio.run(run(call)))
        forked(child)
        await asyncio.gather(*kept, producer.send("x"))

in_sync()
asyncio.run(in_asyncio())
"""


def test_a_forked_child_cannot_use_its_parent_s_producer_and_is_told_so_at_once(broker: Broker, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "forked.py"
    script.write_text(IN_A_CHILD + FORKED_PRODUCER)
    command = [sys.executable, "-W", "always::ResourceWarning", str(script), broker.address, str(broker.ca)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "thalweg" not in done.stderr and "Traceback" not in done.stderr, done.stderr
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.consumer("t", start="earliest", until_end=True) as consumer:
            assert [record.text() for record in consumer] == ["x"] * 6


FORKED = """
import multiprocessing, os, sys
import thalweg.sync

def child(number):
    with thalweg.sync.connect(sys.argv[1], ca=sys.argv[2], timeout=5) as client, client.producer("t") as producer:
        return producer.send(str(number)).partition

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(child, range(4)) == [0] * 4
"""


def test_a_child_that_connects_itself_works_though_the_parent_has_imported(broker: Broker, tmp_path: pathlib.Path) -> None:
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    command = [sys.executable, str(script), broker.address, str(broker.ca)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


FORKED_ASYNCIO = """
import asyncio, os, sys, time, traceback
import thalweg

async def once():
    async with thalweg.connect(sys.argv[1], ca=sys.argv[2], timeout=5) as client, client.producer("t") as producer:
        await producer.send("x")
        async with client.consumer("t", start="earliest") as consumer:
            assert (await consumer.next(timeout=10)).text() == "x"

async def nobody():
    started = time.monotonic()
    try:
        await thalweg.connect("thalweg://127.0.0.1:1", timeout=1)
    except thalweg.DisconnectedError:
        assert time.monotonic() - started < 5
    else:
        sys.exit("nobody was reached")

# The parent has only imported.
forked(lambda: asyncio.run(once()))
forked(lambda: asyncio.run(nobody()))

async def refused(call):
    started = time.monotonic()
    try:
        await asyncio.wait_for(call(), 10)
    except thalweg.InvalidError as error:
        assert "fork" in str(error), error
        assert time.monotonic() - started < 5
    else:
        sys.exit("nothing was raised")

async def parent():
    async with thalweg.connect(sys.argv[1], ca=sys.argv[2]) as client, client.consumer("t", start="earliest") as consumer:
        assert (await consumer.next(timeout=10)).text() == "x"
        def child():
            calls = [once, client.topics, lambda: client.create_topic("u"), client.consumer("t").__aenter__]
            calls += [consumer.next, lambda: anext(consumer), lambda: anext(aiter(consumer)), lambda: consumer.seek(0, "latest")]
            for call in calls:
                asyncio.run(refused(call))
        forked(child)
        await consumer.seek(0, "earliest")
        assert (await consumer.next(timeout=10)).text() == "x"

asyncio.run(parent())
"""


def test_asyncio_in_a_forked_child_works_where_the_parent_has_only_imported_and_is_refused_at_once_elsewhere(
    broker: Broker, tmp_path: pathlib.Path
) -> None:
    script = tmp_path / "forked.py"
    script.write_text(IN_A_CHILD + FORKED_ASYNCIO)
    command = [sys.executable, str(script), broker.address, str(broker.ca)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


READING_AT_THE_END = {
    "sync": """
client = thalweg.sync.connect(sys.argv[1], ca=sys.argv[2])
records = iter(client.consumer("t", group=sys.argv[3], start="earliest"))
next(records)
""",
    "thread": """
client = thalweg.sync.connect(sys.argv[1], ca=sys.argv[2])
begun = threading.Event()
def read():
    for record in client.consumer("t", start="earliest"):
        begun.set()
threading.Thread(target=read, daemon=True).start()
begun.wait(10)
""",
    "asyncio": """
async def main():
    client = await thalweg.connect(sys.argv[1], ca=sys.argv[2])
    consumer = client.consumer("t", group=sys.argv[3], start="earliest")
    await consumer.next()
    kept.append(asyncio.create_task(consumer.next()))
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
}


@pytest.mark.parametrize("code", READING_AT_THE_END.values(), ids=READING_AT_THE_END)
def test_a_process_ends_though_somebody_reads(broker: Broker, code: str) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client, client.producer("t") as producer:
        producer.send("x")
    code = "import asyncio, sys, threading, thalweg, thalweg.sync\nkept = []\n" + code
    for turn in range(3):
        command = [sys.executable, "-c", code, broker.address, str(broker.ca), f"g{turn}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stderr) == (0, "")


def test_a_client_goes_on_in_another_loop_and_the_sync_half_within_a_running_one(broker: Broker) -> None:
    clients = list[thalweg.Client]()

    async def first() -> None:
        clients.append(await broker.connect())
        await clients[0].producer("t").send("1")

    async def second() -> None:
        async with clients[0].producer("t") as producer:
            await producer.send("2")
        # As in a notebook.
        with broker.connect_sync() as client:
            assert [r.text() for r in client.consumer("t", start="earliest", until_end=True)] == ["1", "2"]
        await clients[0].close()

    asyncio.run(first())
    asyncio.run(second())


def test_the_interpreter_ends_cleanly_right_after_the_last_call(broker: Broker) -> None:
    """A call's last touch of Python used to race with the end of the interpreter, which then aborted."""
    script = f"""
import asyncio, thalweg
async def main():
    async with thalweg.connect({broker.address!r}, ca={str(broker.ca)!r}) as client:
        async with client.producer("t") as producer:
            await producer.enqueue_batch([thalweg.Message("x")] * 1000)
asyncio.run(main())
"""
    for _ in range(25):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("face", ["sync", "async"])
def test_ctrl_c_ends_a_waiting_consumer_within_a_second(broker: Broker, face: str) -> None:
    connect = f"connect({broker.address!r}, ca={str(broker.ca)!r})"
    scripts = {
        "sync": f"""
import thalweg.sync
with thalweg.sync.{connect} as client:
    client.create_topic("quiet", partitions=1)
    print("waiting", flush=True)
    for record in client.consumer("quiet"):
        pass
""",
        "async": f"""
import asyncio, thalweg
async def main():
    async with thalweg.{connect} as client:
        await client.create_topic("quiet", partitions=1)
        print("waiting", flush=True)
        async for record in client.consumer("quiet"):
            pass
asyncio.run(main())
""",
    }
    # A process that was started in the background ignores the signal, and so would its children.
    heeds = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", heeds + scripts[face]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "waiting\n"
        time.sleep(0.5)
        started = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=30)
        assert time.monotonic() - started < 1.0
        assert "KeyboardInterrupt" in said


UNDER_WAY = {
    "sync": """
with thalweg.sync.connect(sys.argv[1], ca=sys.argv[2]) as client, client.producer("t") as producer:
    producer.send("x")
    os.kill(int(sys.argv[3]), signal.SIGSTOP)
    producer.enqueue("y")
    print("sending", flush=True)
    producer.send("z")
""",
    "async": """
async def main():
    async with thalweg.connect(sys.argv[1], ca=sys.argv[2]) as client, client.producer("t") as producer:
        await producer.send("x")
        os.kill(int(sys.argv[3]), signal.SIGSTOP)
        await producer.enqueue("y")
        print("sending", flush=True)
        await producer.send("z")
asyncio.run(main())
""",
}


@pytest.mark.parametrize("face", ["sync", "async"])
def test_ctrl_c_ends_a_producer_whose_records_nobody_takes(broker: Broker, face: str) -> None:
    """The first one did nothing until the delivery time-out had come."""
    heeds = "import asyncio, os, signal, sys, thalweg, thalweg.sync\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", heeds + UNDER_WAY[face], broker.address, str(broker.ca), str(broker.pid)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == "sending\n"
            time.sleep(0.5)
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=10)
            assert "KeyboardInterrupt" in said and "of the producer of topic 't' have no outcome yet" in said
        finally:
            child.kill()
            os.kill(broker.pid or 0, signal.SIGCONT)


def test_a_signal_handler_may_raise_at_any_moment_of_a_call() -> None:
    """It left the lock of a future taken, for which the thread of all clients waited for ever."""

    class Alarm(Exception):
        pass

    async def answer() -> int:
        await asyncio.sleep(0)
        return 7

    for moment in itertools.count(1):
        left = moment

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal left
            if frame.f_code.co_name == "_remove":
                # The interpreter's own, of a weak set: what is raised there goes nowhere.
                return None
            frame.f_trace_opcodes = True
            left -= event == "opcode"
            if left == 0:
                raise Alarm
            return trace

        is_through = False
        sys.settrace(trace)
        try:
            is_through = _sync.run(answer) == 7
        except Alarm:
            pass
        finally:
            sys.settrace(None)
        answers = list[int]()
        asking = threading.Thread(target=lambda: answers.append(_sync.run(answer)), daemon=True)
        asking.start()
        asking.join(10)
        assert answers == [7], moment
        if is_through:
            assert moment > 50
            break


def test_a_position_past_the_end_is_raised_with_both_ends_until_a_seek(broker: Broker) -> None:
    with thalweg.sync.connect(broker.address, ca=broker.ca) as client:
        with client.producer("t") as producer:
            last = producer.send("a").offset
        assert last is not None
        with client.consumer("t", start=5_000) as consumer:
            for read in (lambda: next(iter(consumer)), lambda: next(consumer.batches())) * 2:
                with pytest.raises(thalweg.OffsetOutOfRangeError) as raised:
                    read()
                e = raised.value
                assert (e.topic, e.partition, e.offset, e.log_start, e.log_end) == ("t", 0, 5_000, 0, last + 1)
            consumer.seek(0, last)
            assert next(iter(consumer)).text() == "a"

    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            async with client.consumer("t", start=5_000) as consumer:
                for _ in range(3):
                    with pytest.raises(thalweg.OffsetOutOfRangeError):
                        async with asyncio.timeout(10):
                            async for _record in consumer:
                                pass
                await consumer.seek(0, last)
                async with asyncio.timeout(10):
                    async for record in consumer:
                        assert record.text() == "a"
                        break
            # The name of a topic that is gone.
            async with client.consumer("t", start="latest") as consumer, client.producer("t") as producer:
                await client.delete_topic("t")
                for _ in range(2):
                    with pytest.raises(thalweg.NotFoundError, match='topic "t" was deleted'):
                        async with asyncio.timeout(10):
                            await anext(aiter(consumer))
                    with pytest.raises(thalweg.NotFoundError, match='topic "t" was deleted'):
                        await producer.send("x")
                await client.create_topic("t", partitions=1)
                await producer.send("y")

    asyncio.run(go())


def test_what_is_sent_after_a_consumer_was_opened_comes(broker: Broker) -> None:
    async def go() -> None:
        async with thalweg.connect(broker.address, ca=broker.ca) as client:
            await client.upload_plugin("late", PLUGINS / "late.wasm")
            await client.create_topic("race", partitions=1)
            async with client.producer("race") as producer:
                for turn in range(60):
                    async with client.consumer("race", filter="late" if turn % 2 else None) as consumer:
                        await producer.send({"dep_delay": 100, "turn": turn})
                        async with asyncio.timeout(10):
                            assert (await anext(aiter(consumer))).json()["turn"] == turn

    asyncio.run(go())


def test_clients_come_and_go_without_leaving_anything(broker: Broker) -> None:
    """300 times connected and closed: threads and descriptors as after ten times, memory within 64 MiB."""
    code = """
import asyncio, os, sys, thalweg

def state():
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["Threads"]), len(os.listdir("/proc/self/fd")), int(status["VmRSS"].split()[0])

async def cycle(i):
    async with thalweg.connect(sys.argv[1], ca=sys.argv[2]) as client:
        async with client.producer("t") as producer:
            at = await producer.send(str(i))
        async with client.consumer("t", start=at.offset) as consumer:
            assert (await consumer.next()).value == str(i).encode()

async def main():
    for i in range(300):
        await cycle(i)
        if i == 9:
            before = state()
    await asyncio.sleep(0.5)
    print(*before, *state())

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", code, broker.address, str(broker.ca)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    threads, descriptors, kib, threads_after, descriptors_after, kib_after = map(int, done.stdout.split())
    assert threads_after <= threads + 1 and descriptors_after <= descriptors + 2, done.stdout
    assert kib_after <= kib + (64 << 10), done.stdout
