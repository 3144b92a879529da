"""Claims about the example that follows the spectrum through training."""

import jax
import numpy as np
import pytest


@pytest.mark.slow
def test_a_short_run_draws_and_prints_a_row_for_each_moment(example, tmp_path, capsys):
    assert example.main(["--short", "--steps", "10", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "spectrum_training.png").read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    rows = [line.replace("[", " ").replace("]", " ").replace(",", " ").replace("%", "").split() for line in lines[2:4]]
    for step, row in zip((0, 10), rows, strict=True):
        index, _, _, low, from_low, to_low, high, from_high, to_high, *shares, products = map(float, row)
        assert index == step and products <= 60
        assert from_low <= low <= to_low < 0 < from_high <= high <= to_high
        assert sum(shares) == pytest.approx(100, abs=0.2)
    assert lines[4] == "the largest eigenvalue has not reached 2 / rate = 20"


@pytest.mark.slow
def test_descent_ends_at_the_edge_of_stability_with_fewer_negative_eigenvalues(example):
    batch = example.digits()
    history, kept = example.train(example.init(jax.random.key(0)), batch, 1300)
    assert list(kept) == [step for step in example.MOMENTS if step <= 1300]
    start, end = (example.measure(step, kept[step], batch, 3, 60) for step in (0, 1300))
    assert start.report.lambda_max < 0.6 * example.EDGE
    assert 0.97 * example.EDGE < end.report.lambda_max < 1.1 * example.EDGE
    assert end.spectrum.share_intervals[0][1] < start.spectrum.share_intervals[0][0]
    before, after = history[500:650], history[900:1300]
    assert after[:, 0].max() < before[:, 0].min() and after[:, 1].min() > before[:, 1].max()
    assert history[0] == pytest.approx((start.report.loss, start.report.gradient_norm), rel=1e-4)
    assert example.at_edge([start, end]) is end and example.at_edge([start]) is None


def test_the_density_drawn_integrates_to_one(example):
    params = example.init(jax.random.key(0))
    found = example.measure(0, params, example.digits(), 1, 20).spectrum
    points = np.linspace(-5, 15, 4001)
    curve = example.curvature.density(found, points, width=example.WIDTH)
    assert np.sum(curve) * (points[1] - points[0]) == pytest.approx(1, rel=1e-3)


def test_nonsense_is_refused(example, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(["--steps", "0"])
    assert caught.value.code == 2 and "must be at least 1" in capsys.readouterr().err
