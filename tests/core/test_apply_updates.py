"""Adding updates to parameters: one rounding, saturating, to nearest or stochastically."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors, storage


def test_a_finite_update_saturates_and_infinities_and_nan_stay_visible():
    largest = {dtype: float(jnp.finfo(dtype).max) for dtype in (jnp.float16, jnp.bfloat16, jnp.float32)}
    for dtype, top in largest.items():
        params = jnp.asarray([top, -top, 1.0, 1.0, 1.0], dtype)
        updates = jnp.asarray([3e38, -3e38, jnp.inf, -jnp.inf, jnp.nan], jnp.float32)
        after = np.asarray(gradtx.apply_updates(params, updates), np.float64)
        np.testing.assert_array_equal(after, [top, -top, np.inf, -np.inf, np.nan])


def test_an_infinite_parameter_stays_visible():
    assert gradtx.apply_updates(jnp.array([jnp.inf, -jnp.inf]), jnp.zeros(2)).tolist() == [jnp.inf, -jnp.inf]


def test_a_small_update_of_bfloat16_is_lost_to_nearest_and_kept_on_average_stochastically():
    nearest, params = jnp.ones(4096, jnp.bfloat16), jnp.ones(4096, jnp.bfloat16)
    update = jnp.full(4096, -1e-3, jnp.float32)
    for step in range(100):
        nearest = gradtx.apply_updates(nearest, update)
        key = jax.random.fold_in(jax.random.key(0), step)
        params = gradtx.apply_updates(params, update, rounding="stochastic", key=key)
    assert np.all(np.asarray(nearest, np.float32) == 1.0)
    assert abs(np.asarray(params, np.float32).mean() - 0.9) < 2e-3


def test_equal_leaves_round_differently_and_reproducibly():
    params = {"a": jnp.ones(64, jnp.bfloat16), "b": jnp.ones(64, jnp.bfloat16)}
    updates = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 1e-3), params)
    first, again = (
        gradtx.apply_updates(params, updates, rounding="stochastic", key=jax.random.key(1)) for _ in range(2)
    )
    assert not np.array_equal(first["a"], first["b"])
    assert np.array_equal(first["a"], again["a"])


def test_the_sum_is_rounded_once():
    """1 + 2^-9 + 2^-20 is above the middle of two bfloat16 numbers; rounding the update first would lose that."""
    update = jnp.float32(2.0**-8 + 2.0**-20)
    assert float(gradtx.apply_updates(jnp.ones((), jnp.bfloat16), update)) == 1.0 + 2.0**-7


def test_integer_parameters_stay_as_they_are():
    params = {"table": jnp.arange(3), "w": jnp.ones(2)}
    gradient = jax.grad(lambda p: jnp.sum(p["w"]) * p["table"][0], allow_int=True)(params)
    tx = gradtx.only(gradtx.sgd(0.5), "w")
    updates, _ = tx.update(gradient, tx.init(params), params)
    for of_table in (updates["table"], gradient["table"], jnp.ones(3, jnp.int32)):
        after = gradtx.apply_updates(params, {"table": of_table, "w": jnp.ones(2)})
        assert after["table"].tolist() == [0, 1, 2] and after["w"].tolist() == [2.0, 2.0]
    with pytest.raises(errors.DtypeError, match="at 'table'"):
        gradtx.apply_updates(params, {"table": jnp.ones(3), "w": jnp.ones(2)})


def test_python_numbers_count_as_arrays():
    numbers = {"c": 1j, "n": 3, "w": 1.0}
    after = gradtx.apply_updates(numbers, {"c": 0.5, "n": 0, "w": 0.5})
    assert after == {"c": 0.5 + 1j, "n": 3, "w": 1.5} and all(map(gradtx.tree.is_array, after.values()))
    assert gradtx.apply_updates({"w": jnp.ones(())}, {"w": 0.5})["w"] == 1.5
    for param, update in ((1, 0.5), (1.0, 1), (jnp.sin, jnp.sin)):
        with pytest.raises(errors.DtypeError, match="at 'w'"):
            gradtx.apply_updates({"w": param}, {"w": update})


OPTIMIZERS = {
    "adam": gradtx.adam(2.0),
    "sgd": gradtx.sgd(2.0),
    "guarded": gradtx.skip_nonfinite(gradtx.sgd(2.0)),
    "stored": storage.stored(gradtx.adam(2.0), storage.cast("bfloat16")),
}


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn], ids=lambda d: d.__name__)
@pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["nearest", "stochastic"])
def test_parameters_and_updates_of_8_bits_and_less_train(tx, dtype, key):
    """The gradient is one: a step is -2 with all of them, and every sum here is a number of the dtype."""
    params = jnp.asarray([1.0, 6.0, -2.0], dtype)
    state = tx.init(params)
    updates, after = jax.jit(tx.update)(jnp.ones(3, dtype), state, params)
    assert updates.dtype == jnp.float32
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)
    for given in (updates, updates.astype(dtype)):
        rounding = "nearest" if key is None else "stochastic"
        trained = gradtx.apply_updates(params, given, rounding=rounding, key=key)
        assert trained.dtype == dtype
        assert np.asarray(trained, np.float32).tolist() == [-1.0, 4.0, -4.0]


@pytest.mark.parametrize(
    ("updates", "arguments", "error"),
    [
        ({"w": jnp.ones(2)}, {"rounding": "stochastic"}, errors.ArgumentTypeError),
        ({"w": jnp.ones(2)}, {"rounding": "up"}, errors.ArgumentTypeError),
        ({"w": jnp.ones(2)}, {"key": jax.random.key(0)}, errors.ArgumentTypeError),
        ({"w": None}, {}, errors.StructureError),
        ({"w": jnp.ones(3)}, {}, errors.ShapeError),
        ({"w": jnp.ones(2, jnp.complex64)}, {}, errors.DtypeError),
    ],
)
def test_bad_updates_fail_at_trace_time(updates, arguments, error):
    with pytest.raises(error) as caught:
        jax.eval_shape(lambda u: gradtx.apply_updates({"w": jnp.zeros(2)}, u, **arguments), updates)
    assert str(caught.value).startswith("apply_updates(params, updates)")
