"""Gradient descent, with momentum and with noise."""

from typing import Any

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_noise,
    differentially_private_aggregate,
    scale_by_learning_rate,
    scale_by_momentum,
)


@transformation
def sgd(
    learning_rate: errors.NonNegative,
    momentum: errors.Decay | None = None,
    nesterov: bool = False,
    *,
    movement: bool = False,
) -> GradientTransformation:
    """``u = -learning_rate * m`` with ``m = g``, or with ``momentum`` the heavy ball ``m <- momentum * m + g``.

    With ``movement`` the memory is the last movement itself, ``m <- momentum * m - learning_rate * g``, ``u = m``. At a
    constant learning rate the two are the same. Under a schedule they are not: a movement remembers the rates that it
    was made with, so a rate that falls acts on new gradients only; the heavy ball (PyTorch, Optax) applies the rate of
    the step to all of its memory at once. Sutskever et al. and TensorFlow accumulate movements.

    ``nesterov`` looks one step ahead. State: nothing, or one float32 number per parameter.

    Source: Robbins and Monro 1951; Polyak 1964; Sutskever et al. 2013, ICML 28, equations 1 to 4.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.sgd(0.5)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [-0.5]
    """
    accumulate = [] if momentum is None else [scale_by_momentum(momentum, nesterov)]
    step = [scale_by_learning_rate(learning_rate)]
    return chain(*step, *accumulate) if movement else chain(*accumulate, *step)


@transformation
def noisy_sgd(
    learning_rate: errors.NonNegative, eta: errors.NonNegative = 0.01, gamma: errors.NonNegative = 0.55, key: Any = None
) -> GradientTransformation:
    """``u = -learning_rate * (g + sigma * N(0, 1))`` with the variance ``sigma^2 = eta / t^gamma``, ``t = 1, 2, ...``.

    ``key`` is a whole number or a key of ``jax.random``, and must be given: it makes the noise. State: one key.

    Source: Neelakantan et al. 2015, arXiv:1511.06807, section 3.
    """
    return chain(add_noise(eta, gamma, key), scale_by_learning_rate(learning_rate))


@transformation
def dpsgd(
    learning_rate: errors.NonNegative,
    l2_norm_clip: errors.Positive,
    noise_multiplier: errors.NonNegative,
    seed: Any,
    momentum: errors.Decay | None = None,
    nesterov: bool = False,
) -> GradientTransformation:
    """:func:`sgd` on the mean of gradients that are each limited in norm and together hidden by noise::

        m = (sum_i g_i * min(1, l2_norm_clip / ||g_i||) + l2_norm_clip * noise_multiplier * N(0, 1)) / B
        u = -learning_rate * m

    Its updates are the gradients of ``B`` examples, each with an axis of length ``B`` first, as
    ``jax.vmap(jax.grad(loss), (None, 0))(params, batch)`` gives them; see :func:`differentially_private_aggregate` for
    what is guaranteed. ``seed`` is a whole number, or a key of ``jax.random``. State: one key and a counter, with
    ``momentum`` one float32 number per parameter more.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.dpsgd(0.5, l2_norm_clip=1.0, noise_multiplier=0.0, seed=0)
    >>> grads = jax.vmap(jax.grad(lambda w, x: w @ x), (None, 0))(jnp.zeros(2), jnp.array([[3.0, 4.0], [0.6, 0.0]]))
    >>> [round(float(u), 4) for u in tx.update(grads, tx.init(jnp.zeros(2)), jnp.zeros(2))[0]]
    [-0.3, -0.2]
    """
    return chain(
        differentially_private_aggregate(l2_norm_clip, noise_multiplier, seed),
        sgd(learning_rate, momentum, nesterov),
    )
