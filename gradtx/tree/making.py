"""Trees like another one: of one value, random, of keys, in other dtypes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import Call
from gradtx.tree.comparing import check_same
from gradtx.tree.leaves import is_inexact
from gradtx.tree.paths import leaf_seeds


def zeros_like(tree: Any, dtype: Any = None) -> Any:
    """Zeros in the shapes of a tree, in its dtypes or in the one given.

    >>> from gradtx import tree
    >>> tree.zeros_like({"w": jnp.ones(2)})["w"].tolist()
    [0.0, 0.0]
    """
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype), tree)


def ones_like(tree: Any, dtype: Any = None) -> Any:
    """Ones in the shapes of a tree, in its dtypes or in the one given.

    >>> from gradtx import tree
    >>> tree.ones_like({"w": jnp.zeros(2)})["w"].tolist()
    [1.0, 1.0]
    """
    return jax.tree.map(lambda leaf: jnp.ones_like(leaf, dtype), tree)


def full_like(tree: Any, fill_value: jax.typing.ArrayLike, dtype: Any = None) -> Any:
    """One value in the shapes of a tree, in its dtypes or in the one given.

    >>> from gradtx import tree
    >>> tree.full_like({"w": jnp.zeros(2)}, 3)["w"].tolist()
    [3.0, 3.0]
    """
    return jax.tree.map(lambda leaf: jnp.full_like(leaf, fill_value, dtype), tree)


def split_key_like(rng_key: jax.Array, target_tree: Any) -> Any:
    """A key for each leaf: ``fold_in(rng_key, CRC-32 of the leaf's path)``.

    So a leaf's key depends on its path alone, and not on the other leaves or their order: it stays the same when a
    layer is added (Optax splits the key by position), in every process and sharding.

    >>> import jax
    >>> from gradtx import tree
    >>> few = tree.split_key_like(jax.random.key(0), {"w": 0.0})
    >>> more = tree.split_key_like(jax.random.key(0), {"b": 0.0, "w": 0.0})
    >>> bool(few["w"] == more["w"])
    True
    """
    keys = [jax.random.fold_in(rng_key, seed) for seed in leaf_seeds(target_tree)]
    return jax.tree.structure(target_tree).unflatten(keys)


def random_like(
    rng_key: jax.Array,
    target_tree: Any,
    sampler: Callable[..., Any] = jax.random.normal,
    dtype: Any = None,
) -> Any:
    """``sampler(key, shape, dtype)`` for each leaf, with the keys of :func:`split_key_like`.

    The dtype is that of the leaf where None.

    >>> import jax
    >>> from gradtx import tree
    >>> tree.random_like(jax.random.key(0), {"w": jnp.zeros((2, 3))}, jax.random.uniform)["w"].shape
    (2, 3)
    """
    keys = split_key_like(rng_key, target_tree)
    return jax.tree.map(
        lambda leaf, key: sampler(key, jnp.shape(leaf), jnp.result_type(leaf) if dtype is None else dtype),
        target_tree,
        keys,
    )


def cast(tree: Any, dtype: Any) -> Any:
    """A tree whose floating leaves have another dtype; integers, bools and keys stay, and all with None.

    (Optax casts them as well: counters become inexact beyond 2^24.)

    >>> from gradtx import tree
    >>> [str(leaf.dtype) for leaf in tree.cast([jnp.ones(2), jnp.arange(2)], jnp.bfloat16)]
    ['bfloat16', 'int32']
    """
    if dtype is None:
        return tree
    return jax.tree.map(lambda leaf: _cast(leaf, dtype), tree)


def cast_like(tree: Any, other_tree: Any) -> Any:
    """A tree in the dtypes of another one of its structure and shapes.

    Raises ``StructureError`` or ``ShapeError`` with the leaf where they differ.

    >>> from gradtx import tree
    >>> str(tree.cast_like({"w": jnp.ones(2)}, {"w": jnp.zeros(2, jnp.bfloat16)})["w"].dtype)
    'bfloat16'
    """
    check_same(Call("cast_like", (tree, other_tree), {}, {}, {}), "tree", tree, "other_tree", other_tree)
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf).astype(jnp.result_type(like)), tree, other_tree)


def _cast(leaf: Any, dtype: Any) -> Any:
    leaf = jnp.asarray(leaf) if isinstance(leaf, float | complex) else leaf
    return jnp.asarray(leaf).astype(dtype) if is_inexact(leaf) else leaf
