"""Claims about the example of feature and batch normalization."""

import numpy as np
import pytest


@pytest.mark.slow
def test_a_short_run_draws_and_shows_that_raw_features_need_normalization(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "batch_norm.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()[2:]]
    accuracy = {name: float(held_out) for name, _, _, held_out in rows}
    assert accuracy.keys() == example.VARIANTS.keys()
    assert all(accuracy[name] > 0.85 for name in accuracy if name != "raw features")
    assert accuracy["raw features"] < min(value for name, value in accuracy.items() if name != "raw features")


def test_normalized_features_have_a_rounder_error_surface(example):
    data, _, names = example.tumours()
    features = data["features"][:, [names.index(name) for name in example.TWO]]
    normalized = example.norm.standardize(features, example.norm.feature_statistics(features))
    _, lowest, raw = example.two_weights(features, data["label"])
    loss, _, rounder = example.two_weights(normalized, data["label"])
    assert np.all(np.isfinite(lowest)) and rounder[1] / rounder[0] < raw[1] / raw[0] / 50
    start = example.two_weights(normalized, data["label"])[1] + 0.5
    assert loss(example.descend(loss, start, 1.0)[-1]) < loss(start)


def test_evaluation_by_running_statistics_takes_one_example(example):
    params, states = example.init_network(example.jax.random.key(0), 30, normalized=True)
    data, _, _ = example.tumours()
    _, states = example.network(params, states, data["features"][:64], train=True)
    several, _ = example.network(params, states, data["features"][:3], train=False)
    one, _ = example.network(params, states, data["features"][:1], train=False)
    np.testing.assert_allclose(one[0], several[0], rtol=1e-3, atol=1e-4)


def test_a_number_of_epochs_below_one_is_refused(example, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(["--epochs", "0"])
    assert caught.value.code == 2 and "--epochs must be at least 1" in capsys.readouterr().err
