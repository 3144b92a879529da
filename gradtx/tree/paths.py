"""Where a leaf stands in its tree, as text and as a number."""

import collections
import zlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np


def path_name(path: Iterable[Any]) -> str:
    """A key path as text: ``block/0/kernel``."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def leaf_paths(tree: Any) -> list[str]:
    """The path of every leaf, in flattening order; ``None`` is no leaf.

    A box around a parameter (Flax's) is no part of its path: a node whose only child is its attribute ``value``.
    """
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]
    children = collections.Counter(path[:-1] for path in paths)
    return [path_name(path[:-1] if _is_value(path) and children[path[:-1]] == 1 else path) for path in paths]


def leaf_seeds(tree: Any) -> list[np.uint32]:
    """A number for each leaf made from its path, to fold into a key: the same in every process and sharding."""
    return [np.uint32(zlib.crc32(path.encode())) for path in leaf_paths(tree)]


def _is_value(path: tuple[Any, ...]) -> bool:
    return len(path) > 1 and getattr(path[-1], "name", None) == "value"
