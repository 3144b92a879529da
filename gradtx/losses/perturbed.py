"""Functions without a useful derivative, such as a choice or a ranking, made smooth by noise on their input."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx.errors import ArgumentTypeError, Count, PositiveNumber, checked_call, show
from gradtx.tree import is_inexact, split_key_like, widen


@checked_call
def make_perturbed_fun(
    fun: Callable[[Any], Any],
    num_samples: Count = 1000,
    sigma: PositiveNumber = 0.1,
    noise: Literal["gumbel", "normal"] = "gumbel",
    use_baseline: bool = True,
) -> Callable[[jax.Array, Any], Any]:
    """The mean of ``fun`` under noise, by samples, with a derivative that needs none of ``fun``::

        F(x)  = E f(x + sigma Z)                          estimated by the mean over num_samples draws of Z
        F'(x) = E (f(x + sigma Z) - b) nu'(Z) / sigma     for noise of density proportional to exp(-nu(z))

    with the baseline ``b = f(x)``, which changes no mean and makes the variance smaller (0 without ``use_baseline``).
    ``fun`` may be piecewise constant (an argmax as a one-hot vector, a ranking, a shortest path): ``F`` is smooth.
    For the argmax and Gumbel noise ``F(x)`` is ``softmax(x / sigma)``. The value is the plain mean of the samples.

    Args:
        fun: A function of a tree of floating arrays to a tree of arrays, which can be mapped over by ``jax.vmap``.
        num_samples: Draws; errors fall with their root, and all are computed at once.
        sigma: The size of the noise.
        noise: ``"gumbel"``, ``nu(z) = z + exp(-z)``; or ``"normal"``, ``nu(z) = z^2 / 2``. (Optax: an object.)
        use_baseline: Subtract ``f(x)``.

    Returns:
        ``perturbed(key, inputs)``: a tree as of ``fun``, in float32 or wider. Its derivatives by ``inputs``, of either
        mode and any order, are estimates from the same draws. Derivatives by what ``fun`` closes over go through it.

    Source: Berthet et al. 2020, arXiv:2002.08676, proposition 3.1; Foerster et al. 2018, arXiv:1802.05098, for
    derivatives of higher order.

    Raises:
        ArgumentTypeError: ``fun`` is no function, or an input has leaves that are no floating-point numbers.
        ArgumentRangeError: ``num_samples`` below 1, ``sigma`` not above 0, an unknown ``noise``.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import losses
    >>> choose = losses.make_perturbed_fun(lambda x: jax.nn.one_hot(jnp.argmax(x), 2), 4000, sigma=1.0)
    >>> x = jnp.array([0.0, jnp.log(3.0)])
    >>> [round(float(p), 1) for p in choose(jax.random.key(0), x)]
    [0.2, 0.8]
    >>> round(float(jax.grad(lambda x: choose(jax.random.key(0), x)[1])(x)[1]), 1)
    0.2
    """

    def perturbed(key: jax.Array, inputs: Any) -> Any:
        inputs = jax.tree.map(lambda leaf: _floating(fun, leaf), inputs)
        keys = split_key_like(key, inputs)

        def draw(x: jax.Array, key: jax.Array) -> jax.Array:
            make = jax.random.gumbel if noise == "gumbel" else jax.random.normal
            return jax.lax.stop_gradient(x + sigma * make(key, (num_samples, *x.shape), x.dtype))

        at = jax.tree.map(draw, inputs, keys)
        log_density = sum(jax.tree.leaves(jax.tree.map(lambda a, x: _log_density(noise, (a - x) / sigma), at, inputs)))
        weight = jnp.exp(log_density - jax.lax.stop_gradient(log_density))  # 1, with the derivatives of the density
        start = fun(jax.lax.stop_gradient(inputs))

        def mean(values: Any, value: Any) -> jax.Array:
            values, value = _real(values), _real(value)
            w = jnp.reshape(weight, (num_samples, *[1] * value.ndim)).astype(values.dtype)
            if use_baseline:  # the weights less 1 are 0, so the value stays that of the samples
                return jnp.mean(values + (w - 1) * (values - value), 0)
            return jnp.mean(w * values, 0)

        return jax.tree.map(mean, jax.vmap(fun)(at), start)

    return perturbed


def _log_density(noise: str, z: jax.Array) -> jax.Array:
    """Of each draw, but for a constant."""
    each = -z - jnp.exp(-z) if noise == "gumbel" else -0.5 * z * z
    return jnp.sum(each, tuple(range(1, z.ndim)))


def _real(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    return widen(value) if is_inexact(value) else value.astype(jnp.float32)


def _floating(fun: Any, leaf: Any) -> jax.Array:
    leaf = jnp.asarray(leaf)
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        raise ArgumentTypeError(
            f"make_perturbed_fun({show(fun)})", expected="inputs of floating-point numbers", got=leaf.dtype,
            cause="a choice was given where its scores were meant", fix="write perturbed(key, scores)",
        )  # fmt: skip
    return widen(leaf)
