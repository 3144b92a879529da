"""The form of every reparametrization of weights, and which axes of a leaf it normalizes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.norm.statistics import own_axes
from gradtx.tree import describe_leaf, is_array


class Reparametrization(NamedTuple):
    """A pair of pure functions, from what is trained to the weights that a model is applied with::

        init(weights)                     -> (params, state)
        apply(params, state, train=False) -> (weights, state)

    ``weights`` is any tree of arrays, ``params`` the tree to train in its place, ``state`` what training keeps besides.
    ``apply`` belongs into the loss, so that gradients go through it.
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Callable[..., tuple[Any, Any]]


def axes_of_inputs(call: Any, path: str, weight: Any, outputs: tuple[int, ...]) -> tuple[int, ...]:
    """All axes but those of the outputs; raises unless the weight is floating and has both."""
    if not is_array(weight) or not jnp.issubdtype(weight.dtype, jnp.floating):
        raise errors.DtypeError(
            call,
            expected="floating weights",
            got=describe_leaf(weight),
            at=repr(path),
            cause="the pattern selects a table or a counter, too",
            fix="write where='*kernel'",
        )
    try:
        own = own_axes(call, "axis", outputs, weight.ndim)
    except errors.ArgumentRangeError as error:
        raise error.at_leaf(path) from None
    axes = tuple(i for i in range(weight.ndim) if i not in own)
    if not axes:
        raise errors.ShapeError(
            call,
            expected=f"weights with other axes than {outputs}, that of the outputs",
            got=f"shape {weight.shape}",
            at=repr(path),
            cause="the pattern selects biases, too",
            fix="write where='*kernel'",
        )
    return axes


def largest(x: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """The largest magnitude, 1 where all are 0, without a gradient: what to divide by before squares are added."""
    size = jnp.max(jnp.abs(jax.lax.stop_gradient(x)), axes, keepdims=True, initial=0)
    return jnp.where(size == 0, 1, size)
