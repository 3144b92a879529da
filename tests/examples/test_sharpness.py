"""Claims about the example that measures sharpness."""

import numpy as np
import pytest


@pytest.mark.slow
def test_a_short_run_stops_at_one_loss_draws_and_says_which_measures_differ(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "sharpness.png").read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    rows = {tuple(line.split()[:2]): line.replace(",", "").split()[2:] for line in lines[2:8]}
    assert list(rows) == [(size, seed) for size in ("10", "600") for seed in ("0", "1", "mean")]
    for size in ("10", "600"):
        values = np.array([[float(cell) for cell in rows[size, seed]] for seed in ("0", "1", "mean")])
        np.testing.assert_allclose(values[2, 1:], values[:2, 1:].mean(0), rtol=0.01)
        assert np.all(values[:, 1] < 0.3) and np.all(values[:, 2] > 0.8)
        np.testing.assert_allclose(values[:, 8], values[:, 4] * example.RATE / 2, rtol=0.02)
    assert [line.split(":")[0] for line in lines[8:]] == list(example.MEASURES[1:7])


def test_only_a_measure_that_separates_all_runs_counts_as_a_difference(example):
    def runs(*column):
        return [example.Solution([], 1, (0.01, *[value] * 7)) for value in column]

    said = example.verdict({example.SMALL: runs(1.0, 2.0), example.LARGE: runs(1.5, 4.0)})
    assert said.splitlines()[0] == "test accuracy: no clear difference"
    said = example.verdict({example.SMALL: runs(1.0, 2.0), example.LARGE: runs(2.5, 3.5)})
    assert said.splitlines()[2] == "lambda max: larger for the large batch, 2 times"


def test_nonsense_is_refused(example, capsys):
    for given in (["--seeds", "0"], ["--target", "0"]):
        with pytest.raises(SystemExit) as caught:
            example.main(given)
        assert caught.value.code == 2 and "must be at least 1" in capsys.readouterr().err
