"""Claims about processes that watch each other: when one is missing the others end, and say which one it was."""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest

from gradtx import errors
from gradtx.training import global_batch, watch_processes

HOST = socket.gethostname()
ROOT = pathlib.Path(__file__).parents[2]

BEGIN = """
import sys, time
import jax, jax.numpy as jnp
from gradtx.training import global_batch, watch_processes

number, count, port = map(int, sys.argv[1:4])
watch = watch_processes(f"127.0.0.1:{port + 1}", count, number, timeout=float(sys.argv[4]))
"""

# Importing JAX takes one process longer than another, which is not to count as silence.
MEET = """
with watch_processes(f"127.0.0.1:{port + 2}", count, number, timeout=60):
    pass
"""

# All sum one number of each, again and again: whoever is missing leaves the others in a collective operation.
SUM = """
with watch:
    jax.distributed.initialize(f"127.0.0.1:{port}", count, number)
    mesh = jax.make_mesh((count,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    whole = jax.jit(jnp.sum, out_shardings=jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    while True:
        assert float(whole(global_batch(jnp.ones(1), mesh))) == count
        print("ready", flush=True)
        time.sleep(0.05)
"""

WAIT = """
with watch:
    print("ready", flush=True)
    time.sleep(60)
"""

FAIL = """
with watch:
    if number == int(sys.argv[5]):
        raise ValueError("no such file")
    time.sleep(60)
"""

FINISH = """
with watch:
    time.sleep(1.0 if number else 0.0)
print("ready", flush=True)
"""

COMPILE = """
def deep(x):
    for layer in range(240):
        x = jnp.sin(x @ x.T) * layer
    return x

with watch:
    program = jax.jit(deep).lower(jnp.ones((8, 8)))
    began = time.monotonic()
    program.compile()
    print("ready", time.monotonic() - began, flush=True)
"""


def free_port():
    """A port that is free together with the next two, below those that the system gives away by itself."""
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with contextlib.suppress(OSError):
            for number in (port, port + 1, port + 2):
                socket.create_server(("127.0.0.1", number)).close()
            return port


@pytest.fixture
def start(tmp_path):
    """``start(program, numbers, count, timeout)``: processes, and functions that give what each printed so far."""
    children = []

    def started(program, numbers, count, timeout, *arguments):
        port, environment = free_port(), {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for number in numbers:
            with (tmp_path / f"{number}.txt").open("w") as output:
                command = [sys.executable, "-c", BEGIN + program, *map(str, (number, count, port, timeout, *arguments))]
                child = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)
            children.append(child)
        return children, [lambda number=number: (tmp_path / f"{number}.txt").read_text() for number in numbers]

    yield started
    for child in children:
        child.kill()
        child.wait()
    for path in sorted(tmp_path.iterdir()):  # shown if the test failed
        print(f"--- process {path.stem}\n{path.read_text()}")


def wait_until_ready(children, outputs):
    deadline = time.monotonic() + 120
    while not all("ready" in output() for output in outputs):
        assert all(child.poll() is None for child in children)
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_others_end_and_say(what, children, outputs, victim):
    for number, (child, output) in enumerate(zip(children, outputs, strict=True)):
        if number == victim:
            continue
        assert child.wait(60) == 1
        assert f"process {number} on {HOST}: watch_processes(" in output()
        assert f"got {what}" in output()


# One is missing.


def test_a_killed_process_ends_another_in_a_collective_operation(start):
    children, outputs = start(SUM, range(2), 2, 30)
    wait_until_ready(children, outputs)
    children[1].kill()
    assert_others_end_and_say(f"process 1 on {HOST} gone", children, outputs, 1)


def test_a_stopped_process_ends_another_in_a_collective_operation(start):
    children, outputs = start(MEET + SUM, range(2), 2, 3)
    wait_until_ready(children, outputs)
    children[1].send_signal(signal.SIGSTOP)
    assert_others_end_and_say(f"no word from process 1 on {HOST} for 3 s", children, outputs, 1)


@pytest.mark.slow
def test_process_0_killed_ends_another_in_a_collective_operation(start):
    children, outputs = start(SUM, range(2), 2, 30)
    wait_until_ready(children, outputs)
    children[0].kill()
    assert_others_end_and_say("process 0 on 127.0.0.1 gone", children, outputs, 0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", range(3))
def test_a_stopped_process_ends_all_others(start, victim):
    children, outputs = start(MEET + WAIT, range(3), 3, 3)
    wait_until_ready(children, outputs)
    children[victim].send_signal(signal.SIGSTOP)
    where = HOST if victim else "127.0.0.1"
    assert_others_end_and_say(f"no word from process {victim} on {where} for 3 s", children, outputs, victim)


@pytest.mark.slow
@pytest.mark.parametrize("victim", range(2))
def test_an_exception_in_one_process_ends_all_with_its_name(start, victim):
    children, outputs = start(FAIL, range(3), 3, 30, victim)
    assert_others_end_and_say(
        f"process {victim} on {HOST} ended by ValueError: no such file", children, outputs, victim
    )
    assert children[victim].wait(60) == 1
    assert outputs[victim]().splitlines()[-1] == "ValueError: no such file"


def test_a_process_that_never_starts_is_named_by_the_others(start):
    children, outputs = start(WAIT, range(2), 4, 8)
    for child, output in zip(children, outputs, strict=True):
        assert child.wait(60) == 1
        assert "got no sign of process 2, 3 within 8 s" in output()


def test_process_0_that_never_starts_is_named():
    with pytest.raises(errors.ProcessError, match=r"no sign of process 0 on 127.0.0.1 within 0.5 s"):
        enter(free_port(), 2, 1, 0.5)


# Nobody is missing.


@pytest.mark.slow
def test_a_long_compilation_is_no_silence(start):
    children, outputs = start(MEET + COMPILE, range(2), 2, 2)
    for child, output in zip(children, outputs, strict=True):
        assert child.wait(120) == 0
        assert float(output().split()[-1]) > 2.0


@pytest.mark.slow
def test_process_0_waits_for_those_that_take_longer(start):
    children, _ = start(FINISH, range(3), 3, 30)
    assert [child.wait(60) for child in children] == [0, 0, 0]


# Meeting, in threads of one process.


def enter(port, processes, number, timeout):
    with watch_processes(f"127.0.0.1:{port}", processes, number, timeout=timeout):
        pass


@pytest.fixture
def in_threads():
    """``in_threads(port, (processes, number), ...)``: what each of them raises, or None."""

    def run(port, *who, timeout=2.0):
        found = [None] * len(who)

        def one(index, processes, number):
            try:
                enter(port, processes, number, timeout)
            except errors.ProcessError as error:
                found[index] = error.got

        threads = [threading.Thread(target=one, args=(index, *each)) for index, each in enumerate(who)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    return run


def test_all_that_meet_go_on(in_threads):
    assert in_threads(free_port(), (3, 1), (3, 0), (3, 2), timeout=30.0) == [None, None, None]


def test_two_with_one_number_are_an_error_of_the_second(in_threads):
    found = in_threads(free_port(), (3, 0), (3, 1), (3, 1))
    assert found[0] == "no sign of process 2 within 2 s"
    assert sorted(found[1:]) == [found[0], f"process_id=1 from {HOST} a second time"]


def test_another_number_of_processes_is_an_error(in_threads):
    found = in_threads(free_port(), (2, 0), (4, 1))
    assert found == ["no sign of process 1 within 2 s", f"processes=4 from process 1 on {HOST}, but 2 from process 0"]


def test_strangers_do_not_disturb_a_meeting(in_threads):
    port = free_port()

    def call():
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5) as silent:
                with socket.create_connection(("127.0.0.1", port), 5) as talking:
                    talking.sendall(b"GET / HTTP/1.1\r\n\r\njoin x\njoin 1\n" + bytes(range(256)))
                    silent.settimeout(5)
                    assert silent.recv(1) == b""
                return
            time.sleep(0.05)

    stranger = threading.Thread(target=call)
    stranger.start()
    late = threading.Timer(1.0, enter, (port, 2, 1, 30.0))
    late.start()
    assert in_threads(port, (2, 0), timeout=30.0) == [None]
    stranger.join()
    late.join()


@pytest.mark.parametrize("address", ["9911", "localhost", "localhost:", ":9911", "localhost:0", "localhost:70000"])
def test_an_address_without_host_or_port_is_an_error(address):
    with pytest.raises(errors.ArgumentRangeError, match='address must be "HOST:PORT"'):
        watch_processes(address, 2, 0)


def test_a_number_that_no_process_has_is_an_error():
    with pytest.raises(errors.ArgumentRangeError, match="process_id must be less than processes=2"):
        watch_processes("localhost:9911", 2, 2)


@pytest.mark.parametrize("options", [{"timeout": 0.0}, {"processes": 0}, {"process_id": -1}])
def test_numbers_out_of_range_are_errors(options):
    with pytest.raises(errors.ArgumentRangeError):
        watch_processes(**{"address": "localhost:9911", "processes": 2, "process_id": 0, **options})


def test_a_port_in_use_is_an_error():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(errors.ProcessError, match=f"cannot listen on 127.0.0.1:{port}"):
            enter(port, 2, 0, 1.0)


# The examples of each process as one batch.

MESH = jax.make_mesh((4, 2), ("data", "model"))


def test_a_global_batch_is_split_along_its_axis_and_a_number_is_everywhere():
    batch = {"x": np.arange(8.0).reshape(8, 1), "label": np.arange(8), "weight": 2.0}
    placed = global_batch(batch, MESH)
    assert placed["x"].sharding.spec == placed["label"].sharding.spec == jax.sharding.PartitionSpec("data")
    assert placed["weight"].sharding.is_fully_replicated
    assert {shard.data.shape for shard in placed["x"].addressable_shards} == {(2, 1)}
    assert {shard.data.shape for shard in global_batch(batch, MESH, "model")["x"].addressable_shards} == {(4, 1)}
    jax.tree.map(np.testing.assert_array_equal, placed, batch)


@pytest.mark.parametrize(
    ("batch", "mesh", "error", "message"),
    [
        (np.ones(6), MESH, errors.BatchError, "4 devices of this process divide, got 6"),
        ({"x": np.ones(8), "y": np.ones(4)}, MESH, errors.BatchError, "one length"),
        (np.ones(8), MESH.abstract_mesh, errors.ArgumentTypeError, "mesh must have devices"),
        (np.ones(8), None, errors.ArgumentTypeError, "mesh must be a mesh of devices"),
    ],
)
def test_what_cannot_be_a_global_batch_is_an_error(batch, mesh, error, message):
    with pytest.raises(error, match=message):
        global_batch(batch, mesh)
