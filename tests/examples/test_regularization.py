"""Claims about the example that compares regularizers."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")

EXAMPLE = Path(__file__).parents[2] / "examples" / "regularization.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("regularization", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_short_run_compares_four_ways_and_only_the_proximal_step_makes_zeros(example, tmp_path, capsys):
    assert example.main(["--short", "--epochs", "20", "--seed", "1", "--out", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "new" / "regularization.png").read_bytes().startswith(b"\x89PNG")
    rows = [re.findall(r"([\d.]+)%", line) for line in lines if line.count("%") == 2 * len(example.METHODS)]
    assert len(rows) == 6
    zeros = {method: [float(row[2 * at]) for row in rows] for at, method in enumerate(example.METHODS)}
    assert [sum(shares) for method, shares in zeros.items() if method != example.PROXIMAL] == [0, 0, 0]
    assert zeros[example.PROXIMAL] == sorted(zeros[example.PROXIMAL]) and zeros[example.PROXIMAL][-1] > 90
    assert lines[-1].startswith("test accuracy ") and float(lines[-1].split()[-1]) > 0.85


def test_an_unwritable_folder_is_one_line_on_stderr_and_status_2(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "METHODS", {example.PROXIMAL: example.METHODS[example.PROXIMAL]})
    (tmp_path / "file").write_text("")
    assert example.main(["--short", "--epochs", "1", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("regularization.py: ")


@pytest.mark.parametrize("arguments", [["--epochs", "-1"], ["--networks", "-2"], ["--seed", "x"]])
def test_bad_options_end_with_status_2(example, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        example.main(arguments)
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize("package", ["sklearn", "matplotlib", "tqdm"])
def test_a_missing_package_is_one_line_that_names_the_extra(package):
    run = f"import sys, runpy; sys.modules[{package!r}] = None; runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", run], cwd=EXAMPLE.parents[1], capture_output=True, text=True)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"regularization.py: {package}")
    assert line.endswith("is missing; write pip install gradtx[examples]")
