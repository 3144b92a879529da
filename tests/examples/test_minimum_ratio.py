"""Claims about the example of the minimum ratio."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="module")
def found(example):
    """Ends of runs, and those that are critical points."""
    points = example.find(12, (0, 50, 400), 200, example.examples())
    return points, points.where(points.gradient_norms <= example.CRITICAL)


def test_points_are_counted_by_hand(example):
    values = np.array([[-0.5, 0.0, 1e-8, 1.0], [1e-8, 0.1, 0.5, 1.0], [1e-3, 0.1, 0.5, 1.0]])
    share, least, most, kinds = example.counted(values, 0.0)
    assert share.tolist() == [0.5, 1.0, 1.0] and least.tolist() == [0.25, 0.75, 1.0] and most.tolist() == [0.75, 1, 1]
    assert kinds.tolist() == ["saddle", "undecided", "minimum"]
    share, least, most, kinds = example.counted(values, 1e-2)
    assert share.tolist() == least.tolist() == most.tolist() == [0.25, 0.75, 0.75]
    assert kinds.tolist() == ["saddle", "undecided", "undecided"]


@pytest.mark.slow
def test_the_gradient_gets_small_at_all_levels_of_the_loss(found):
    _, critical = found
    assert len(critical.losses) >= 12 and np.median(critical.gradient_norms) < 1e-6
    for low, high in ((0, 0.3), (0.3, 0.7), (0.7, 2)):
        assert np.any((low < critical.losses) & (critical.losses < high))


@pytest.mark.slow
def test_minimizing_the_gradient_never_makes_it_longer(example):
    batch = example.examples()
    starts = example.find(6, (0, 50), 0, batch)
    ends = example.find(6, (0, 50), 20, batch)
    assert np.all(ends.gradient_norms <= starts.gradient_norms * (1 + 1e-5))
    assert np.median(ends.gradient_norms / starts.gradient_norms) < 0.1


@pytest.mark.slow
def test_the_ratio_falls_with_the_loss_and_with_the_threshold(example, found):
    _, critical = found
    ratios = np.array([example.counted(critical.eigenvalues, threshold)[0] for threshold in example.THRESHOLDS])
    assert np.all(np.diff(ratios, axis=0) <= 0) and np.all(ratios[0].mean() > ratios[1:].mean(axis=1) + 0.1)
    for ratio in ratios:
        assert np.corrcoef(np.log(critical.losses), ratio)[0, 1] < -0.5
    kinds = [example.counted(critical.eigenvalues, threshold)[3] for threshold in example.THRESHOLDS]
    saddles = [np.sum(kind == "saddle") for kind in kinds]
    assert saddles[0] > saddles[2] > 0


@pytest.mark.slow
def test_eigenvalues_are_known_up_to_the_noise(example, found):
    _, critical = found
    batch = example.examples()
    assert example.disagreement(critical, batch) < 2 * example.NOISE
    with jax.enable_x64(True):
        batch = tuple(jnp.asarray(np.float64(array)) for array in batch)
        exact = jax.vmap(lambda w: jnp.linalg.eigvalsh(jax.hessian(example.loss)(w, batch)))
        values = np.asarray(exact(jnp.asarray(np.float64(critical.params))))
    assert values.dtype == np.float64
    errors = np.abs(values - critical.eigenvalues).max(axis=1) / np.abs(values).max(axis=1)
    assert 0 < errors.max() < example.NOISE


@pytest.mark.slow
def test_every_saddle_above_the_best_loss_has_a_way_down(example, found):
    _, critical = found
    high = critical.where(critical.losses > 0.35)
    after = example.losses_after_leaving(high, example.examples())
    assert np.all(after < 0.9 * high.losses) and np.median(after) < 0.4 * np.median(high.losses)


@pytest.mark.slow
def test_a_short_run_draws_and_counts_every_critical_point_once(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "minimum_ratio.png").read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()
    reached = int(lines[1].split()[0])
    header = lines.index("threshold  saddles  undecided  minima")
    for line, threshold in zip(lines[header + 1 : header + 4], example.THRESHOLDS, strict=True):
        given, *counts = map(float, line.split())
        assert given == threshold and sum(counts) == reached > 0


def test_nonsense_is_refused(example, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(["--networks", "0"])
    assert caught.value.code == 2 and "must be at least 1" in capsys.readouterr().err
