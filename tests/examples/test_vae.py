"""Claims about the example of a variational autoencoder in both interfaces of Flax."""

import json

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_linen_and_nnx_learn_the_same_with_both_libraries(example, tmp_path):
    rows = tmp_path / "rows.json"
    given = ["--steps", "30", "--batch-size", "32", "--out", str(tmp_path), "--json", str(rows)]
    assert example.main(given) == 0
    for name in ("vae", "vae_watched"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    linen, nnx = json.loads(rows.read_text())
    assert (linen["api"], nnx["api"]) == ("linen", "nnx") and linen["parameters"] == nnx["parameters"]
    assert linen["first_loss"] == pytest.approx(nnx["first_loss"], rel=1e-6)
    for row in (linen, nnx):
        assert row["largest_difference"] < 1e-4 * row["first_loss"]
        assert row["sides"]["gradtx"]["loss"] < 0.8 * row["first_loss"]
        assert row["sides"]["gradtx"]["loss"] == pytest.approx(linen["sides"]["Optax"]["loss"], rel=1e-4)


def test_the_bound_is_that_of_the_paper(example):
    random = np.random.default_rng(0)
    logits, image = random.normal(size=(3, 5)), random.uniform(size=(3, 5))
    mean, log_variance = random.normal(size=(2, 3, 4))
    probability = 1 / (1 + np.exp(-logits))
    likelihood = np.sum(image * np.log(probability) + (1 - image) * np.log(1 - probability), 1)
    divergence = 0.5 * np.sum(mean**2 + np.exp(log_variance) - log_variance - 1, 1)
    found, metrics = example.bound(*map(jnp.float32, (logits, mean, log_variance, image)))
    assert float(found) == pytest.approx(np.mean(divergence - likelihood), rel=1e-5)
    assert float(metrics["divergence"]) == pytest.approx(np.mean(divergence), rel=1e-5)
