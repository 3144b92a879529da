"""Weight normalization: direction and length of each unit's weights trained apart."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.selecting import Where, selected
from gradtx.norm.checking import as_axes
from gradtx.norm.reparametrization import Reparametrization, axes_of_inputs, largest
from gradtx.tree import in_words, leaf_paths, widen


class DirectionAndScale(NamedTuple):
    """What is trained in the place of a weight: v, in its shape and dtype, and g, at least float32, for each output."""

    direction: Any
    scale: Any


@errors.checked
def weight_norm(where: Where, *, axis: int | tuple[int, ...] = -1) -> Reparametrization:
    """Trains the direction v and the length g of the weights of each output::

        w = g * v / |v|                              |v| over all axes but ``axis``

    Args:
        where: Which leaves: a pattern on the path such as ``"*kernel"``, a predicate ``(path, leaf) -> bool``, or a
            tree of booleans, as in :func:`gradtx.only`.
        axis: The axes of outputs: the last one in JAX's layers, 0 in PyTorch's. ``()`` gives each leaf one length.

    Returns:
        ``init(weights) -> (params, state)``: the tree with a :class:`DirectionAndScale` in the place of each selected
        leaf, v the weight and g its norms, and a state ``()``. ``apply(params, state) -> (weights, state)`` gives the
        weights again, in the dtype of v.

    |v| is right for weights of any finite size. An output whose weights are all zero stays so, with zero gradients: it
    has no direction. To start with, draw all weights at random.

    Source: Salimans and Kingma 2016, arXiv:1602.07868, equation 2.

    Raises:
        SelectionError: The pattern selects nothing.
        ShapeError: A selected leaf has no axis but those of the outputs.
        DtypeError: A selected leaf is not floating.
        StructureError: There is nothing in ``params`` that ``init`` made.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.weight_norm("*kernel")
    >>> params, state = init({"kernel": jnp.array([[3.0], [4.0]]), "bias": jnp.zeros(1)})
    >>> params["kernel"].scale.tolist()
    [5.0]
    >>> apply(params, state)[0]["kernel"].round(4).tolist()
    [[3.0], [4.0]]
    """
    outputs = as_axes(axis)

    def call() -> Any:
        return getattr(init, "__gradtx_call__", "weight_norm(...)")

    def init(weights):
        flat, treedef = jax.tree.flatten(weights)
        hits = selected(where, weights, str(call()))
        paths = leaf_paths(weights)
        params = [
            _apart(leaf, axes_of_inputs(call(), path, leaf, outputs)) if hit else leaf
            for leaf, hit, path in zip(flat, hits, paths, strict=True)
        ]
        return treedef.unflatten(params), ()

    def apply(params, state, train=False):
        del train  # the same weights
        flat, treedef = jax.tree.flatten(params, is_leaf=_is_apart)
        if not any(map(_is_apart, flat)):
            raise errors.StructureError(
                call(),
                expected="params with a DirectionAndScale in them",
                got=in_words(params),
                cause="weights were given, or a restored tree has lost its types",
                fix="write params, state = init(weights)",
            )
        return treedef.unflatten([_together(call(), p, outputs) if _is_apart(p) else p for p in flat]), state

    return Reparametrization(init, apply)


def _is_apart(node: Any) -> bool:
    return isinstance(node, DirectionAndScale)


def _apart(weight: Any, axes: tuple[int, ...]) -> DirectionAndScale:
    unit = largest(widen(jnp.asarray(weight)), axes)
    norms = unit * jnp.sqrt(jnp.sum(jnp.square(widen(weight) / unit), axes, keepdims=True))
    # A copy: the same buffer in two places could not be given away.
    return DirectionAndScale(jnp.array(weight), jnp.squeeze(norms, axes))


def _together(call: Any, param: DirectionAndScale, outputs: tuple[int, ...]) -> jax.Array:
    v = jnp.asarray(param.direction)
    axes = axes_of_inputs(call, "direction", v, outputs)
    scaled = widen(v) / largest(widen(v), axes)
    of_squares = jnp.sum(jnp.square(scaled), axes, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.where(of_squares == 0, 1, of_squares))
    return (jnp.expand_dims(widen(param.scale), axes) * (scaled * inverse)).astype(v.dtype)
