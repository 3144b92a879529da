"""State in another layout: roles and locality carry the wrapper."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from gradtx.storage import cast, stored

PARAMS = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}


def grads(step: int) -> dict:
    key = jax.random.fold_in(jax.random.key(7), step)
    return {name: jax.random.normal(key, leaf.shape) for name, leaf in PARAMS.items()}


def test_only_fields_like_the_parameters_are_cast():
    inner = gradtx.adamw(lambda step: 1e-3)
    plain, kept = inner.init(PARAMS), stored(inner, cast(jnp.bfloat16)).init(PARAMS).inner
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(kept), strict=True):
        assert other.dtype == (jnp.bfloat16 if one.ndim else one.dtype)
    scalars = {leaf.dtype for leaf in jax.tree.leaves(kept) if not leaf.ndim}
    assert scalars == {jnp.dtype(jnp.int32), jnp.dtype(jnp.float32)}


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_a_stored_step_is_the_float32_step_from_the_decoded_state(rounding):
    inner, tx = gradtx.adam(1e-2), stored(gradtx.adam(1e-2), cast("bfloat16", rounding=rounding))
    state = tx.init(PARAMS)
    for step in range(3):
        decoded = jax.tree.map(
            lambda kept, like: kept.astype(like.dtype), state.inner, jax.eval_shape(inner.init, PARAMS)
        )
        expected, expected_state = inner.update(grads(step), decoded, PARAMS)
        updates, state = tx.update(grads(step), state, PARAMS)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected)
        for kept, exact in zip(jax.tree.leaves(state.inner), jax.tree.leaves(expected_state), strict=True):
            np.testing.assert_allclose(np.asarray(kept, np.float32), exact, rtol=2.0**-7, atol=1e-30)


def test_nearest_rounding_freezes_a_second_moment_that_stochastic_rounding_decays():
    for rounding, expected in (("nearest", 1.0), ("stochastic", 0.999**200)):
        tx = stored(gradtx.mean_square(0.999), cast(jnp.bfloat16, rounding=rounding))
        params = {"w": jnp.ones(4096)}
        state = tx.init(params)
        state = state._replace(inner=state.inner._replace(mean_square={"w": jnp.ones(4096, jnp.bfloat16)}))
        update = jax.jit(tx.update)
        for _ in range(200):
            _, state = update({"w": jnp.zeros(4096)}, state)
        assert abs(np.asarray(state.inner.mean_square["w"], np.float32).mean() - expected) < 0.01


def test_stochastic_rounding_is_reproducible_and_differs_between_leaves():
    tx = stored(gradtx.ema(0.9), cast(jnp.bfloat16, rounding="stochastic"))
    params = {"a": jnp.zeros(64), "b": jnp.zeros(64)}
    same = {name: jnp.linspace(0.1, 1.0, 64) for name in params}
    _, first = tx.update(same, tx.init(params))
    _, again = jax.jit(tx.update)(same, tx.init(params))
    assert np.array_equal(first.inner.mean["a"], again.inner.mean["a"])
    assert not np.array_equal(first.inner.mean["a"], first.inner.mean["b"])


def test_rounding_does_not_depend_on_what_else_reads_the_tree():
    """The same leaf rounds the same way leaf by leaf and in a chain that also reads the whole tree."""
    layout = cast(jnp.bfloat16, rounding="stochastic")
    by_leaf = stored(gradtx.chain(gradtx.ema(0.9)), layout)
    whole = stored(gradtx.chain(gradtx.ema(0.9), gradtx.clip_by_global_norm(1e6)), layout)
    kept = [tx.update(grads(0), tx.init(PARAMS), PARAMS)[1].inner["ema"].mean for tx in (by_leaf, whole)]
    jax.tree.map(np.testing.assert_array_equal, *kept)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: stored(gradtx.chain(gradtx.scale(1.0), optax.adam(1e-3)), cast(jnp.bfloat16)),
            errors.LayoutError,
            "chain",
        ),
        (lambda: stored(gradtx.adam(1e-3), cast(jnp.float16)), errors.LayoutError, "mean_square"),
        (lambda: stored(gradtx.adam(1e-3), cast(jnp.int8)), errors.ArgumentTypeError, "floating-point"),
        (lambda: stored(gradtx.adam(1e-3), cast("bfloat17")), errors.ArgumentTypeError, "floating-point"),
        (lambda: cast(None), errors.ArgumentTypeError, "floating-point"),
        (lambda: cast("float64"), errors.ArgumentRangeError, "without jax_enable_x64"),
        (lambda: cast(jnp.bfloat16, rounding="stochastc"), errors.ArgumentRangeError, "did you mean 'stochastic'"),
    ],
)
def test_what_a_layout_cannot_keep_right_is_refused_by_name(make, error, words):
    with pytest.raises(error, match=words):
        make().init(PARAMS)
