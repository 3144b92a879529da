"""Hyperparameters as data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors

PARAMS = {"w": jnp.ones(2), "b": jnp.ones(1)}


def test_values_in_force_are_read_from_anywhere_in_a_state():
    tx = gradtx.chain(
        gradtx.clip_by_global_norm(1.0),
        gradtx.tunable(gradtx.adamw, learning_rate=lambda step: 0.1 * (step + 1), weight_decay=0.5),
    )
    state = tx.init(PARAMS)
    assert {name: float(value) for name, value in gradtx.hyperparameters(state).items()} == {
        "learning_rate": pytest.approx(0.1), "weight_decay": 0.5}  # fmt: skip
    for _ in range(3):
        _, state = tx.update(PARAMS, state, PARAMS)
    inside = {"train": (state, {"more": 1})}
    assert float(gradtx.hyperparameters(inside)["learning_rate"]) == pytest.approx(0.3)


def test_names_that_occur_twice_are_written_with_their_part():
    tx = gradtx.chain(gradtx.ema(lambda step: 0.5), gradtx.ema(lambda step: 0.25))
    values = gradtx.hyperparameters(tx.init(PARAMS))
    assert {name: float(value) for name, value in values.items()} == {"ema/decay": 0.5, "ema_2/decay": 0.25}


def test_a_changed_decay_is_corrected_by_the_true_weight():
    """After steps with b = 0.9, 0.9, 0.5, an average of ones must still be one."""
    tx = gradtx.tunable(lambda decay: gradtx.chain(gradtx.ema(decay), gradtx.bias_correction(decay)), decay=0.9)
    state = tx.init(PARAMS)
    for decay in (0.9, 0.9, 0.5, 0.99, 0.0, 0.3):
        state = gradtx.set_hyperparameters(state, decay=decay)
        updates, state = tx.update(PARAMS, state)
        np.testing.assert_allclose(updates["w"], 1.0, rtol=5e-7)


def test_whole_numbers_flags_and_trees_are_handed_on():
    tx = gradtx.tunable(gradtx.sgd, learning_rate=1, momentum=0.9, nesterov=True)
    assert set(gradtx.hyperparameters(tx.init(PARAMS))) == {"learning_rate", "momentum"}


def test_a_value_that_a_bound_method_or_numpy_gives_is_accepted():
    state = gradtx.tunable(gradtx.sgd, learning_rate=np.float64(0.5)).init(PARAMS)
    state = gradtx.set_hyperparameters(state, learning_rate=np.float32(0.25))
    assert gradtx.hyperparameters(state)["learning_rate"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"learning_rat": 0.1}, errors.ArgumentTypeError, "did you mean 'learning_rate'"),
        ({"b1": 0.1}, errors.ArgumentTypeError, "follows a schedule"),
        ({"eps": 0.1}, errors.ArgumentTypeError, "not made tunable"),
        ({"learning_rate": "0.1"}, errors.ArgumentTypeError, "must be a number"),
        ({"learning_rate": float("nan")}, errors.ArgumentRangeError, "finite number .* diverged"),
        ({"learning_rate": -np.inf}, errors.ArgumentRangeError, "finite number .* diverged"),
        ({"learning_rate": jnp.array([0.1, jnp.nan])}, errors.ArgumentRangeError, "finite number .* diverged"),
        ({"learning_rate": 1e39}, errors.ArgumentRangeError, "infinite in float32"),
        ({"learning_rate": 10**400}, errors.ArgumentRangeError, "finite number"),
        ({"learning_rate": np.array([0.1, -1e39])}, errors.ArgumentRangeError, "infinite in float32"),
    ],
)
def test_bad_values_are_refused(values, error, words):
    state = gradtx.tunable(gradtx.adam, learning_rate=0.1, b1=lambda step: 0.9).init(PARAMS)
    with pytest.raises(error, match=words):
        gradtx.set_hyperparameters(state, **values)


def test_only_values_that_are_known_are_checked():
    """A traced value costs nothing, so it may be anything; and a state knows no range."""
    state = gradtx.tunable(gradtx.adam, learning_rate=0.1, b1=0.9).init(PARAMS)
    traced = jax.jit(lambda rate: gradtx.set_hyperparameters(state, learning_rate=rate))
    assert np.isnan(gradtx.hyperparameters(traced(np.nan))["learning_rate"])
    assert float(gradtx.hyperparameters(gradtx.set_hyperparameters(state, b1=1.5))["b1"]) == 1.5
    with pytest.raises(errors.ArgumentRangeError, match="b1 must be"):
        gradtx.adam(1e-3, b1=1.5)


def test_a_made_transformation_cannot_be_tuned():
    with pytest.raises(errors.ArgumentTypeError, match="made already"):
        gradtx.tunable(gradtx.adam(1e-3))  # pyright: ignore


def test_bad_arguments_fail_at_construction():
    with pytest.raises(errors.ArgumentRangeError, match=r"adam\(learning_rate=-1.0\)"):
        gradtx.tunable(gradtx.adam, learning_rate=-1.0)


def test_a_gradient_flows_to_a_hyperparameter():
    """What tuning by hypergradient needs: the learning rate is a value, not a constant of the program."""
    tx = gradtx.tunable(gradtx.sgd, learning_rate=0.5)

    def after(rate):
        state = gradtx.set_hyperparameters(tx.init(PARAMS), learning_rate=rate)
        return jnp.sum(tx.update(PARAMS, state)[0]["w"])

    assert float(jax.grad(after)(0.5)) == -2.0
