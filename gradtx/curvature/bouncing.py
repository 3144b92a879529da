"""Whether a learning rate is too large for the curvature, so that steps bounce from wall to wall."""

import math
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.curvature.extremes import extreme_eigenvalues
from gradtx.curvature.operators import Operator, scaled
from gradtx.tree import describe_leaf, leaf_paths


class Stability(NamedTuple):
    """Where the largest eigenvalue stands; host floats."""

    value: float
    """``lambda_max / threshold``. Above 1, steps along its direction turn back further than they came."""
    bound: float
    """The same is at most this, with probability ``1 - delta``."""
    lambda_max: float
    """The largest eigenvalue found, of the preconditioned matrix if there is one; never above the true one."""
    threshold: float
    """``(2 + 2 momentum) / learning_rate``."""
    products: int


@errors.checked_call
def stability(
    operator: Operator,
    learning_rate: errors.PositiveNumber,
    *,
    key: Any,
    momentum: Annotated[float, errors.Interval(0.0, 1.0, open_high=True, schedule=False)] = 0.0,
    preconditioner: Any = None,
    max_products: errors.Count = 100,
    delta: errors.Fraction = 1e-3,
) -> Stability:
    """The largest eigenvalue over the one at which steps begin to bounce: stable below 1, at the edge around 1::

        value = lambda_max(P^-1/2 H P^-1/2) / threshold,    threshold = (2 + 2 momentum) / learning_rate

    On a parabola of curvature ``h``, gradient descent multiplies the distance by ``1 - learning_rate h`` each step,
    which grows where ``h`` is above ``2 / learning_rate``; heavy-ball momentum moves that to ``(2 + 2 momentum) /
    learning_rate``. Training at a fixed rate often raises the curvature until this is 1, and then stays there.

    An adaptive method divides by ``P``. Adam with its first moment is heavy-ball momentum at the rate ``(1 - b1)
    learning_rate`` (together 38 / learning_rate for ``b1 = 0.9``)::

        v = state["scale_by_adam"].denominator
        weight = 1 - b2 ** v["bias_correction"].step
        p = jax.tree.map(lambda m: jnp.sqrt(m / weight) + eps, v["mean_square"].mean_square)
        stability(hessian(loss, params, batch), (1 - b1) * learning_rate, key=key, momentum=b1, preconditioner=p)

    Args:
        operator: From :func:`hessian` or :func:`gauss_newton`.
        learning_rate: The rate in force, a number.
        key: A random key.
        momentum: The decay of heavy-ball momentum, ``m <- momentum m + g`` (:func:`gradtx.scale_by_momentum`).
        preconditioner: ``P``, a tree like the parameters of positive numbers; one by default.
        max_products, delta: As in :func:`extreme_eigenvalues`.

    Raises:
        ArgumentRangeError: A number is out of range, an entry of ``P`` is not positive, or ``H`` is not finite.
        StructureError, ShapeError: ``preconditioner`` is not like the parameters.

    Source: Cohen et al. 2021, arXiv:2103.00065, section 2 and, with momentum, equation 1; Cohen et al. 2022,
    arXiv:2207.14484, for adaptive methods.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: 5 * w[0] ** 2 + w[1] ** 2, jnp.ones(2))
    >>> round(curvature.stability(matrix, 0.1, key=jax.random.key(0)).value, 4)  # 0.1 * 10 / 2
    0.5
    """
    call = f"stability({operator.point.call}, {learning_rate:g})"
    operator = operator._replace(point=operator.point._replace(call=call))
    if preconditioner is not None:
        operator = scaled(operator, _inverse_roots(operator, preconditioner))
    found = extreme_eigenvalues(operator, key=key, max_products=max_products, delta=delta)
    threshold = (2 + 2 * float(momentum)) / float(learning_rate)
    largest = found.largest
    return Stability(largest.value / threshold, largest.bound / threshold, largest.value, threshold, found.products)


def _inverse_roots(operator: Operator, preconditioner: Any) -> Any:
    at = operator.point
    vector = at.vector("preconditioner", preconditioner)
    paths = [path for path, hit in zip(leaf_paths(preconditioner), at.layout.mask, strict=True) if hit]
    for path, leaf in zip(paths, vector, strict=True):
        smallest = float(jnp.min(leaf, initial=math.inf))
        if smallest > 0 and bool(jnp.all(jnp.isfinite(leaf))):
            continue
        raise errors.ArgumentRangeError(
            at.call,
            expected="a preconditioner of positive finite numbers",
            got=f"{smallest:g} in {describe_leaf(leaf)}",
            at=repr(path),
            cause="a second moment starts at zero, and eps was left out",
            fix="write jnp.sqrt(second_moment) + eps, after at least one step",
        )
    return at.tree(tuple(jnp.reciprocal(jnp.sqrt(leaf)) for leaf in vector))
