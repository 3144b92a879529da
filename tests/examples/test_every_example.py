"""Claims about all examples."""

import subprocess
import sys

import pytest

from tests.examples.conftest import EXAMPLES

SCRIPTS = sorted(path for path in EXAMPLES.rglob("*.py") if "__main__" in path.read_text("utf-8"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_missing_package_is_one_line_that_names_the_extra(script):
    hide = f"import sys, runpy; sys.modules['matplotlib'] = None; sys.path.insert(0, {str(script.parent)!r}); "
    run = f"runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", hide + run], cwd=EXAMPLES.parent, capture_output=True, text=True)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{script.name}: matplotlib")
    assert line.endswith("is missing; write pip install gradtx[examples]")
