"""Scaling on a plateau: when it comes, what counts, and what does not."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.papers import plateau_oracles as oracles

NAN, INF = float("nan"), float("inf")
CASES = {
    "defaults": {},
    "impatient": {"factor": 0.5, "patience": 1},
    "relative": {"factor": 0.5, "patience": 2, "rtol": 0.2},
    "absolute": {"factor": 0.5, "patience": 2, "rtol": 0.0, "atol": 0.3},
    "any fall is progress": {"factor": 0.5, "patience": 2, "rtol": 0.0},
    "rest": {"factor": 0.5, "patience": 2, "cooldown": 4},
    "means": {"factor": 0.5, "patience": 2, "accumulation_size": 3, "rtol": 0.05},
    "down to a bound": {"factor": 0.25, "patience": 1, "min_scale": 0.1},
    "all": {"factor": 0.5, "patience": 3, "rtol": 0.1, "atol": 0.05, "cooldown": 2, "accumulation_size": 2},
}
every_case = pytest.mark.parametrize("arguments", CASES.values(), ids=CASES.keys())


def losses(seed, count=150):
    """A loss that falls, ever more slowly and with noise; in steps of 1/64, so that float32 compares like float64."""
    random = np.random.default_rng(seed)
    return np.round(64 * (3 * np.exp(-np.arange(count) / 30) - 0.5 + random.normal(size=count) / 10)) / 64


@functools.cache
def run(tx):
    """The updates of a gradient of 1, one for each value."""

    def step(state, value):
        updates, state = tx.update(jnp.ones(()), state, value=value)
        return state, updates

    return jax.jit(lambda values: jax.lax.scan(step, tx.init(jnp.ones(())), values)[1])


def ours(values, **arguments):
    return np.asarray(run(gradtx.reduce_on_plateau(**arguments))(jnp.asarray(values, jnp.float32)))


@every_case
@pytest.mark.parametrize("seed", range(3))
def test_scales_are_those_of_the_rule(arguments, seed):
    values = losses(seed)
    assert len(set(oracles.scales(values, **arguments))) > 1 or not arguments
    np.testing.assert_allclose(ours(values, **arguments), oracles.scales(values, **arguments), rtol=1e-6)


@every_case
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_value_that_is_not_finite_is_as_if_it_had_not_come(arguments, bad):
    """Neither progress nor a plateau, at the start, in a window of means, while resting."""
    values = losses(0, 90)
    spoiled, places = [bad], []
    for index, value in enumerate(values):
        places.append(len(spoiled))
        spoiled += [value, *([bad] * (index % 3))]
    np.testing.assert_array_equal(ours(spoiled, **arguments)[places], ours(values, **arguments))
    np.testing.assert_allclose(ours(spoiled, **arguments), oracles.scales(spoiled, **arguments), rtol=1e-6)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_values_that_are_never_finite_never_reduce(bad):
    assert set(ours([bad] * 50, patience=1)) == {1.0}
    assert run(optax.contrib.reduce_on_plateau(patience=1))(jnp.full(50, NAN))[-1] < 1e-30


@every_case
def test_scales_are_those_of_optax_while_losses_are_positive_and_finite(arguments):
    if not arguments.get("rtol", 1e-4) and not arguments.get("atol", 0.0):
        return  # refused there
    values = losses(1) + 1
    theirs = run(optax.contrib.reduce_on_plateau(**arguments))(jnp.asarray(values, jnp.float32))
    np.testing.assert_allclose(ours(values, **arguments), theirs, rtol=1e-6)


@pytest.mark.parametrize("name", ["impatient", "relative", "absolute", "rest"])
def test_scales_are_those_of_pytorch_with_one_more_of_patience(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the second peer; its CPU build is enough")
    arguments = CASES[name]
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=arguments["factor"],
        patience=arguments["patience"] - 1,
        cooldown=arguments.get("cooldown", 0),
        threshold=arguments.get("atol") or arguments.get("rtol", 1e-4),
        threshold_mode="abs" if arguments.get("atol") else "rel",
        eps=0.0,
    )
    theirs = []
    for value in losses(2) + 1:
        scheduler.step(value)
        theirs.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(ours(losses(2) + 1, **arguments), theirs, rtol=1e-6)


def test_below_zero_a_worse_value_is_no_progress():
    values = [-100.0, *(-100.0 + 0.005 * np.arange(1, 12))]
    assert ours(values)[-1] == np.float32(0.1)
    theirs = run(optax.contrib.reduce_on_plateau())(jnp.asarray(values, jnp.float32))
    assert theirs[-1] == 1  # every one of them was progress


def test_the_scale_can_be_read_in_a_chain():
    tx = gradtx.chain(gradtx.sgd(1.0), gradtx.reduce_on_plateau(0.5, patience=1))
    state = tx.init(jnp.zeros(2))
    for expected in (1.0, 0.5, 0.25):
        updates, state = tx.update(jnp.ones(2), state, value=2.0)
        assert state["reduce_on_plateau"].scale == expected
        np.testing.assert_array_equal(updates, -expected)


def test_a_schedule_may_set_its_numbers():
    tx = gradtx.reduce_on_plateau(lambda step: jnp.where(step < 2, 0.5, 0.25), patience=1)
    state, found = tx.init(jnp.ones(())), []
    for _ in range(4):
        updates, state = tx.update(jnp.ones(()), state, value=1.0)
        found.append(float(updates))
    assert found == [1.0, 0.5, 0.125, 0.03125]


@pytest.mark.parametrize("value", [None, "1.0", True, 1j, jnp.ones(3), np.ones(1), {"loss": 1.0}])
def test_a_value_that_is_not_one_real_number_is_refused(value):
    tx = gradtx.chain(gradtx.sgd(1.0), gradtx.reduce_on_plateau())
    with pytest.raises(errors.SignalError, match=r"value must be one real .*in reduce_on_plateau.*jnp\.mean\(loss\)"):
        tx.update(jnp.ones(()), tx.init(jnp.ones(())), value=value)


@pytest.mark.parametrize("kind", [int, float, np.float64, np.int32, jnp.bfloat16, jnp.float32, lambda x: np.array(x)])
def test_a_value_may_be_any_kind_of_number(kind):
    tx = gradtx.reduce_on_plateau(0.5, patience=1)
    state = tx.init(jnp.ones(()))
    for _ in range(2):
        updates, state = tx.update(jnp.ones(()), state, value=kind(2))
    assert updates == 0.5


def test_values_of_any_size_stay_finite():
    largest = float(np.finfo(np.float32).max)
    for values in itertools.product((largest, -largest, 0.0), repeat=4):
        for arguments in ({"patience": 1}, {"patience": 1, "rtol": 1.0}, {"patience": 1, "accumulation_size": 2}):
            assert np.all(np.isfinite(ours(values, **arguments)))
    tx = gradtx.reduce_on_plateau(accumulation_size=3)
    _, state = tx.update(jnp.ones(()), tx.init(jnp.ones(())), value=largest)
    for _ in range(3):
        _, state = tx.update(jnp.ones(()), state, value=largest)
        assert np.isfinite(state.mean_value)


def test_counts_beyond_32_bits_are_never_reached():
    tx = gradtx.reduce_on_plateau(patience=2**40, cooldown=2**40, accumulation_size=2**40)
    assert tx.update(jnp.ones(()), tx.init(jnp.ones(())), value=1.0)[0] == 1


def test_equal_leaves_are_scaled_by_one_trace():
    tx, tree = gradtx.reduce_on_plateau(), {str(index): jnp.ones(3) for index in range(50)}
    text = str(jax.make_jaxpr(lambda tree, state: tx.update(tree, state, value=1.0))(tree, tx.init(tree)))
    assert text.count("is_finite") == 1 and text.count(" mul ") < 10
