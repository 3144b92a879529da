"""The table of Flax's example models says what was measured."""

import json
import pathlib

import pytest

from benchmarks import flax_models

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tutorial" / "flax.md"
RESULTS = ROOT / "benchmarks" / "results" / "flax_models_cpu.json"

SIDE = {"loss": 0.5, "accuracy": 0.75, "examples_per_second": 1234.5}
ROW = {
    "model": "Net", "api": "nnx", "optimizer": "SGD", "data": "rows", "parameters": 12345, "steps": 2000, "batch": 8,
    "early_difference": 2e-7, "largest_difference": 3e-4,
    "early_yardstick": 4e-7, "largest_yardstick": 5e-4,
    "sides": {"gradtx": SIDE, "Optax": {**SIDE, "accuracy": None}},
}  # fmt: skip
DOCUMENT = {
    "environment": {"device": "2-core CPU", "python": "3.11.1", "jax": "1", "flax": "2", "optax": "3"},
    "rows": [ROW],
}


def test_a_row_has_both_libraries_and_a_dash_for_what_there_is_not():
    head, rule, row = flax_models.markdown([ROW]).splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    assert (
        "Net, nnx | SGD | rows | 12,345 | 2,000 of 8 | 0.5000 | 0.5000 | 0.7500 | - | 2e-07 | 4e-07 | 3e-04 | 5e-04 |"
        in row
    )
    assert row.endswith("| 1,234 | 1,234 | - |")


def test_a_table_replaces_the_one_before_it_and_nothing_else(tmp_path):
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"Above.\n\n{flax_models.BEGIN}old{flax_models.END}\n\nBelow.\n")
    results.write_text(json.dumps(DOCUMENT))
    flax_models.main(["--read", str(results), "--page", str(page)])
    once = page.read_text()
    assert once.startswith("Above.\n") and once.endswith("\n\nBelow.\n") and "old" not in once
    assert "| Net, nnx |" in once and "2-core CPU, Python 3.11.1, jax 1, flax 2, optax 3." in once
    assert flax_models.with_table(once, DOCUMENT) == once


def test_the_page_shows_the_results_that_are_kept():
    page = PAGE.read_text("utf-8")
    assert flax_models.BEGIN in page and flax_models.END in page
    if RESULTS.exists():
        assert page == flax_models.with_table(page, json.loads(RESULTS.read_text("utf-8")))


def test_every_example_takes_part():
    scripts = {path.stem for path in flax_models.EXAMPLES.glob("*.py") if "__main__" in path.read_text("utf-8")}
    assert set(flax_models.NAMES) == scripts


@pytest.mark.slow
def test_a_short_run_of_one_example_is_kept_with_what_it_was_measured_with(tmp_path, capsys):
    results = tmp_path / "results.json"
    flax_models.main(["--short", "--only", "vae", "--json", str(results), "--out", str(tmp_path)])
    document = json.loads(results.read_text())
    assert [row["api"] for row in document["rows"]] == ["linen", "nnx"]
    assert document["environment"]["flax"] in capsys.readouterr().out
    assert (tmp_path / "vae" / "vae.png").exists()
