"""Claims about the example that trains with several processes."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.examples.conftest import EXAMPLES


@pytest.fixture
def run():
    """Runs the example as a user does; what it starts does not outlive the test."""
    groups = []

    def started(*arguments):
        command = [sys.executable, EXAMPLES / "multihost.py", *map(str, arguments)]
        cache = {"JAX_COMPILATION_CACHE_DIR": str(EXAMPLES.parent / ".cache" / "jax")}
        child = subprocess.Popen(
            command, cwd=EXAMPLES.parent, env={**cache, **os.environ}, start_new_session=True, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        groups.append(child)
        out, err = child.communicate(timeout=300)
        print(out, err, sep="\n")
        return child.returncode, out, err

    yield started
    for child in groups:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        finally:
            child.wait()


def assert_trains_like_one(run, folder, processes, parallel):
    status, out, _ = run("--short", "--processes", processes, "--parallel", parallel, "--out", folder)
    assert status == 0
    lines = [line for line in out.splitlines() if "peer ranks" not in line]  # of several processes, in pieces
    assert len(lines) == 3 and lines[0].startswith(f"{processes} processes, {parallel}, 20 steps")
    found = json.loads((folder / "multihost.json").read_text())
    assert found["devices"] == processes and len(found["parameter_differences"]) == 20
    assert found["gradient_difference"] < 1e-6
    assert found["parameter_differences"][-1] < 1e-5
    assert found["losses"][-1] < 0.6 * found["losses"][0]
    assert (folder / "multihost.png").read_bytes().startswith(b"\x89PNG")


def test_two_processes_train_like_one(run, tmp_path):
    assert_trains_like_one(run, tmp_path, 2, "jit")


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "parallel"), [(2, "zero"), (4, "jit"), (4, "zero")])
def test_four_processes_and_a_state_in_parts_train_like_one(run, tmp_path, processes, parallel):
    assert_trains_like_one(run, tmp_path, processes, parallel)


def test_a_missing_process_is_named_in_one_line(run, tmp_path):
    address = ["--coordinator", "127.0.0.1:19999"]
    status, out, err = run("--processes", 2, "--process-id", 1, *address, "--timeout", 1, "--out", tmp_path)
    assert status == 1 and out == ""
    (line,) = err.splitlines()
    assert line.startswith("multihost.py: watch_processes(") and "no sign of process 0 on 127.0.0.1" in line
