"""Trees of one structure, element by element."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import Call
from gradtx.tree.comparing import check_same
from gradtx.tree.leaves import widen


def add(tree_x: Any, tree_y: Any, *other_trees: Any) -> Any:
    """``x + y + ...``, leaf by leaf. Like all functions of several trees here, it takes equal structures and shapes.

    Raises ``StructureError`` or ``ShapeError`` with the leaf where they differ; ``None`` goes with ``None``.

    >>> from gradtx import tree
    >>> tree.add({"w": 1.0}, {"w": 2.0}, {"w": 3.0})
    {'w': 6.0}
    """
    return _together("add", lambda *leaves: sum(leaves[1:], leaves[0]), tree_x, tree_y, *other_trees)


def sub(tree_x: Any, tree_y: Any) -> Any:
    """``x - y``.

    >>> from gradtx import tree
    >>> tree.sub({"w": 1.0}, {"w": 2.0})
    {'w': -1.0}
    """
    return _together("sub", lambda x, y: x - y, tree_x, tree_y)


def mul(tree_x: Any, tree_y: Any) -> Any:
    """``x y``, element by element.

    >>> from gradtx import tree
    >>> tree.mul({"w": 3.0}, {"w": 2.0})
    {'w': 6.0}
    """
    return _together("mul", lambda x, y: x * y, tree_x, tree_y)


def div(tree_x: Any, tree_y: Any) -> Any:
    """``x / y``, element by element.

    >>> from gradtx import tree
    >>> tree.div({"w": 3.0}, {"w": 2.0})
    {'w': 1.5}
    """
    return _together("div", lambda x, y: x / y, tree_x, tree_y)


def scale(scalar: jax.typing.ArrayLike, tree: Any) -> Any:
    """``scalar x``, in the dtype of each leaf of x; the product is rounded once.

    >>> from gradtx import tree
    >>> tree.scale(2.0, {"w": jnp.array([1.0, 3.0])})["w"].tolist()
    [2.0, 6.0]
    """
    return jax.tree.map(lambda x: _rounded(scalar * widen(x), x), tree)


def add_scale(tree_x: Any, scalar: jax.typing.ArrayLike, tree_y: Any) -> Any:
    """``x + scalar y``, in the dtype of each leaf of x; computed in float32 or wider and rounded once.

    >>> from gradtx import tree
    >>> tree.add_scale({"w": jnp.array(1.0)}, -0.5, {"w": jnp.array(3.0)})["w"].tolist()
    -0.5
    """
    return _together("add_scale", lambda x, y: _rounded(widen(x) + scalar * widen(y), x), tree_x, tree_y)


def conj(tree: Any) -> Any:
    """The complex conjugate of each leaf; real ones stay.

    >>> from gradtx import tree
    >>> tree.conj({"b": 3.0, "w": 1.0 + 2.0j})
    {'b': 3.0, 'w': (1-2j)}
    """
    return jax.tree.map(lambda leaf: leaf.conjugate() if _is_complex(leaf) else leaf, tree)


def real(tree: Any) -> Any:
    """The real part of each leaf; real ones stay.

    >>> from gradtx import tree
    >>> tree.real({"b": 3.0, "w": 1.0 + 2.0j})
    {'b': 3.0, 'w': 1.0}
    """
    return jax.tree.map(lambda leaf: leaf.real if _is_complex(leaf) else leaf, tree)


def _is_complex(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.complexfloating)


def where(condition: Any, tree_x: Any, tree_y: Any) -> Any:
    """``x`` where the condition holds, ``y`` elsewhere; the condition is one bool, traced or not, or a tree of bools.

    >>> from gradtx import tree
    >>> tree.where(jnp.array(True), {"w": 1.0}, {"w": 2.0})["w"].tolist()
    1.0
    """
    if jax.tree_util.treedef_is_leaf(jax.tree.structure(condition)):
        return _together("where", lambda x, y: jnp.where(condition, x, y), tree_x, tree_y)
    return _together("where", lambda x, y, chosen: jnp.where(chosen, x, y), tree_x, tree_y, condition)


def incremental_update(new_tensors: Any, old_tensors: Any, step_size: jax.typing.ArrayLike) -> Any:
    """``old + step_size (new - old)``, in the dtypes of ``old``: slow targets that follow parameters (Polyak's mean).

    Computed in float32 or wider and rounded once. With ``step_size=1`` it is ``new`` exactly where both are near.

    >>> from gradtx import tree
    >>> tree.incremental_update({"w": jnp.array(1.0)}, {"w": jnp.array(3.0)}, 0.25)["w"].tolist()
    2.5
    """

    def follow(new: Any, old: Any) -> Any:
        return _rounded(widen(old) + step_size * (widen(new) - widen(old)), old)

    return _together("incremental_update", follow, new_tensors, old_tensors)


def periodic_update(
    new_tensors: Any, old_tensors: Any, steps: jax.typing.ArrayLike, update_period: jax.typing.ArrayLike
) -> Any:
    """``new`` if ``steps`` is a multiple of ``update_period``, else ``old``: targets that are copied now and then.

    >>> from gradtx import tree
    >>> [tree.periodic_update({"w": 1.0}, {"w": 2.0}, step, 3)["w"].tolist() for step in range(4)]
    [1.0, 2.0, 2.0, 1.0]
    """
    return where(jnp.asarray(steps) % update_period == 0, new_tensors, old_tensors)


def _together(name: str, function: Callable[..., Any], *trees: Any) -> Any:
    call = Call(name, trees, {}, {}, {})
    for index, tree in enumerate(trees[1:], start=2):
        check_same(call, f"tree {index}", tree, "tree 1", trees[0])
    return jax.tree.map(function, *trees)


def _rounded(x: Any, like: Any) -> Any:
    return jnp.asarray(x).astype(jnp.result_type(x, like) if jnp.iscomplexobj(x) else jnp.result_type(like))
