"""Newton and Schulz's iteration takes singular values where it says, and Muon's step is made of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx.preconditioners import orthogonalize


def with_singular_values(values, rows, columns, seed=0):
    random = np.random.default_rng(seed)
    left = np.linalg.qr(random.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(random.normal(size=(columns, len(values))))[0]
    return (left * values) @ right.T, left @ right.T


@pytest.mark.parametrize("shape", [(8, 8), (12, 8), (8, 30)], ids=str)
@pytest.mark.parametrize(
    ("preset", "smallest", "low", "high"),
    [("standard", 0.008, 0.68, 1.14), ("standard", 0.0015, 0.67, 1.21), ("dion", 0.008, 0.97, 1.04),
     ("dion", 0.003, 0.97, 1.15)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_singular_values_end_where_the_docstring_says(shape, preset, smallest, low, high, dtype):
    values = np.geomspace(0.5, smallest, 8)
    values[0] = np.sqrt(1.0 - np.sum(values[1:] ** 2))
    x, _ = with_singular_values(values, *shape)
    found = np.linalg.svd(np.asarray(orthogonalize(jnp.asarray(x, jnp.float32), ns_coeffs=preset, dtype=dtype)))[1]
    error = 1e-4 if dtype == jnp.float32 else 0.1
    assert low - error <= found.min() and found.max() <= high + error


@pytest.mark.parametrize(("dtype", "bound"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)], ids=["float32", "bfloat16"])
def test_the_iteration_is_the_polynomial_of_the_singular_values(dtype, bound):
    values = np.array([0.8, 0.5, 0.3, 0.1])
    x, _ = with_singular_values(values, 4, 6)
    left, _, right = np.linalg.svd(x, full_matrices=False)
    s = values / np.linalg.norm(values)
    for _ in range(5):
        s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
    found = orthogonalize(jnp.asarray(x, jnp.float32), dtype=dtype)
    assert np.abs(np.asarray(found) - left @ np.diag(s) @ right).max() < bound


@pytest.mark.parametrize("size", [1e-36, 1e-20, 1e20, 3e37])
def test_the_size_of_the_matrix_does_not_matter(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)), jnp.float32)
    np.testing.assert_allclose(orthogonalize(size * x), orthogonalize(x), rtol=0, atol=1e-4)


def test_a_zero_matrix_stays_zero_and_its_gradient_is_finite():
    assert not np.any(orthogonalize(jnp.zeros((3, 4))))
    assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(orthogonalize(x)))(jnp.zeros((3, 4)))))


def test_leading_axes_are_a_batch_of_matrices():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 6)), jnp.float32)
    np.testing.assert_allclose(orthogonalize(x), jnp.stack([orthogonalize(one) for one in x]), rtol=0, atol=1e-5)


def run(tx, steps=4):
    random = np.random.default_rng(0)
    params = {"w": jnp.asarray(random.normal(size=(4, 6)), jnp.float32), "b": jnp.ones(3)}
    state, out = tx.init(params), []
    for _ in range(steps):
        grads = {name: jnp.asarray(random.normal(size=leaf.shape), jnp.float32) for name, leaf in params.items()}
        updates, state = tx.update(grads, state, params)
        out.append(updates)
    return out


@pytest.mark.parametrize("arguments", [{}, {"nesterov": False, "weight_decay": 0.1}, {"consistent_rms": 0.2}], ids=str)
def test_muon_takes_optax_step_where_its_bias_corrections_are_one(arguments):
    """With ``beta = 0`` both blends are the gradient; the corrections of Optax are tested below."""
    for ours, theirs in zip(run(gradtx.muon(0.1, beta=0.0, **arguments)),
                            run(optax.contrib.muon(0.1, beta=0.0, **arguments)), strict=True):  # fmt: skip
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=2e-6)


def test_muon_blends_gradient_and_heavy_ball_as_its_authors_do():
    """``g + beta m`` with ``m <- beta m + g``; Optax's corrections give another blend at the first steps."""
    random = np.random.default_rng(0)
    grads = [random.normal(size=(4, 6)) for _ in range(3)]
    tx, state = gradtx.scale_by_muon(beta=0.9), gradtx.scale_by_muon(beta=0.9).init(jnp.zeros((4, 6)))
    momentum = np.zeros((4, 6))
    for g in grads:
        momentum = 0.9 * momentum + g
        update, state = tx.update(jnp.asarray(g, jnp.float32), state)
        exact = orthogonalize(jnp.asarray(g + 0.9 * momentum, jnp.float32))
        np.testing.assert_allclose(update, exact, rtol=0, atol=1e-5)


def test_where_selects_the_matrices_and_adamw_has_the_rest():
    params = {"embedding": jnp.ones((3, 4)), "block": {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}}
    tx = gradtx.muon(0.1, nesterov=False, where="block*kernel")
    grads = jax.tree.map(lambda p: 0.5 * p, params)
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(updates["embedding"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["block"]["bias"], -0.1, rtol=1e-5)
    assert np.linalg.norm(updates["block"]["kernel"], 2) < 0.13
