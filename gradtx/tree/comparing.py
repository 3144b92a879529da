"""Comparisons of two trees that say where they differ."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.tree.leaves import describe_leaf, in_words, is_array
from gradtx.tree.paths import leaf_paths, path_name


def check_same(call: Any, what: str, tree: Any, like_what: str, like: Any) -> None:
    """Raises unless ``tree`` has the containers, leaves and shapes of ``like``; the message says where it has not."""
    leaves, treedef = jax.tree.flatten(tree)
    like_leaves, like_treedef = jax.tree.flatten(like)
    if treedef != like_treedef:
        raise _structure_error(call, what, tree, like_what, like)
    for index, (leaf, like_leaf) in enumerate(zip(leaves, like_leaves, strict=True)):
        if _shape(leaf) != _shape(like_leaf):
            raise errors.ShapeError(
                call,
                expected=f"{what} must have the shapes of {like_what}, here {_shape(like_leaf)}",
                got=describe_leaf(leaf),
                at=repr(leaf_paths(tree)[index]),
                cause="a gradient is never broadcast to its parameter",
                fix="differentiate with respect to this parameter, or reshape",
            )


def _shape(leaf: Any) -> tuple[int, ...] | None:
    """The shape of an array or a number; None for a leaf that is neither, such as a function."""
    return jnp.shape(leaf) if is_array(leaf) or isinstance(leaf, int | float | complex) else None


def _structure_error(call: Any, what: str, tree: Any, like_what: str, like: Any) -> errors.StructureError:
    paths, like_paths = leaf_paths(tree), leaf_paths(like)
    missing = sorted(set(like_paths) - set(paths))
    extra = sorted(set(paths) - set(like_paths))
    one_leaf = len(paths) == 1 and jax.tree_util.treedef_is_leaf(jax.tree.structure(tree))
    got, cause = in_words(tree), f"{what} and {like_what} come from different trees"
    fix = f"give {what} made from the same tree as {like_what}"
    if one_leaf and like_paths != [""]:
        cause, fix = (
            "did you differentiate with respect to the batch?",
            "use jax.grad(loss, argnums=0) with params first",
        )
    elif missing or extra:
        lacks = [f"without {_few(missing)}"] if missing else []
        adds = [f"with {_few(extra)}"] if extra else []
        got = f"{what} {' and '.join(lacks + adds)}"
        cause = "a leaf that is None in one tree must be None in the other"
    else:
        at, kinds = _first_container_difference(tree, like)
        got, cause = f"{kinds[0]} where {like_what} has {kinds[1]}", f"equal leaves in different containers (at {at!r})"
        fix = f"convert one of them, e.g. jax.tree.unflatten(jax.tree.structure({like_what}), jax.tree.leaves({what}))"
    return errors.StructureError(
        call, expected=f"{what} must have the structure of {like_what}, {in_words(like)}", got=got, cause=cause, fix=fix
    )


def _few(paths: list[str]) -> str:
    return ", ".join(map(repr, paths[:4])) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def _first_container_difference(tree: Any, like: Any, path: str = "") -> tuple[str, tuple[str, str]]:
    """Where two trees with equal leaf paths have different containers, and which."""
    if type(tree) is not type(like):
        return path, (type(tree).__name__, type(like).__name__)
    children = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    like_children = jax.tree_util.tree_flatten_with_path(like, is_leaf=lambda node: node is not like)[0]
    for (key, child), (_, like_child) in zip(children, like_children, strict=False):
        if jax.tree.structure(child) != jax.tree.structure(like_child):
            return _first_container_difference(child, like_child, path_name([*([path] if path else []), *key]))
    return path, (str(jax.tree.structure(tree)), str(jax.tree.structure(like)))


def of_one_example(call: Any, tree: Any) -> Any:
    """The shapes and dtypes of a tree without the first axis of its leaves, whose length they must share."""
    shapes = [_shape(leaf) for leaf in jax.tree.leaves(tree)]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) > 1 or 0 in lengths:
        raise errors.ShapeError(
            call, expected="gradients with a first axis of examples, of one length of at least 1",
            got=f"the shapes {', '.join(map(str, shapes[:4]))}{', ...' if len(shapes) > 4 else ''}",
            cause="the mean gradient of a batch was given",
            fix="write grads = jax.vmap(jax.grad(loss), (None, 0))(params, batch)",
        )  # fmt: skip
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[1:], jnp.result_type(leaf)), tree)


def broadcast_prefix(
    prefix: Any, tree: Any, call: Any, what: str, is_leaf: Callable[[Any], bool] | None = None
) -> list:
    """The value of ``prefix`` for each leaf of ``tree``: a prefix's leaf stands for everything below it."""
    values: list[Any] = []
    try:
        jax.tree.map(
            lambda value, below: values.extend([value] * len(jax.tree.leaves(below))), prefix, tree, is_leaf=is_leaf
        )
    except (ValueError, TypeError, KeyError) as error:
        raise errors.SelectionError(
            call,
            expected=f"{what} must be a tree that is a prefix of the parameters, {in_words(tree)}",
            got=f"{in_words(prefix)} with paths {_few(leaf_paths(prefix))}",
            cause=f"the trees part company ({str(error).splitlines()[0][:120]})",
            fix=f"give a tree with some of the paths {_few(leaf_paths(tree))}, or a pattern such as '*/kernel'",
        ) from None
    return values
