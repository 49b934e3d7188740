"""The kit for tests of what uses Thalweg: brokers that start, say why they do not, and never stay behind."""

import asyncio
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import thalweg
from conftest import ROOT
from thalweg.testing import BinaryNotFoundError, Broker, BrokerError, Cluster, find_binary, unique


def test_a_missing_command_names_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    no_program = tmp_path / "thalweg"
    no_program.write_text("")
    with pytest.raises(BinaryNotFoundError, match="binary is .*no program"):
        Broker(binary=no_program).start()
    # What was named counts, and not what is found elsewhere.
    monkeypatch.setenv("PATH", str(pathlib.Path(os.environ["THALWEG_BIN"]).parent), prepend=os.pathsep)
    monkeypatch.setenv("THALWEG_BIN", str(no_program))
    with pytest.raises(BinaryNotFoundError, match="THALWEG_BIN is .*no program"):
        Cluster().start()
    monkeypatch.delenv("THALWEG_BIN")
    assert find_binary().name == "thalweg"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is missing.*cargo build"):
        find_binary()


def test_the_command_of_an_installed_package_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    installed = tmp_path / "lib/thalweg_cli-0.1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: thalweg-cli\nVersion: 0.1.0\n")
    (installed / "RECORD").write_text("../bin/thalweg,,\n")
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/thalweg"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.delenv("THALWEG_BIN")
    assert find_binary().resolve() == command


def test_a_broker_that_does_not_start_shows_its_log() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(BrokerError, match="(?s)ended at its start .exit code 1.*in use") as raised:
            Broker(port=taken.getsockname()[1]).start()
    assert "in use" in raised.value.log
    assert not isinstance(raised.value, thalweg.ThalwegError)
    with pytest.raises(BrokerError, match="not ready within 0 s"):
        Broker(start_timeout=0).start()


def test_a_restart_keeps_data_and_port_and_close_removes_them() -> None:
    broker = Broker()
    with pytest.raises(BrokerError, match="has not been started"):
        broker.connect_sync()
    with broker:
        address, directory, state = broker.address, broker.directory, broker.directory / "state/thalweg/dev"
        assert "metrics" in broker.metrics and "ready" in broker.log() and any(state.iterdir())
        with pytest.raises(BrokerError, match="runs already"):
            broker.start()
        with broker.connect_sync() as client, client.producer("t") as producer:
            for end in (broker.kill, broker.stop, lambda: None):
                producer.send("x")
                end()
                broker.restart()
                assert broker.address == address
            with client.consumer("t", start="earliest", until_end=True) as consumer:
                assert [record.text() for record in consumer] == ["x"] * 3
        pid = broker.pid
    assert pid is not None and not runs(pid)
    assert not directory.exists() and broker.pid is None


def test_a_directory_that_was_given_stays(tmp_path: pathlib.Path) -> None:
    for text in ("first", "second"):
        with Broker(directory=tmp_path / "d") as broker, broker.connect_sync() as client, client.producer("t") as producer:
            assert (producer.send(text).offset or 0) > 0
    with Broker(directory=tmp_path / "d") as broker, broker.connect_sync() as client:
        consumer = client.consumer("t", start="earliest", until_end=True)
        assert [record.text() for record in consumer] == ["first", "second"]


@pytest.mark.parametrize("ending", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)", "sys.exit()", "del kept"])
@pytest.mark.parametrize("kind", ["Broker", "Cluster"])
def test_no_broker_outlives_the_process_that_started_it(kind: str, ending: str) -> None:
    script = f"""
import os, signal, sys, warnings
from thalweg.testing import Broker, Cluster
warnings.simplefilter("ignore", ResourceWarning)
kept = {kind}().start()
print(os.path.dirname(kept.ca).removesuffix("/data/tls"), *(b.pid for b in getattr(kept, "brokers", [kept])), flush=True)
{ending}
print("still here", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        directory, *pids = parent.stdout.readline().split()
        assert len(pids) == (1 if kind == "Broker" else 3)
        if ending == "del kept":
            assert parent.stdout.readline() == "still here\n"
        wait_until(lambda: not any(runs(int(pid)) for pid in pids))
        wait_until(lambda: not pathlib.Path(directory).exists())


def test_a_forked_child_does_not_end_its_parents_broker(broker: Broker) -> None:
    pid = os.fork()
    if pid == 0:
        broker.close()
        os._exit(0)
    os.waitpid(pid, 0)
    with broker.connect_sync() as client:
        assert client.topics() == []


def test_what_is_set_for_clients_does_not_reach_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALWEG_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("THALWEG_DATA_DIR", "/nowhere")
    with Cluster(1) as cluster, cluster.connect_sync() as client:
        assert client.topics() == []


def test_a_cluster_goes_on_without_one_of_three() -> None:
    async def go() -> None:
        async with Cluster() as cluster, cluster.connect(timeout=20) as client:
            assert cluster.address.count(",") == 2
            await client.create_topic("t", replication_factor=3)
            async with client.producer("t") as producer:
                for broker in cluster.brokers:
                    await asyncio.to_thread(broker.kill)
                    await producer.send("x")
                    await asyncio.to_thread(broker.restart)
            async with client.consumer("t", start="earliest", until_end=True) as consumer:
                assert [record.text() async for record in consumer] == ["x"] * 3

    asyncio.run(go())


def test_names_differ_and_are_names_of_topics(broker: Broker) -> None:
    assert unique("a") != unique("a")
    with broker.connect_sync() as client:
        assert client.create_topic(unique("a")).name.startswith("a-")


def test_the_example_of_the_guide_passes(tmp_path: pathlib.Path) -> None:
    guide = (ROOT / "docs/sdk.md").read_text(encoding="utf-8")
    example = guide.split("## Testing your service", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    odd = """
import pytest

@pytest.mark.parametrize("what", ["ein Fluß / a river [%]" + "x" * 300])
def test_a_long_name_with_odd_letters(thalweg_client, thalweg_topic, what):
    assert thalweg_client.create_topic(thalweg_topic).name == thalweg_topic
"""
    (tmp_path / "test_guide.py").write_text(example + odd, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr


def test_the_client_does_not_import_the_kit_nor_pytest() -> None:
    script = "import sys, thalweg, thalweg.sync; print([m for m in sys.modules if 'testing' in m or 'pytest' in m])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
    script = "import sys, thalweg.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stdout + done.stderr


def runs(pid: int) -> bool:
    """Whether a process is alive; one that waits to be reaped by an init that does not is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    said = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return said.strip() != "" and not said.strip().startswith("Z")


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
