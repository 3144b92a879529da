"""Losses of the residual between a number and its target."""

from typing import Annotated

import jax
import jax.numpy as jnp

from gradtx.errors import Call, Interval, checked_call
from gradtx.losses.operands import pair, written

_NAMES = ("predictions", "targets")


def squared_error(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The squared residual of each number::

        loss = r^2,   r = prediction - target

    Args:
        predictions: Floating, any shape.
        targets: Real, the shape of ``predictions``; 0 where None.
        where: Which numbers count, bool, of that shape or of its first axes (one per example). What is left out has
            loss and gradient zero, whatever stands in it: ``where=~jnp.isnan(targets)``.

    Returns:
        The loss of each number, the shape of ``predictions``, float32 or wider. :func:`mean` averages it.

    Raises:
        DtypeError: Predictions that are not floating, complex targets, ``where`` that is not bool.
        ShapeError: Targets or ``where`` of another shape: ``(n,)`` beside ``(n, 1)`` is an error, not ``n * n`` losses.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.squared_error(jnp.array([1.0, 5.0]), jnp.array([3.0, jnp.nan]), where=jnp.array([True, False])).tolist()
    [4.0, 0.0]
    """
    return jnp.square(_residual(written("squared_error", predictions, targets, where=where)))


def l2_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Half the squared residual, with the residual as its gradient::

        loss = r^2 / 2,   r = prediction - target

    Arguments, result and errors are those of :func:`squared_error`.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.l2_loss(jnp.array([1.0]), jnp.array([3.0])).tolist()
    [2.0]
    """
    r = _residual(written("l2_loss", predictions, targets, where=where))
    return 0.5 * r * r


def absolute_error(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The absolute residual of each number; its gradient is the sign, 0 at 0::

        loss = |r|,   r = prediction - target

    Arguments, result and errors are those of :func:`squared_error`.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.absolute_error(jnp.array([1.0]), jnp.array([3.0])).tolist()
    [2.0]
    """
    r = _residual(written("absolute_error", predictions, targets, where=where))
    return r * jnp.sign(r)  # the derivative of jnp.abs is 1 at 0


@checked_call
def huber_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    delta: Annotated[float, Interval(0.0, open_low=True, schedule=False)] = 1.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Half the squared residual up to ``delta``, and a line beyond: one outlier pulls no harder than ``delta``::

        loss = r^2 / 2                          |r| <= delta,   r = prediction - target
               delta (|r| - delta / 2)          |r| > delta

    ``delta`` is a positive number, in the unit of the residual. The other arguments, result and errors are those of
    :func:`squared_error`. The gradient is r limited to ``[-delta, delta]``, also for a residual beyond the largest
    float.

    Source: Huber 1964, Annals of Mathematical Statistics 35(1), "Robust estimation of a location parameter".

    Raises:
        ArgumentTypeError, ArgumentRangeError: ``delta`` is not a positive number.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.huber_loss(jnp.array([1.0, 10.0]), jnp.zeros(2), delta=2.0).tolist()
    [0.5, 18.0]
    """
    r = _residual(written("huber_loss", predictions, targets, delta=delta, where=where))
    size = jnp.abs(r)
    near = jnp.where(size <= delta, r, 0)  # a square of the others would overflow
    return jnp.where(size <= delta, 0.5 * near * near, delta * (size - 0.5 * delta))


def log_cosh(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike | None = None,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The logarithm of the hyperbolic cosine of the residual, a smooth :func:`huber_loss`::

        loss = log cosh r,   r = prediction - target,   dloss/dr = tanh r

    About ``r^2 / 2`` near 0 and ``|r| - log 2`` far from it. Arguments, result and errors are those of
    :func:`squared_error`. The relative precision is kept at both ends: ``-log1p(-tanh^2 r) / 2`` within 1/2 of 0, where
    a difference of logarithms has no correct digit below 1e-4, and ``|r| + log1p(exp(-2|r|)) - log 2`` beyond.

    Source: Chen et al. 2019, "Log hyperbolic cosine loss improves variational auto-encoder".

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.log_cosh(jnp.array([0.0, 3e38]), jnp.zeros(2)).tolist()
    [0.0, 3.0000000054977558e+38]
    """
    return _log_cosh(_residual(written("log_cosh", predictions, targets, where=where)))


@jax.custom_jvp
def _log_cosh(r: jax.Array) -> jax.Array:
    size = jnp.abs(r)
    near = -0.5 * jnp.log1p(-jnp.square(jnp.tanh(jnp.minimum(size, 0.5))))
    far = size + (jnp.log1p(jnp.exp(-2 * size)) - jnp.log(2).astype(r.dtype))
    return jnp.where(size < 0.5, near, far)  # where they meet, both are within 5 eps


@_log_cosh.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (r,), (dr,) = primals, tangents
    return _log_cosh(r), jnp.tanh(r) * dr


def _residual(call: Call) -> jax.Array:
    """``prediction - target``, 0 where it does not count."""
    predictions, targets = call.positional
    if targets is None:
        targets = jnp.zeros_like(predictions)
    x, y, _ = pair(call, _NAMES, predictions, targets, call.keywords.get("where"))
    return x - y
