"""The identity, with another derivative."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import Number, checked_call
from gradtx.tree import is_inexact, widen


@checked_call
def scale_gradient(inputs: Any, scale: Number) -> Any:
    """The inputs as they are, whose derivative is ``scale`` times that of the identity::

        y = x,   dy = scale * dx

    So what is computed from ``y`` teaches what ``x`` is computed from more slowly, not at all (0), or the opposite
    (a negative ``scale``: a domain classifier on features that shall not tell domains apart).

    Args:
        inputs: A tree; leaves that are no floating-point numbers have no derivative.
        scale: A number, which may be traced. With 0 even an infinite derivative is dropped.

    Returns:
        The tree, for forward and reverse derivatives of any order. Products are rounded once, in the leaf's dtype.

    Source: Ganin and Lempitsky 2015, arXiv:1409.7495, equations 7 and 8, with ``scale = -lambda``.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import losses
    >>> float(jax.grad(lambda x: losses.scale_gradient(x, -0.5) ** 2)(3.0))
    -3.0
    """
    return jax.tree.map(lambda x: _with_slope(x, scale) if is_inexact(x) or isinstance(x, float) else x, inputs)


@jax.custom_jvp
def _with_slope(x: jax.Array, scale: Any) -> jax.Array:
    del scale
    return x


@_with_slope.defjvp
def _(primals: Any, tangents: Any) -> tuple[jax.Array, jax.Array]:
    (x, scale), (dx, _) = primals, tangents
    scale = jnp.asarray(scale, widen(dx).real.dtype)
    return _with_slope(x, scale), jnp.where(scale == 0, 0, widen(dx) * scale).astype(dx.dtype)
