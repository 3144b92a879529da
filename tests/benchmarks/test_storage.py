"""Stored state trains like float32, and the benchmark that says so can say no."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import storage

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "storage.md"
RESULTS = ROOT / "benchmarks" / "results" / "storage_cpu.json"
LINEAR = "8 bits, linear second moment"


@pytest.fixture(scope="module")
def rows():
    """On axes whose curvatures differ by 300, all in one block."""
    return storage.measured(storage.problem_task("bowl"), ("float32", "8 bits", LINEAR))


def test_eight_bits_end_within_the_spread_of_float32_over_seeds(rows):
    exact, small, _ = rows
    assert exact["loss"] < -6 and exact["within"] and small["within"]
    assert 2.25 < small["state"] < exact["state"] / 2


def test_plain_linear_codes_of_second_moments_do_not(rows):
    assert not rows[2]["within"]
    assert rows[2]["difference"] > 10 * rows[2]["float32 deviation"]


@pytest.mark.parametrize(("away", "within"), [(0.9, True), (1.1, False), (-5.0, True)])
def test_the_verdict_is_one_deviation_above_float32(away, within):
    exact = np.array([1.0, 2.0, 4.0, 3.0])
    row = storage.row_of("task", "kept", storage.Bytes(1, 2), exact + away * np.std(exact, ddof=1), exact)
    assert row["within"] == within
    assert row["interval"] == pytest.approx([row["difference"]] * 2)  # what all seeds share has no interval


def test_the_interval_is_students_of_the_differences_by_seed():
    row = storage.row_of("task", "kept", storage.Bytes(1, 2), np.array([2.0, 3.0, 4.0]), np.array([1.0, 1.0, 1.5]))
    quantile = 0.95 / (2 * 0.975 * 0.025) ** 0.5  # of Student's t with 2 degrees of freedom, in closed form
    half = quantile * np.std([1.0, 2.0, 2.5], ddof=1) / 3**0.5
    assert row["interval"] == pytest.approx([11 / 6 - half, 11 / 6 + half])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_seed_that_is_not_finite_is_a_no_and_survives_json(bad, tmp_path):
    exact = np.array([1.0, 2.0, 3.0])
    cases = {"float32": exact, "broken": np.array([1.0, bad, 3.0])}
    rows = [storage.row_of("task", name, storage.Bytes(1, 2), last, exact) for name, last in cases.items()]
    assert not rows[1]["within"] and rows[1]["not finite"] == 1
    path, page, picture = tmp_path / "rows.json", tmp_path / "page.md", tmp_path / "picture.png"
    page.write_text(f"Above.\n\n{storage.BEGIN}old{storage.END}\n\nBelow.\n")
    document = {"environment": {"device": "1-core CPU", "python": "3", "jax": "1"}}
    plain = [{name: storage._plain(value) for name, value in row.items()} for row in rows]
    path.write_text(json.dumps({**document, "rows": plain}, allow_nan=False))
    storage.main(["--read", str(path), "--page", str(page), "--picture", str(picture)])
    shown = page.read_text()
    assert shown.startswith("Above.\n") and shown.endswith("\n\nBelow.\n") and "old" not in shown
    assert "**not finite** for 1" in shown
    assert storage.with_table(shown, storage.results_in(path)) == shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_bytes_of_a_parameter_are_weights_gradients_and_state():
    start = {"w": jax.ShapeDtypeStruct((storage.SEEDS, 1024, 1024), jnp.float32)}
    task = storage.Task("large", start, None, None, lambda *_: 0.0, lambda *_: 0.0, 1e-3, 100)
    totals = {name: round(storage.bytes_of(task, kept).total, 3) for name, kept in storage.KEPT.items()}
    assert totals == {
        "float32": 16.0, "bfloat16": 12.0, "bfloat16, stochastic": 12.0, "8 bits": 10.25, "8 bits, stochastic": 10.25,
        "4 bits": 9.25, "bfloat16 weights, masters, 8 bits": 7.25, "bfloat16 weights, masters": 14.0,
        "bfloat16 weights alone": 12.0, LINEAR: 10.25,
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [["--text", "short.txt"], ["--text", "none.txt"], ["--data", "."]], ids=" ".join)
def test_what_cannot_be_read_is_one_line_before_anything_runs(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("short.txt").write_text("short")
    assert storage.main(["--only", "text" if arguments[0] == "--text" else "digits", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and arguments[1].strip(".") in said


def test_the_page_shows_the_results_that_are_kept():
    page = PAGE.read_text("utf-8")
    assert storage.BEGIN in page and storage.END in page
    if RESULTS.exists():
        assert page == storage.with_table(page, storage.results_in(RESULTS))
