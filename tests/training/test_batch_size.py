"""Claims about what the batch size decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors, training

EXAMPLES = 24
RANDOM = np.random.default_rng(0)
DATA = {"x": RANDOM.normal(size=(EXAMPLES, 3)).astype(np.float32), "y": RANDOM.normal(size=EXAMPLES).astype(np.float32)}
PARAMS = jnp.array([0.5, -1.0, 2.0])


def squared_error(params, batch):
    return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)


LOSS = training.from_plain(squared_error)


def a_state(params=PARAMS):
    tx = gradtx.only(gradtx.sgd(0.1), lambda path, leaf: jnp.issubdtype(leaf.dtype, jnp.floating))
    return training.create_train_state(jax.tree.map(jnp.array, params), tx, key=jax.random.key(0))


def gradients_of_examples(params):
    x, y = np.float64(DATA["x"]), np.float64(DATA["y"])
    return 2 * (x @ np.float64(params) - y)[:, None] * x


@pytest.mark.parametrize("batch_size", [1, 4, 6, 24])
def test_the_gradient_of_a_batch_is_unbiased_and_its_variance_is_that_of_sampling(batch_size):
    each = gradients_of_examples([0.5, -1.0, 2.0])
    spread = np.sum((each - each.mean(0)) ** 2) / EXAMPLES
    noise = training.gradient_noise(LOSS, a_state(), DATA, batch_size, key=jax.random.key(1), epochs=300)
    np.testing.assert_allclose(noise.squared_norm, np.sum(each.mean(0) ** 2), rtol=1e-5)
    assert noise.bias < 1e-5  # every epoch has each example once
    expected = spread / batch_size * (EXAMPLES - batch_size) / (EXAMPLES - 1)
    np.testing.assert_allclose(noise.variance, expected, rtol=0.1, atol=1e-9)


def test_a_ragged_last_batch_is_left_out_of_the_noise_but_not_of_the_full_gradient():
    noise = training.gradient_noise(LOSS, a_state(), DATA, 7, key=jax.random.key(1), epochs=200)
    assert noise.batches == 3 * 200
    full = gradients_of_examples([0.5, -1.0, 2.0]).mean(0)
    np.testing.assert_allclose(noise.squared_norm, np.sum(full**2), rtol=1e-5)
    assert noise.bias < 4 * noise.bias_error


def test_low_precision_rounds_the_gradients_and_not_their_sums():
    """Of 1,200 batches: a sum in bfloat16 loses what is below 2^-9 of it, so it stops after a few hundred."""
    data = jax.tree.map(lambda leaf: np.concatenate([leaf] * 100), DATA)
    wide, low = (
        training.gradient_noise(LOSS, a_state(params), data, 2, key=jax.random.key(1))
        for params in (PARAMS, PARAMS.astype(jnp.bfloat16))
    )
    np.testing.assert_allclose(low.squared_norm, wide.squared_norm, rtol=2.0**-8)
    np.testing.assert_allclose(low.variance, wide.variance, rtol=2.0**-8)
    assert low.bias < 2.0**-8 * np.sqrt(wide.squared_norm)


def test_integers_among_the_parameters_have_no_gradient():
    loss = training.from_plain(lambda params, batch: squared_error(params["w"], batch) * params["scale"][0])
    state = a_state({"scale": jnp.ones(2, jnp.int32), "w": PARAMS})
    found = training.gradient_noise(loss, state, DATA, 4, key=jax.random.key(1))
    assert found == training.gradient_noise(LOSS, a_state(), DATA, 4, key=jax.random.key(1))


def test_batches_of_one_size_are_compiled_once():
    traces = 0

    def counted(params, batch):
        nonlocal traces
        traces += 1
        return squared_error(params, batch)

    training.gradient_noise(training.from_plain(counted), a_state(), DATA, 6, key=jax.random.key(1), epochs=3)
    assert traces == 1


def compared(**changed):
    arguments = dict(batch_sizes=[4, 24], epochs=30, seeds=[0, 1]) | changed
    return training.compare_batch_sizes(
        LOSS, gradtx.sgd(0.02), lambda key: (jax.random.normal(key, 3), None), DATA, DATA, **arguments
    )


def test_small_batches_learn_more_in_the_same_epochs_and_the_table_says_so():
    small, full = compared()
    assert (small.batch_size, small.updates_per_epoch) == (4, 6) and (full.batch_size, full.updates_per_epoch) == (
        24,
        1,
    )
    assert small.training_loss < full.training_loss
    assert small.gradient_variance > 0.1 > 1e-6 > full.gradient_variance
    assert small.gap == full.gap == 0.0  # the test data are the training data
    assert small.seconds_per_epoch > small.seconds_per_update > 0
    lines = repr(training.BatchSizes([small, full])).splitlines()
    assert lines[0].split()[:2] == ["batch", "size"] and lines[2].startswith("24")


def test_a_learning_rate_may_follow_the_batch_size():
    rows = training.compare_batch_sizes(
        LOSS, lambda size: gradtx.sgd(0.02 * size / 4), lambda key: (jnp.zeros(3), None), DATA, DATA,
        batch_sizes=[4, 8], epochs=1, seeds=[0],
    )  # fmt: skip
    assert rows[0].training_loss != rows[1].training_loss


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_sizes": []}, "at least one"),
        ({"batch_sizes": [25]}, "from 1 to the 24 examples"),
        ({"batch_sizes": [0]}, "from 1"),
        ({"seeds": []}, "at least one seed"),
        ({"epochs": 0}, "epochs"),
    ],
)
def test_bad_arguments_fail_before_anything_runs(changed, words):
    with pytest.raises(errors.ArgumentRangeError, match=words):
        compared(**changed)
