"""Claims about the example of Flax's convolutional networks."""

import json

import jax
import numpy as np
import pytest


@pytest.mark.slow
def test_a_few_steps_learn_the_same_with_both_libraries(example, tmp_path):
    rows = tmp_path / "rows.json"
    given = ["--steps", "30", "--batch-size", "32", "--out", str(tmp_path / "new" / "folder"), "--json", str(rows)]
    assert example.main(given) == 0
    for name in ("convnet", "convnet_watched"):
        assert (tmp_path / "new" / "folder" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    plain, normalized = json.loads(rows.read_text())
    assert (plain["model"], normalized["model"]) == ("ConvNet", "ResNet")
    assert plain["largest_difference"] < 1e-4 and normalized["early_difference"] < 0.05
    for row in (plain, normalized):
        assert row["sides"]["gradtx"]["loss"] == pytest.approx(row["sides"]["Optax"]["loss"], abs=0.05)
    assert normalized["sides"]["gradtx"]["accuracy"] > 0.6


def test_the_running_statistics_are_those_of_gradtx(example):
    found = jax.eval_shape(
        lambda images: example.ResNet().init(jax.random.key(0), images, train=False), np.zeros((2, 8, 8, 1), np.float32)
    )
    assert found["batch_stats"]["BatchNorm_0"].keys() == {"mean", "var", "step"}
    assert found["batch_stats"]["Block_1"].keys() == {"BatchNorm_0", "BatchNorm_1", "BatchNorm_2"}
