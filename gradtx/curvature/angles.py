"""How far two gradients point the same way."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.curvature.differentiation import Vector, inner
from gradtx.tree import check_same, widen


def gradient_cosine(gradients: Any, before: Any) -> jax.Array:
    """The cosine of the angle between two gradients, of one step and of the step before; for use in a compiled step::

        cos = (s - d) / (s + d),    s = |u + v|^2,  d = |u - v|^2,    u = g / |g|,  v = g_before / |g_before|

    Near -1, each step takes back what the one before did: training bounces from wall to wall of a valley. Near 1, it
    goes on and on in one direction. Gradients of batches that are mostly noise have a cosine around 0, a little below.
    Keep it as ``gradient_cosine`` beside the metrics of a step, and :func:`stuck` reads it.

    Args:
        gradients, before: Trees of real arrays alike. Their scales do not matter: squares neither overflow nor
            vanish (a number below 1.2e-38 in float32 counts as zero).

    Returns:
        A scalar of at least float32, right to a few units in the last place also where the angle is tiny: there
        ``1 - cos`` is a ratio of sums of squares, and nothing cancels. 0 where a gradient is zero, as before the first
        step; NaN where one is not finite.

    Raises:
        StructureError, ShapeError: ``before`` is not like ``gradients``.

    Source: Kahan 2006, "How futile are mindless assessments of roundoff", section 12, for the half angle.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> gradient = {"w": jnp.array([3.0, 4.0])}
    >>> float(curvature.gradient_cosine(gradient, {"w": jnp.array([-3e30, -4e30])}))
    -1.0
    """
    check_same("gradient_cosine(gradients, before)", "before", before, "gradients", gradients)
    u, v = (_unit(tuple(widen(jnp.asarray(leaf)) for leaf in jax.tree.leaves(tree))) for tree in (gradients, before))
    plus, minus = (tuple(a + sign * b for a, b in zip(u, v, strict=True)) for sign in (1, -1))
    s, d = inner(plus, plus), inner(minus, minus)
    return (s - d) / jnp.where(s + d == 0, 1.0, s + d)


def _unit(x: Vector) -> Vector:
    """``x / |x|``; zero stays zero."""
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0.0) for leaf in x])) if x else jnp.zeros(())
    scaled = tuple(leaf / jnp.where(largest == 0, 1.0, largest) for leaf in x)
    length = jnp.sqrt(inner(scaled, scaled))
    return tuple(leaf / jnp.where(length == 0, 1.0, length) for leaf in scaled)
