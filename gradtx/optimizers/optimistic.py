"""Optimistic steps, for games and saddles: the next gradient is expected to change as the last one did."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import scale, scale_by_adam, scale_by_learning_rate, scale_by_optimistic_gradient


@transformation
def optimistic_gradient_descent(
    learning_rate: errors.NonNegative, alpha: errors.Real = 1.0, beta: errors.Real = 1.0
) -> GradientTransformation:
    """``u = -learning_rate * (alpha * g_t + beta * (g_t - g_{t-1}))``, ``-learning_rate * alpha * g`` at first.

    It converges where two players descend and ascend on one function, and plain gradient descent circles. State: one
    float32 number per parameter.

    Source: Daskalakis et al. 2018, arXiv:1711.00141 (optimistic mirror descent); with two weights, Mokhtari,
    Ozdaglar and Pattathil 2020, arXiv:1901.08511.
    """
    return chain(scale_by_optimistic_gradient(alpha, beta), scale_by_learning_rate(learning_rate))


@transformation
def optimistic_adam(
    learning_rate: errors.NonNegative,
    optimism: errors.NonNegative | None = None,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    nesterov: bool = True,
) -> GradientTransformation:
    """``u = -learning_rate * a_t - optimism * (a_t - a_{t-1})`` with Adam's step ``a``.

    ``-learning_rate * a`` at first. ``optimism`` is the learning rate if not given. Other arguments as in :func:`adam`,
    but for ``nesterov``, which is on here as in Optax and off in the paper. :func:`optimistic_adam_v2` has weights that
    the learning rate multiplies. State: three float32 numbers per parameter.

    Source: Daskalakis et al. 2018, arXiv:1711.00141, algorithm 1.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_optimistic_gradient(learning_rate, learning_rate if optimism is None else optimism),
        scale(-1.0),
    )


@transformation
def optimistic_adam_v2(
    learning_rate: errors.NonNegative,
    *,
    alpha: errors.Real = 1.0,
    beta: errors.Real = 1.0,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    nesterov: bool = True,
) -> GradientTransformation:
    """``u = -learning_rate * (alpha * a_t + beta * (a_t - a_{t-1}))`` with Adam's step ``a``.

    ``-learning_rate * alpha * a`` at first. Other arguments as in :func:`adam`, but for ``nesterov``, which is on here
    as in Optax and off in the paper. State: three float32 numbers per parameter.

    Source: Daskalakis et al. 2018, arXiv:1711.00141, algorithm 1.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov),
        scale_by_optimistic_gradient(alpha, beta),
        scale_by_learning_rate(learning_rate),
    )
