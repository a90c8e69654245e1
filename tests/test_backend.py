import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from backend import __version__, cli, protocol
from backend.access import Gate, ServerKeys, endpoint_of, make_keys
from backend.client import BackendError, Client, Keys
from backend.protocol import PROTOCOL, decode, encode
from backend.server import QUEUE_LIMIT, Server

ROOT = Path(__file__).parents[1]


def start_server(keys=None, **limits):
    """A service of its own process with the tasks of backend_jobs.py; returns (process, address)."""
    code = "from backend import server; import sys; "
    code += "".join(f"server.{name} = {value}; " for name, value in limits.items())
    code += f"server.serve('tcp://127.0.0.1:*', 'cpu', 'backend_jobs', {keys and str(keys)!r})"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().split()[4].rstrip(";")


@pytest.fixture(scope="module")
def address():
    process, address = start_server(CANCEL_GRACE_S=1.0)
    yield address
    process.terminate()
    assert process.wait(30) == 0


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


def until(client, job, kind):
    """Poll until the first event of a kind; returns it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for event in client.poll():
            if (event.job, event.kind) == (job, kind):
                return event
        time.sleep(0.005)
    raise AssertionError(f"no {kind}")


def started(client, job):
    while client.status(job)["state"] == "queued":
        time.sleep(0.01)


def test_hello(client):
    hello = client.hello()
    assert (hello["version"], hello["protocol"], hello["device"]) == (__version__, PROTOCOL, "cpu")


def test_a_job(client):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "big": np.ones(3_000_000)}
    event = client.wait(client.submit("echo", {"x": [1, "two"]}, arrays))
    assert event.kind == "result"
    assert event.header["fields"] == {"x": [1, "two"]}
    for name, array in arrays.items():
        np.testing.assert_array_equal(event.arrays[name], 2 * array)
    assert client.alive


def test_progress_comes_in_order(client):
    events = []
    last = client.wait(client.submit("count", {"steps": 20}, {}), events.append)
    assert last.kind == "result"
    stages = [event.header["stage"] for event in events]
    steps = [event.header["step"] for event in events if event.header["stage"] == "count"]
    assert stages[0] == "queued" and steps == sorted(steps) and len(steps) >= 2


def test_previews_do_not_pile_up(address):
    """Many a second: one goes to a client that gives no sign of life, and another for every sign."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        socket.send_multipart(encode({"op": "submit", "job": "shown", "task": "show", "fields": {"count": 50}}))
        previews, kind = [], ""
        while kind != "result":
            assert socket.poll(30_000)
            header, arrays = decode(socket.recv_multipart())
            kind = header["kind"]
            if header.get("preview"):
                previews.append(arrays["means"][0, 0])
                if len(previews) < 3:
                    socket.send_multipart(encode({"op": "ping", "jobs": ["shown"]}))
    assert len(previews) == 3 and previews == sorted(previews)


def test_errors_say_what_is_wrong(client):
    event = client.wait(client.submit("fail", {}, {}))
    assert (event.kind, event.header["code"]) == ("error", "BAD_INPUT")
    assert event.header["message"] == "these photos do not overlap; take more."
    event = client.wait(client.submit("nothing", {}, {}))
    assert (event.kind, event.header["code"]) == ("error", "UNSUPPORTED")


def test_cancel_while_running_and_queued_and_over(client):
    client.wait(client.submit("fail", {}, {}))  # it imports torch, which takes longer than the worker has to stop
    worker = client.wait(client.submit("echo", {}, {})).header["pid"]
    running = client.submit("count", {"steps": 1000}, {})
    queued = client.submit("echo", {}, {})
    started(client, running)
    client.cancel(queued)
    assert client.wait(queued).kind == "cancelled"
    before = time.monotonic()
    assert client.hello()["protocol"] == PROTOCOL
    assert time.monotonic() - before < 1
    client.cancel(running)
    client.cancel(running)
    assert client.wait(running).kind == "cancelled"
    client.cancel(running)
    assert client.status(running)["state"] == "cancelled"
    after = client.wait(client.submit("echo", {}, {})).header["pid"]
    assert after == worker  # the job stopped by itself, and the worker was not killed


def test_submit_twice_is_one_job(client):
    job = client.submit("count", {"steps": 10}, {})
    assert client.submit("count", {"steps": 10}, {}, job=job) == job
    assert client.wait(job).kind == "result"
    client.submit("count", {"steps": 10}, {}, job=job)
    assert client.wait(job).kind == "result"
    client.submit("count", {"steps": 11}, {}, job=job)
    assert client.wait(job).header["code"] == "ID_CONFLICT"


def test_a_result_outlives_its_client(address, client):
    with Client(address) as other:
        job = other.submit("count", {"steps": 5}, {})
        other.status(job)
    while client.status(job)["state"] != "result":
        time.sleep(0.02)
    client.fetch(job)
    assert client.wait(job).header["steps"] == 5
    client.fetch("0" * 32)
    assert client.wait("0" * 32).header["code"] == "UNKNOWN_JOB"


def test_five_clients(address):
    results = {}

    def use(i):
        with Client(address) as client:
            jobs = [client.submit("echo", {"i": i, "k": k}, {"a": np.full(1000, i)}) for k in range(5)]
            results[i] = [client.wait(job) for job in jobs]

    threads = [threading.Thread(target=use, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i in range(5):
        assert [event.header["fields"]["k"] for event in results[i]] == list(range(5))
        assert all((event.arrays["a"] == 2 * i).all() for event in results[i])


def test_a_full_queue_refuses(client):
    blocker = client.submit("count", {"steps": 1000}, {})
    started(client, blocker)
    jobs = [client.submit("echo", {"i": i}, {}) for i in range(QUEUE_LIMIT + 3)]
    refused = [client.wait(job) for job in jobs[QUEUE_LIMIT:]]
    assert {event.header["code"] for event in refused} == {"BUSY"}
    assert all(event.header["retry_after"] > 0 for event in refused)
    assert client.status()["queued"] == QUEUE_LIMIT
    client.cancel(blocker)
    assert {client.wait(job).kind for job in jobs[:QUEUE_LIMIT]} == {"result"}


def test_malformed_messages_are_answered(address, client):
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)

        def ask(*frames):
            socket.send_multipart(frames)
            assert socket.poll(5000)
            return decode(socket.recv_multipart())[0]

        def pack(header, **outer):
            return msgpack.packb({"protocol": PROTOCOL, "header": header, "arrays": [], **outer})

        assert ask(b"\xc1")["code"] == "BAD_MESSAGE"
        assert ask(b"")["code"] == "BAD_MESSAGE"
        assert ask(pack({}), b"extra")["code"] == "BAD_MESSAGE"
        assert ask(pack({"op": "steal"}))["code"] == "UNSUPPORTED"
        assert ask(pack({"op": 7}))["code"] == "BAD_FIELD"
        assert ask(pack({"op": "hello"}))["code"] == "BAD_FIELD"
        assert ask(pack({"op": "submit", "job": "x" * 65}))["code"] == "BAD_FIELD"
        assert ask(pack({"op": "status", "request": "1", "job": [1]}))["code"] == "BAD_FIELD"
        assert ask(pack({"op": "ping", "jobs": [[]]}))["code"] == "BAD_FIELD"
        reply = ask(pack({"op": "hello"}, protocol=2))
        assert reply["code"] == "UNSUPPORTED" and "protocol 2" in reply["message"] and "protocol 1" in reply["message"]
        assert ask(pack({"op": "submit", "job": "a", "task": "echo", "fields": 3}))["kind"] == "progress"
        assert decode(socket.recv_multipart())[0]["code"] == "BAD_FIELD"
    assert client.hello()["protocol"] == PROTOCOL


def test_a_backend_of_another_protocol(client, monkeypatch):
    monkeypatch.setattr(protocol, "PROTOCOL", 2)
    with pytest.raises(BackendError, match=r"protocol 1.*protocol 2"):
        client.hello()


def test_a_dead_backend():
    before = time.monotonic()
    with Client("tcp://127.0.0.1:9") as client:
        with pytest.raises(
            BackendError, match=r"no backend answers at (tcp://127\.0\.0\.1:9); start it with `backend serve --bind \1`"
        ):
            client.hello()
        with pytest.raises(BackendError, match="no backend"):
            client.submit("echo", {}, {})
        assert client.poll() == [] and not client.alive
    assert time.monotonic() - before < 4
    with pytest.raises(BackendError, match="not an address"):
        Client("nonsense")


def test_a_worker_that_dies_or_hangs_is_replaced(client):
    job, waiting = client.submit("die", {}, {}), client.submit("echo", {}, {})
    event = client.wait(job)
    assert (event.kind, event.header["code"]) == ("error", "WORKER_DIED")
    first = client.wait(waiting)
    assert first.kind == "result"
    job = client.submit("hang", {}, {})
    started(client, job)
    client.cancel(job)
    assert client.wait(job).kind == "cancelled"
    os_pid = client.wait(client.submit("echo", {}, {})).header["pid"]
    assert os_pid != first.header["pid"]
    os.kill(os_pid, signal.SIGKILL)  # while it has nothing to do
    assert client.wait(client.submit("echo", {}, {})).kind in ("result", "error")
    assert client.wait(client.submit("echo", {}, {})).kind == "result"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(number):
    process, address = start_server()
    with Client(address, timeout_s=5) as client:
        worker = client.wait(client.submit("echo", {}, {})).header["pid"]
        job = client.submit("count", {"steps": 1000}, {})
        started(client, job)
        process.send_signal(number)
        assert process.wait(30) == (0 if number != signal.SIGKILL else -signal.SIGKILL)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{worker}").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        client.timeout_s = 0.2
        with pytest.raises(BackendError, match="no backend"):
            client.wait(job)


def test_results_are_dropped_when_they_are_too_old():
    process, address = start_server(KEEP_JOBS=2)
    try:
        with Client(address) as client:
            jobs = [client.submit("echo", {"i": i}, {}) for i in range(4)]
            for job in jobs:
                assert client.wait(job).kind == "result"
            client.hello()
            assert [client.status(job)["state"] for job in jobs] == ["unknown", "unknown", "result", "result"]
    finally:
        process.terminate()
        process.wait(30)


def test_a_restarted_backend_has_lost_its_jobs(tmp_path):
    bind = f"ipc://{tmp_path}/backend"
    code = f"from backend import server; server.serve({bind!r}, 'cpu', 'backend_jobs')"
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start():
        return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL)

    process = start()
    with Client(bind) as client:
        deadline = time.monotonic() + 60
        while not client.alive and time.monotonic() < deadline:
            client.poll()
            time.sleep(0.02)
        job = client.submit("count", {"steps": 1000}, {})
        until(client, job, "progress")
        process.kill()
        process.wait()
        process = start()
        assert until(client, job, "error").header["code"] == "LOST"
        assert client.alive
    process.terminate()
    process.wait(30)


@pytest.mark.parametrize(
    "bind, endpoint",
    [
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://127.0.0.1:*", "tcp://127.0.0.1:*"),
        ("tcp://localhost:1", "tcp://127.0.0.1:1"),
        ("tcp://[::1]:1", "tcp://[::1]:1"),
        ("ipc:///tmp/x", "ipc:///tmp/x"),
    ],
)
def test_loopback_addresses(bind, endpoint):
    assert endpoint_of(bind) == endpoint


OTHERS = (
    "tcp://0.0.0.0:1 tcp://*:1 tcp://[::]:1 tcp://192.168.1.2:1 tcp://example.org:1 tcp://eth0:1 udp://127.0.0.1:1 "
    "tcp://127.0.0.1.example.org:1 inproc://x ipc:// tcp:// tcp://127.0.0.1 x"
)


@pytest.mark.parametrize("bind", ["", *OTHERS.split()])
def test_other_addresses_are_refused(bind):
    with pytest.raises(BackendError):
        Server(bind)


def test_an_address_in_use_is_refused(address):
    with pytest.raises(BackendError, match="in use"):
        Server(address)


# --- keys


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service with keys: its address, and the folder of the keys."""
    folder = tmp_path_factory.mktemp("keys") / "ours"
    make_keys(folder)
    process, address = start_server(folder)
    yield address, folder
    process.terminate()
    assert process.wait(30) == 0


def test_with_the_right_keys_it_works(guarded):
    address, folder = guarded
    with Client(address, keys=Keys.read(folder / "client.json")) as client:
        assert client.hello()["protocol"] == PROTOCOL
        event = client.wait(client.submit("echo", {}, {"a": np.ones(300_000)}))
        assert event.kind == "result" and event.arrays["a"].sum() == 600_000
        assert not client.refused


def test_wrong_and_missing_keys_are_refused_in_time(guarded, address, tmp_path):
    address_of_guarded, folder = guarded
    make_keys(tmp_path / "others")
    ours, others = Keys.read(folder / "client.json"), Keys.read(tmp_path / "others" / "client.json")
    for where, keys, words in (
        (address_of_guarded, None, "only clients with keys"),
        (address_of_guarded, others, "does not accept these keys"),  # of another backend
        (address_of_guarded, others._replace(server=ours.server), "does not accept these keys"),  # nobody we know
        (address_of_guarded, ours._replace(secret=others.secret), "does not accept these keys"),
        (address, ours, "leave Keys empty if it has none"),  # this one has none
    ):
        began = time.monotonic()
        with Client(where, timeout_s=5, keys=keys) as client, pytest.raises(BackendError, match=words):
            client.hello()
        assert time.monotonic() - began < 2, words
        with Client(where, keys=keys) as client:  # as a user interface does it
            until_s = time.monotonic() + 4
            while not client.refused and time.monotonic() < until_s:
                assert client.poll() == [] and not client.alive
                time.sleep(0.02)
            assert words in client.trouble()


def test_without_an_answer_nobody_gets_in(guarded):
    """Keys that are right do not do while no gate says so."""
    _, folder = guarded
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        Gate.guard(socket, ServerKeys.read(folder))
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        keys, address = Keys.read(folder / "client.json"), f"tcp://127.0.0.1:{port}"
        with Client(address, timeout_s=0.5, keys=keys) as client, pytest.raises(BackendError):
            client.hello()
        assert not socket.poll(0)


def test_a_raw_socket_gets_no_word_in(guarded):
    """And one that stays silent keeps nobody waiting."""
    address, folder = guarded
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(address)
        socket.send(b"hello")
        assert not socket.poll(300)
        with Client(address, keys=Keys.read(folder / "client.json")) as client:
            assert client.hello()["protocol"] == PROTOCOL


def test_files_of_keys(tmp_path, capsys):
    cli.main(["keys", str(tmp_path / "k")])
    assert f"copy {tmp_path}/k/client.json" in capsys.readouterr().out
    assert {x.name: oct(x.stat().st_mode & 0o777) for x in (tmp_path / "k").iterdir()} == {
        "server.json": "0o600", "client.json": "0o600",
    }  # fmt: skip
    with pytest.raises(BackendError, match="there already"):
        make_keys(tmp_path / "k")
    (tmp_path / "k" / "server.json").unlink()
    with pytest.raises(BackendError, match=r"client\.json is there already"):
        make_keys(tmp_path / "k")
    assert [x.name for x in (tmp_path / "k").iterdir()] == ["client.json"]  # no half of a new pair
    with pytest.raises(BackendError, match="cannot be written to"):
        make_keys(tmp_path / "k" / "client.json")
    with pytest.raises(BackendError, match=r"cannot be read; choose the client\.json"):
        Keys.read(tmp_path / "none.json")
    make_keys(tmp_path / "more")
    with pytest.raises(BackendError, match=r"server\.json is the backend's own file; choose the client\.json"):
        Keys.read(tmp_path / "more" / "server.json")
    for content in ("", "[]", "{}", '{"server": "x", "public": 3, "secret": null}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(BackendError, match=r"bad\.json"):
            Keys.read(tmp_path / "bad.json")
    for key in ("a", "é" * 40, "#" * 40):  # the last one is more than 32 bytes
        with pytest.raises(BackendError, match="holds no key"):
            Client("tcp://127.0.0.1:9", keys=Keys(key, key, key))


@pytest.mark.parametrize(
    "bind, endpoint",
    [
        ("tcp://0.0.0.0:5555", "tcp://0.0.0.0:5555"),
        ("tcp://*:5555", "tcp://0.0.0.0:5555"),
        ("tcp://192.168.1.2:1", "tcp://192.168.1.2:1"),
        ("tcp://[::]:1", "tcp://[::]:1"),
        ("tcp://localhost:1", "tcp://127.0.0.1:1"),
    ],
)
def test_with_keys_any_address_is_taken(bind, endpoint):
    assert endpoint_of(bind, guarded=True) == endpoint
    if "127" not in endpoint:
        with pytest.raises(BackendError, match=r"without keys.*backend keys DIR"):
            endpoint_of(bind)
    with pytest.raises(BackendError, match="no address to listen at"):
        endpoint_of("tcp://example.org:1", guarded=True)
