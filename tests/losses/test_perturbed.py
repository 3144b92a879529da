"""Claims about functions made smooth by noise, held against what is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import perturbations

from gradtx import errors, losses

KEY = jax.random.key(1)
SCORES = jnp.array([0.3, -0.2, 0.6])


def best(x):
    return jax.nn.one_hot(jnp.argmax(x), x.size)


@pytest.mark.parametrize("use_baseline", [True, False])
def test_the_choice_under_gumbel_noise_is_softmax_with_its_derivative(use_baseline):
    sigma = 0.5
    choose = losses.make_perturbed_fun(best, 40_000, sigma, use_baseline=use_baseline)
    np.testing.assert_allclose(choose(KEY, SCORES), jax.nn.softmax(SCORES / sigma), atol=0.01)
    exact = jax.jacobian(lambda x: jax.nn.softmax(x / sigma))(SCORES)
    for mode in (jax.jacrev, jax.jacfwd):
        np.testing.assert_allclose(mode(lambda x: choose(KEY, x))(SCORES), exact, atol=0.04)


def test_normal_noise_gives_the_gradient_and_the_hessian_of_the_smoothed_function():
    smooth = losses.make_perturbed_fun(lambda x: jnp.sum(x**2), 200_000, 1.0, "normal")
    np.testing.assert_allclose(smooth(KEY, SCORES), jnp.sum(SCORES**2) + 3, rtol=0.01)
    np.testing.assert_allclose(jax.grad(smooth, 1)(KEY, SCORES), 2 * SCORES, atol=0.05)
    np.testing.assert_allclose(jax.hessian(smooth, 1)(KEY, SCORES), 2 * jnp.eye(3), atol=0.2)


def test_the_baseline_makes_the_variance_smaller_and_leaves_the_value():
    far = losses.make_perturbed_fun(lambda x: 100.0 + jnp.sum(x), 50, 0.1)
    near = losses.make_perturbed_fun(lambda x: 100.0 + jnp.sum(x), 50, 0.1, use_baseline=False)
    np.testing.assert_allclose(far(KEY, SCORES), near(KEY, SCORES), rtol=1e-6)
    spread = [np.std([jax.grad(f, 1)(jax.random.key(n), SCORES) for n in range(20)]) for f in (far, near)]
    assert spread[0] < 0.05 * spread[1]


@pytest.mark.parametrize("noise", ["gumbel", "normal"])
def test_optax_estimates_the_same(noise):
    their_noise = {"gumbel": perturbations.Gumbel, "normal": perturbations.Normal}[noise]()
    theirs = perturbations.make_perturbed_fun(best, 40_000, 0.5, their_noise)
    ours = losses.make_perturbed_fun(best, 40_000, 0.5, noise)
    np.testing.assert_allclose(ours(KEY, SCORES), theirs(KEY, SCORES), atol=0.015)
    gradients = [jax.jacrev(f, 1)(KEY, SCORES) for f in (ours, theirs)]
    np.testing.assert_allclose(*gradients, atol=0.06)
    assert optax.__version__


def test_trees_half_precision_and_whole_numbers_go_through():
    inputs = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.float32(0.0)}
    rank = losses.make_perturbed_fun(lambda t: {"rank": jnp.argsort(jnp.argsort(t["a"])), "sign": t["b"] > 0}, 200)
    out = jax.jit(rank)(KEY, inputs)
    assert out["rank"].dtype == out["sign"].dtype == jnp.float32
    np.testing.assert_allclose(out["rank"], [1.0, 1.0, 1.0], atol=0.25)
    slopes = jax.grad(lambda t: rank(KEY, t)["sign"])(inputs)
    assert slopes["a"].dtype == jnp.bfloat16 and float(slopes["b"]) > 0


def test_derivatives_by_what_the_function_closes_over_go_through_it():
    def value(w):
        return losses.make_perturbed_fun(lambda x: w * jnp.max(x), 100, 0.1)(KEY, SCORES)

    np.testing.assert_allclose(jax.grad(value)(2.0), value(1.0), rtol=1e-5)


def test_bad_arguments_say_what_to_write():
    with pytest.raises(errors.ArgumentTypeError, match="fun must be a function"):
        losses.make_perturbed_fun(SCORES)
    with pytest.raises(errors.ArgumentRangeError, match="noise must be one of 'gumbel', 'normal'"):
        losses.make_perturbed_fun(best, noise="cauchy")
    with pytest.raises(errors.ArgumentRangeError, match="sigma"):
        losses.make_perturbed_fun(best, sigma=0.0)
    with pytest.raises(errors.ArgumentRangeError, match="num_samples"):
        losses.make_perturbed_fun(best, 0)
    with pytest.raises(errors.ArgumentTypeError, match=r"floating-point.*int32"):
        losses.make_perturbed_fun(best)(KEY, jnp.arange(3))
