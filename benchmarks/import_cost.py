"""What ``import gradtx`` costs on top of ``import jax``, which every program that uses it pays anyway.

    python -m benchmarks.import_cost [--rounds 9] [--json FILE]

Each round is a fresh interpreter; a first one, which still writes byte code, is not counted. Exits with 1 where the
median is above the limit.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

from benchmarks.reporting import environment, table, write_json

LIMIT = 0.15  # seconds

PROGRAM = """
import sys, time
began = time.perf_counter()
import jax, jax.numpy
had_jax, modules = time.perf_counter(), len(sys.modules)
import gradtx
print(had_jax - began, time.perf_counter() - had_jax, len(sys.modules) - modules)
"""


def measure(byte_code: str) -> tuple[float, float, int]:
    """Seconds for jax, seconds for gradtx after it, and the number of modules that it adds."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environ["PYTHONPYCACHEPREFIX"] = byte_code
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, env=environ)
    jax_seconds, own_seconds, modules = run.stdout.split()
    return float(jax_seconds), float(own_seconds), int(modules)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="fresh interpreters")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as byte_code:
        measure(byte_code)
        rounds = [measure(byte_code) for _ in range(given.rounds)]
    modules = {"jax": None, "gradtx": rounds[0][2]}
    rows = []
    for index, (name, added) in enumerate(modules.items()):
        seconds = [measured[index] for measured in rounds]
        quickest, median, slowest = min(seconds), statistics.median(seconds), max(seconds)
        rows.append({"import": name, "min s": quickest, "median s": median, "max s": slowest, "modules": added})

    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print(table(rows, list(rows[0])))
    print(f"limit for gradtx: {LIMIT} s")
    if given.json:
        write_json(given.json, rows, benchmark="import_cost", arguments={"rounds": given.rounds, "limit": LIMIT})
    return int(rows[-1]["median s"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
