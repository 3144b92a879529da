"""This library's transformations inside Optax's: chains, wrappers, accumulation, injected hyperparameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from tests.clients.problem import assert_identical, assert_trained_alike, loss, params, trained
from tests.laws.trees import types

pytestmark = pytest.mark.filterwarnings("error")

ADAMW = dict(learning_rate=1e-2, weight_decay=0.1)


WRAPPERS = {
    "chain": lambda tx: optax.chain(optax.clip_by_global_norm(1.0), tx),
    "named_chain": lambda tx: optax.named_chain(("clip", optax.clip(1.0)), ("step", tx)),
    "apply_if_finite": lambda tx: optax.apply_if_finite(tx, 2),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 2).gradient_transformation(),
    "MultiSteps, skipping": lambda tx: optax.MultiSteps(
        tx, 1, should_skip_update_fn=optax.skip_not_finite
    ).gradient_transformation(),
    "masked": lambda tx: optax.masked(tx, {"hidden": True, "head": {"kernel": True, "bias": False}}),
    "partition": lambda tx: optax.partition({"a": tx, "b": optax.sgd(0.1)}, {"hidden": "a", "head": "b"}),
    "conditionally_transform": lambda tx: optax.conditionally_transform(tx, lambda step: step % 2 == 0),
    "flatten": optax.flatten,
    "with_extra_args_support": optax.with_extra_args_support,
    "reduce_on_plateau": lambda tx: optax.chain(tx, optax.contrib.reduce_on_plateau()),
    "ema": lambda tx: optax.chain(tx, optax.ema(0.9)),
    "schedule_free": lambda tx: optax.contrib.schedule_free(tx, 1e-2),
    "mechanize": optax.contrib.mechanize,
}
every_wrapper = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())


@every_wrapper
def test_training_in_a_wrapper_of_optax_is_as_with_its_adamw(wrap):
    ours, state = trained(wrap(gradtx.adamw(**ADAMW)), optax.apply_updates, value=jnp.float32(1.0))
    theirs, _ = trained(wrap(optax.adamw(**ADAMW)), optax.apply_updates, value=jnp.float32(1.0))
    assert_trained_alike(ours, theirs, params())
    assert types(state) == types(wrap(gradtx.adamw(**ADAMW)).init(params()))


@every_wrapper
def test_the_state_of_a_wrapper_passes_scan(wrap):
    tx = wrap(gradtx.adamw(**ADAMW))

    def body(carry, _):
        weights, state = carry
        updates, state = tx.update(jax.grad(loss)(weights), state, weights, value=jnp.float32(1.0))
        return (optax.apply_updates(weights, updates), state), None

    weights, state = jax.jit(lambda carry: jax.lax.scan(body, carry, length=4)[0])((params(), tx.init(params())))
    expected, expected_state = trained(tx, optax.apply_updates, value=jnp.float32(1.0))
    assert types(state) == types(expected_state)
    assert_trained_alike(weights, expected, params())


def test_a_nan_is_skipped_by_apply_if_finite_and_the_state_kept():
    tx = optax.apply_if_finite(gradtx.adamw(**ADAMW), 2)
    _, state = tx.update(params(), tx.init(params()), params())
    updates, after = tx.update(jax.tree.map(lambda leaf: leaf * jnp.nan, params()), state, params())
    assert_identical(after.inner_state, state.inner_state)
    assert all(not leaf.any() for leaf in jax.tree.leaves(updates)) and after.notfinite_count == 1


def test_multi_steps_accumulates_before_each_step():
    tx = optax.MultiSteps(gradtx.sgd(1.0), 2)
    state, weights = tx.init(jnp.zeros(1)), jnp.zeros(1)
    for gradient, expected in ((1.0, 0.0), (3.0, -2.0)):
        updates, state = tx.update(jnp.array([gradient]), state, weights)
        np.testing.assert_array_equal(updates, [expected])
    assert tx.has_updated(state)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_parameters_train_inside_an_optax_chain(dtype):
    tx = optax.chain(optax.clip_by_global_norm(1.0), gradtx.adamw(**ADAMW))
    weights, state = params(dtype), tx.init(params(dtype))
    updates, after = jax.jit(tx.update)(jax.grad(loss)(weights), state, weights)
    assert types(after) == types(state)
    assert {leaf.dtype for leaf in jax.tree.leaves(after) if leaf.ndim} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(optax.apply_updates(weights, updates))} == {jnp.dtype(dtype)}


CONSTRUCTORS = {
    "adamw": (gradtx.adamw, optax.adamw, ADAMW),
    "adam": (gradtx.adam, optax.adam, dict(learning_rate=1e-2, b1=0.8)),
    "sgd": (gradtx.sgd, optax.sgd, dict(learning_rate=0.1, momentum=0.9, nesterov=True)),
    "rmsprop": (gradtx.rmsprop, optax.rmsprop, dict(learning_rate=1e-2, decay=0.8)),
    "adagrad": (gradtx.adagrad, optax.adagrad, dict(learning_rate=0.1)),
    "scale_by_adam": (gradtx.scale_by_adam, optax.scale_by_adam, dict(b1=0.8)),
}
every_constructor = pytest.mark.parametrize(
    ("ours", "theirs", "arguments"), CONSTRUCTORS.values(), ids=CONSTRUCTORS.keys()
)


@every_constructor
def test_hyperparameters_are_injected(ours, theirs, arguments):
    injected, expected = optax.inject_hyperparams(ours)(**arguments), optax.inject_hyperparams(theirs)(**arguments)
    weights, state = trained(injected, optax.apply_updates)
    assert_trained_alike(weights, trained(expected, optax.apply_updates)[0], params())
    assert types(state) == types(injected.init(params()))


def test_an_injected_hyperparameter_changes_without_a_new_trace():
    tx, traces = optax.inject_hyperparams(gradtx.adamw)(learning_rate=lambda step: 1e-2, weight_decay=0.1), 0

    @jax.jit
    def step(grads, state, weights):
        nonlocal traces
        traces += 1
        return tx.update(grads, state, weights)

    weights, state = params(), tx.init(params())
    first, _ = step(weights, state, weights)
    state.hyperparams["weight_decay"] = jnp.float32(0.0)
    second, _ = step(weights, state, weights)
    assert traces == 1
    kernels = (tree["head"]["kernel"] for tree in (first, second, weights))
    np.testing.assert_allclose(next(kernels) - next(kernels), -1e-3 * next(kernels), rtol=0, atol=1e-8)


def test_an_optax_pair_made_of_ours_passes_type_checks_and_works():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(**ADAMW))
    for kind in (optax.GradientTransformation, optax.GradientTransformationExtraArgs):
        pair = kind(*tx)
        assert isinstance(pair, optax.GradientTransformation)
        assert_identical(trained(pair, optax.apply_updates), trained(tx, optax.apply_updates))


def needs_value(updates, state, params=None, *, value):
    return jax.tree.map(lambda update: value * update, updates), state


@gradtx.transformation(locality="elementwise")
def scale_by_value() -> gradtx.GradientTransformation:
    """A part of the user's own that declares a signal."""

    def update(update, state, *, value):
        return value * update, state

    return gradtx.GradientTransformation(lambda param: gradtx.core.EmptyState(), update)


def test_signals_arrive_through_optax_where_it_hands_them_on():
    ours = gradtx.chain(scale_by_value(), gradtx.scale(2.0))
    grads = jnp.array([1.0])
    for tx in (
        optax.GradientTransformationExtraArgs(*ours),
        optax.chain(optax.GradientTransformationExtraArgs(*ours)),
        optax.apply_if_finite(optax.GradientTransformationExtraArgs(*ours), 1),
    ):
        updates, _ = tx.update(grads, tx.init(grads), grads, value=jnp.float32(3.0))
        np.testing.assert_array_equal(updates, [6.0])
    silent = optax.chain(optax.GradientTransformation(*ours))
    with pytest.raises(TypeError, match="needs the signal value"):
        silent.update(grads, silent.init(grads), grads, value=jnp.float32(3.0))


def test_hyperparameters_are_found_in_states_of_optax():
    tx = optax.chain(optax.clip(1.0), optax.apply_if_finite(gradtx.tunable(gradtx.adamw, **ADAMW), 1))
    state = tx.init(params())
    assert set(gradtx.hyperparameters(state)) == set(ADAMW)
    state = gradtx.set_hyperparameters(state, learning_rate=0.5)
    assert gradtx.hyperparameters(state)["learning_rate"] == 0.5
    updates, after = tx.update(params(), state, params())
    assert types(after) == types(state) and jnp.abs(updates["head"]["kernel"]).max() > 0.4


def test_optax_finds_fields_of_our_states_by_name():
    state = gradtx.adamw(**ADAMW).init(params())
    assert optax.tree.get(state, "mean")["head"]["kernel"].shape == (4, 2)
    assert len(optax.tree.get_all_with_path(state, "step")) == 3
    state = optax.tree.set(state, mean=params())
    assert_identical(state["scale_by_adam"].numerator["ema"].mean, params())


@pytest.mark.parametrize("clip", [gradtx.clip(1.0), gradtx.clip_by_global_norm(1.0), optax.clip(1.0)])
def test_optax_maps_over_the_fields_that_are_like_the_parameters(clip):
    """How programs lay the specification of each parameter's sharding over the state; ``init`` sees a placeholder."""
    tx = gradtx.chain(clip, gradtx.adamw(**ADAMW))
    names = {"hidden": {"kernel": "a", "bias": "b"}, "head": {"kernel": "c", "bias": "d"}}
    state = tx.init(params())
    mapped = optax.tree.map_params(
        tx, lambda leaf, name: name, state, names, transform_non_params=lambda leaf: "shared"
    )
    moments = mapped["adamw"]["scale_by_adam"]
    assert moments.numerator["ema"].mean == moments.denominator["mean_square"].mean_square == names
    assert moments.denominator["bias_correction"].step == "shared"
