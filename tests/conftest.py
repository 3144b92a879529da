"""Several devices on one CPU, compiled programs kept between runs, and which cases of long tables take turns.

A test with more than three cases takes a twelfth of them where ``slow`` tests are left out, and one at least, another
twelfth than its neighbours; of the units of the law table each takes a twelfth of the laws, and the three optimizers
that everybody knows all of them. Nothing that reads the code or the documentation takes turns. With ``slow`` tests all
cases run.
"""

import os
import pathlib
from collections import Counter

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ.setdefault("NPROC", "16")  # jax 0.10 may hang with 8 virtual devices on fewer than 16 threads

import jax
import pytest

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

TURNS = 12
FEW = 3
ALL_CASES = ("tests/architecture/", "tests/test_documentation.py", "tests/test_package.py", "gradtx/")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    from tests.laws.rows import first_parts
    from tests.laws.table import UNITS

    numbers = {id(unit): number for number, unit in enumerate(UNITS)}
    every_time = {id(unit) for unit in first_parts.ROWS if unit.name in ("sgd", "adam", "adamw")}
    tests = [item.nodeid.split("[")[0] for item in items]
    cases, order, seen = Counter(tests), {test: index for index, test in enumerate(dict.fromkeys(tests))}, Counter()
    for item, test in zip(items, tests, strict=True):
        unit = id(item.callspec.params.get("unit")) if hasattr(item, "callspec") else None
        number = numbers.get(unit, seen[test])
        seen[test] += 1
        takes_all_laws = test.startswith("tests/laws/") and unit in every_time
        if cases[test] <= FEW or test.startswith(ALL_CASES) or takes_all_laws:
            continue
        if (number + order[test]) % min(TURNS, cases[test]):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_teardown(item, nextitem):
    """Drops what a test function compiled before the next one begins: a worker stays at 1 GB instead of 4."""
    if nextitem is None or getattr(item, "originalname", None) != getattr(nextitem, "originalname", None):
        jax.clear_caches()
