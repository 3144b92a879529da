"""Numbers made of all elements of a tree."""

import builtins
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from gradtx.errors import ArgumentRangeError, Call, DtypeError, ShapeError, show
from gradtx.tree.comparing import check_same
from gradtx.tree.leaves import widen


def sum(tree: Any) -> jax.Array:
    """The sum of all elements, in float32 or wider; 0 without one.

    >>> from gradtx import tree
    >>> float(tree.sum({"w": jnp.ones(3), "b": 0.5}))
    3.5
    """
    return functools.reduce(
        jnp.add, [jnp.sum(widen(jnp.asarray(leaf))) for leaf in jax.tree.leaves(tree)], jnp.zeros(())
    )


def max(tree: Any) -> jax.Array:
    """The largest element. Raises ``ShapeError`` without one.

    >>> from gradtx import tree
    >>> float(tree.max({"w": jnp.arange(3.0), "b": 0.5}))
    2.0
    """
    return functools.reduce(jnp.maximum, [jnp.max(leaf) for leaf in _with_elements("max", tree)])


def min(tree: Any) -> jax.Array:
    """The smallest element. Raises ``ShapeError`` without one.

    >>> from gradtx import tree
    >>> float(tree.min({"w": jnp.arange(3.0), "b": 0.5}))
    0.0
    """
    return functools.reduce(jnp.minimum, [jnp.min(leaf) for leaf in _with_elements("min", tree)])


def size(tree: Any) -> int:
    """How many elements there are, a Python number.

    >>> from gradtx import tree
    >>> tree.size({"w": jnp.ones((3, 2)), "b": 0.5})
    7
    """
    return builtins.sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree))


def dtype(tree: Any, mixed_dtype_handler: Literal["promote", "highest", "lowest"] | None = None) -> Any:
    """The dtype of all leaves, and for several: none, their promotion, or one to (from) which all others promote.

    Without ``mixed_dtype_handler`` several are an error. The default dtype of JAX without a leaf.

    Raises ``DtypeError`` for leaves of several dtypes that have none as asked for, ``ArgumentRangeError`` for another
    handler.

    >>> from gradtx import tree
    >>> str(tree.dtype([jnp.ones(2, jnp.bfloat16), jnp.ones(2)], "lowest"))
    'bfloat16'
    """
    if mixed_dtype_handler not in (None, "promote", "highest", "lowest"):
        raise ArgumentRangeError(
            f"dtype(tree, {show(mixed_dtype_handler)})",
            expected="mixed_dtype_handler must be None, 'promote', 'highest' or 'lowest'",
            got=show(mixed_dtype_handler), cause="it says which of several dtypes is wanted", fix="write 'promote'",
        )  # fmt: skip
    found = {jnp.dtype(jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)}
    if not found:
        return jnp.dtype(jnp.result_type(float))
    if mixed_dtype_handler == "promote":
        return functools.reduce(jnp.promote_types, found)
    above = {one: {other for other in found if jnp.promote_types(one, other) == other} for one in found}
    highest = [one for one in found if all(one in others for others in above.values())]
    lowest = [one for one in found if above[one] == found]
    chosen = {"highest": highest, "lowest": lowest}.get(str(mixed_dtype_handler), list(found))
    if len(chosen) != 1:
        raise DtypeError(
            f"dtype(tree, {show(mixed_dtype_handler)})",
            expected="leaves of one dtype" if mixed_dtype_handler is None else f"a {mixed_dtype_handler} dtype",
            got=", ".join(sorted(map(str, found))), cause="no leaf has the dtype that is asked for",
            fix="write dtype(tree, 'promote')",
        )  # fmt: skip
    return chosen[0]


def vdot(tree_x: Any, tree_y: Any) -> jax.Array:
    """``sum conj(x) y`` over all elements, in float32 or wider and with exact products of bfloat16.

    Raises ``StructureError`` or ``ShapeError`` with the leaf where the trees differ.

    >>> from gradtx import tree
    >>> float(tree.vdot({"w": jnp.arange(3.0)}, {"w": jnp.ones(3)}))
    3.0
    """
    check_same(Call("vdot", (tree_x, tree_y), {}, {}, {}), "tree_y", tree_y, "tree_x", tree_x)
    pairs = zip(jax.tree.leaves(tree_x), jax.tree.leaves(tree_y), strict=True)
    products = [jnp.sum(jnp.conj(widen(jnp.asarray(x))) * widen(jnp.asarray(y))) for x, y in pairs]
    return functools.reduce(jnp.add, products, jnp.zeros(()))


def global_norm(updates: Any, *, ord: int | float = 2) -> jax.Array:
    """The norm of a tree as one vector, in float32 or wider: 2, 1 (the sum of magnitudes) or inf (the largest).

    It is finite for every tree whose norm is: elements are scaled by the largest before they are squared. (Optax's is
    inf from 2e19 and 0 below 1e-23.) Its gradient is ``x / |x|``, and 0 at zeros (Optax: NaN). 0 for an empty tree.

    Raises ``ArgumentRangeError`` for another ``ord``.

    >>> import gradtx, jax.numpy as jnp
    >>> round(float(gradtx.global_norm({"w": jnp.array([3e30, 0.0]), "b": jnp.array(-4e30)})) / 1e30, 4)
    5.0
    """
    if ord not in (1, 2, math.inf):
        raise ArgumentRangeError(
            f"global_norm(..., ord={show(ord)})", expected="ord must be 1, 2 or inf", got=show(ord),
            cause="other norms are not of the whole tree", fix="write ord=2",
        )  # fmt: skip
    leaves = [widen(jnp.asarray(leaf)) for leaf in jax.tree.leaves(updates)]
    leaves = [
        part for leaf in leaves for part in ([leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) and ord == 2 else [leaf])
    ]
    if not leaves:
        return jnp.zeros(())
    sizes = [jnp.abs(leaf) if jnp.iscomplexobj(leaf) else jnp.sign(leaf) * leaf for leaf in leaves]
    peak = functools.reduce(jnp.maximum, [jnp.max(leaf, initial=0) for leaf in sizes])
    if ord == math.inf:
        return peak
    if ord == 1:
        return functools.reduce(jnp.add, map(jnp.sum, sizes))
    # A power of two: scaling rounds nothing.
    unit = jax.lax.stop_gradient(jnp.exp2(jnp.clip(jnp.floor(jnp.log2(jnp.where(peak > 0, peak, 1))), -125, 125)))
    unit = jnp.where(jnp.isfinite(peak), unit, 1).astype(peak.dtype)
    square = functools.reduce(jnp.add, [jnp.sum(jnp.square(leaf / unit)) for leaf in leaves])
    return unit * jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> jax.Array:
    """Whether ``|a - b| <= atol + rtol |b|`` for all elements, a bool array.

    Raises ``StructureError`` or ``ShapeError`` with the leaf where the trees differ.

    >>> from gradtx import tree
    >>> bool(tree.allclose({"w": jnp.ones(3)}, {"w": jnp.ones(3) + 1e-7}))
    True
    """
    check_same(Call("allclose", (a, b), {}, {}, {}), "b", b, "a", a)
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    close = [jnp.allclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan) for x, y in pairs]
    return functools.reduce(jnp.logical_and, close, jnp.array(True))


def _with_elements(name: str, tree: Any) -> list[jax.Array]:
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    leaves = [leaf for leaf in leaves if leaf.size]
    if not leaves:
        raise ShapeError(
            Call(name, (tree,), {}, {}, {}), expected="a tree with an element", got="none",
            cause="nothing was selected", fix="check what the tree is made of, e.g. with gradtx.tree.leaf_paths",
        )  # fmt: skip
    return leaves
