"""Losses made from a function that says how good the best prediction is."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import ArgumentTypeError, ShapeError, show
from gradtx.losses.operands import pair, times, written


def make_fenchel_young_loss(max_fun: Callable[..., Any]) -> Callable[..., jax.Array]:
    """The loss whose prediction is the gradient of ``max_fun``, one number per example::

        loss(s, t) = f(s) - <t, s>,    f(s) = max_q (<q, s> - omega(q)),    grad_s loss = grad f(s) - t

    It is convex in the scores, and smallest where the prediction ``grad f(s)`` is t; there it is ``-omega(t)``, which
    the Fenchel-Young loss of the paper adds. For ``jax.nn.logsumexp`` and one-hot targets that is 0, and the loss is
    cross entropy.

    Args:
        max_fun: f, a function of a vector of scores (and of whatever else the loss is given) to a scalar.

    Returns:
        ``loss(scores, targets, *args, **kwargs)``: scores, floating, ``[..., classes]``; targets, real, of their shape;
        the rest goes to ``max_fun``. The result has the shape without the last axis, float32 or wider. A target of 0
        beside a score of -inf adds nothing.

    Source: Blondel, Martins and Niculae 2020, arXiv:1901.02324, definition 2.

    Raises:
        ArgumentTypeError: ``max_fun`` is no function.
        DtypeError, ShapeError: From the loss, for scores that are not floating, and targets of another shape.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import losses
    >>> loss = losses.make_fenchel_young_loss(jax.nn.logsumexp)
    >>> round(float(loss(jnp.zeros(3), jnp.array([0, 1, 0]))), 4)
    1.0986
    """
    if not callable(max_fun):
        raise ArgumentTypeError(
            f"make_fenchel_young_loss({show(max_fun)})",
            expected="a function of a vector of scores",
            got=show(max_fun),
            cause="its value was given",
            fix="write make_fenchel_young_loss(jax.nn.logsumexp)",
        )

    def fenchel_young_loss(
        scores: jax.typing.ArrayLike, targets: jax.typing.ArrayLike, *args: Any, **kwargs: Any
    ) -> jax.Array:
        call = written("fenchel_young_loss", scores, targets)
        s, t, _ = pair(call, ("scores", "targets"), scores, targets)
        if s.ndim == 0:
            raise ShapeError(
                call,
                expected="scores with a last axis of classes",
                got=s.shape,
                cause="one number is no vector",
                fix="write scores[None]",
            )
        best = jnp.vectorize(lambda row: max_fun(row, *args, **kwargs), signature="(n)->()")(s)
        return best - jnp.sum(times(t, s), -1)

    return fenchel_young_loss
