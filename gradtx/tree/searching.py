"""Finding and replacing a part of a tree, such as a state, by its name."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import SelectionError, nearest, show
from gradtx.tree.comparing import check_same
from gradtx.tree.leaves import is_array
from gradtx.tree.paths import path_name

Filter = Callable[[str, Any], bool]


def get_all_with_path(tree: Any, key: str, filtering: Filter | None = None) -> list[tuple[str, Any]]:
    """Every part with this name, and its path: a field of a named tuple, an entry of a dictionary, or a class.

    ``key`` is the end of a path: ``"mean"``, or ``"numerator/ema/mean"`` for one of several; or the name of the type of
    a named tuple, ``"EmaState"``. What is within a part that was found is not searched,
    but a state that has a field of its own name stands for that field. ``filtering(path, part)``
    leaves out the parts for which it is False.

    >>> import gradtx, jax.numpy as jnp
    >>> state = gradtx.adam(1e-3).init(jnp.zeros(2))
    >>> [path for path, _ in gradtx.tree.get_all_with_path(state, "ema/mean")]
    ['scale_by_adam/numerator/ema/mean']
    """
    found: list[tuple[str, Any]] = []

    def visit(path: str, node: Any) -> Any:
        found.append((path, node))
        return node

    _replaced(tree, key, filtering, visit)
    return found


def get(tree: Any, key: str, default: Any = None, filtering: Filter | None = None) -> Any:
    """The one part of a tree that :func:`get_all_with_path` finds, or ``default`` where it finds none.

    Raises ``SelectionError`` where it finds several, with their paths.

    >>> import gradtx, jax.numpy as jnp
    >>> gradtx.tree.get(gradtx.adam(1e-3).init(jnp.zeros(2)), "mean_square").tolist()
    [0.0, 0.0]
    """
    found = get_all_with_path(tree, key, filtering)
    if len(found) > 1:
        raise SelectionError(
            f"get(tree, {key!r})", expected="a name of one part", got=", ".join(path for path, _ in found),
            cause="several parts have it", fix=f"write more of the path, e.g. get(tree, {found[0][0]!r})",
        )  # fmt: skip
    return found[0][1] if found else default


def set(tree: Any, filtering: Filter | None = None, /, **values: Any) -> Any:
    """The tree with every part of these names replaced; names are those of :func:`get_all_with_path`.

    A new part has the structure, the shapes and, after conversion, the dtypes of the old one, so that a state stays
    what the compiled step takes. A name with slashes is given as ``**{"ema/mean": value}``.

    Raises ``SelectionError`` for a name that is not found, ``StructureError`` or ``ShapeError`` for a part that does
    not fit.

    >>> import gradtx, jax.numpy as jnp
    >>> state = gradtx.adam(1e-3).init(jnp.zeros(2))
    >>> gradtx.tree.get(gradtx.tree.set(state, mean=jnp.ones(2)), "mean").tolist()
    [1.0, 1.0]
    """
    for name, value in values.items():
        tree = _with_one(tree, name, value, filtering)
    return tree


def _with_one(tree: Any, name: str, value: Any, filtering: Filter | None) -> Any:
    call, paths = f"set(tree, {name}={show(value)})", []

    def put(path: str, old: Any) -> Any:
        paths.append(path)
        check_same(call, name, value, "the old one", old)
        return jax.tree.map(lambda new, like: jnp.asarray(new, like.dtype) if is_array(like) else new, value, old)

    new = _replaced(tree, name, filtering, put)
    if not paths:
        meant = nearest(name, _names(tree))
        raise SelectionError(
            call, expected="the name of a part of the tree", got=repr(name),
            cause=f"did you mean {meant!r}?" if meant else "no part has it",
            fix="look at the paths with gradtx.tree.leaf_paths(tree)",
        )  # fmt: skip
    return new


def _replaced(node: Any, key: str, filtering: Filter | None, change: Callable[[str, Any], Any], path: str = "") -> Any:
    """The node with the parts of this name changed."""
    is_field_below = key.rpartition("/")[2] in getattr(node, "_fields", ())
    is_named = path == key or path.endswith(f"/{key}") or (hasattr(node, "_fields") and type(node).__name__ == key)
    if is_named and not is_field_below and (filtering is None or filtering(path, node)):
        return change(path, node)
    children, treedef = jax.tree_util.tree_flatten_with_path(node, is_leaf=lambda below: below is not node)
    if jax.tree_util.treedef_is_leaf(treedef):
        return node
    below = [("/".join(filter(None, [path, path_name(at)])), child) for at, child in children]
    return treedef.unflatten([_replaced(child, key, filtering, change, at) for at, child in below])


def _names(tree: Any) -> list[str]:
    paths = [path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return sorted({name for path in paths for name in path.split("/")})
