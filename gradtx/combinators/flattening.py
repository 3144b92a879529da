"""All parameters as one vector."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradtx import errors
from gradtx.core import GradientTransformation, Nested, Pair, join, record_of, transformation
from gradtx.tree import describe_leaf, is_inexact, leaf_paths, wide_dtype, widen


class FlattenState(NamedTuple):
    """State of a transformation of one vector: its fields are vectors, and not trees like the parameters."""

    inner: Nested


@transformation
def flatten(inner: GradientTransformation) -> GradientTransformation:
    """``inner``, which is given all parameters and all gradients as one vector each, in place of trees::

        u = unravel(inner(ravel(g), ravel(p)))

    For what reads vectors (a foreign method), and for what is meant for each leaf to be done for all: the norms, means
    and trust ratios per leaf of ``inner`` are those of the whole. A model of many small leaves also runs faster: one
    loop instead of hundreds. Large leaves are better left alone: each step copies them into the vector and out of it,
    and a sharded leaf is gathered.

    The vector has the widest dtype among the leaves (float32 at least), the updates come back in the shape of each. The
    paths of ``inner`` are those of one array: globs on names match nothing in it.

    >>> import gradtx, jax.numpy as jnp
    >>> params = {"b": jnp.array([0.0]), "w": jnp.array([3.0, 4.0])}
    >>> tx = gradtx.flatten(gradtx.clip_by_block_rms(1.0))
    >>> updates, state = tx.update({"b": jnp.array([0.0]), "w": jnp.array([6.0, 6.0])}, tx.init(params), params)
    >>> [round(float(update), 4) for update in updates["w"]]
    [1.2247, 1.2247]
    """
    record = record_of(inner)

    def init(params: Any) -> FlattenState:
        for path, leaf in zip(leaf_paths(params), jax.tree.leaves(params), strict=True):
            if not is_inexact(widen(leaf)):
                raise errors.DtypeError(
                    errors.UNNAMED, expected="a vector of floating-point numbers", got=describe_leaf(leaf),
                    at=repr(path), cause="a table of integers or booleans, or a function, stands among the parameters",
                    fix="leave it out with only(tx, where=...), or pass eqx.filter(model, eqx.is_inexact_array)",
                )  # fmt: skip
        return FlattenState(record.tree.init(_vector(params)))

    def update(updates: Any, state: FlattenState, params: Any, signals: Mapping[str, Any]) -> tuple[Any, FlattenState]:
        flat, treedef = jax.tree.flatten(jax.tree.map(widen, updates))
        vector = None if params is None else _vector(params)
        steps, new = record.tree.update(_vector(updates), state.inner, vector, signals)
        sizes = [leaf.size for leaf in flat]
        cuts = [sum(sizes[:index]) for index in range(1, len(sizes))]
        pieces = jnp.split(steps, cuts) if flat else []
        shaped = [_like(piece, leaf) for piece, leaf in zip(pieces, flat, strict=True)]
        return treedef.unflatten(shaped), FlattenState(new)

    return join({"inner": record}, Pair(init, update), kind="between")


def _vector(tree: Any) -> jax.Array:
    leaves = [jnp.ravel(_gathered(widen(leaf))) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def _gathered(leaf: jax.Array) -> jax.Array:
    """A leaf that is whole on every device of an explicit mesh; on others the compiler sees to it."""
    sharding = jax.typeof(leaf).sharding
    return leaf if all(part is None for part in sharding.spec) else _reshard(leaf, PartitionSpec())


def _reshard(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
    return jax.sharding.reshard(leaf, NamedSharding(jax.typeof(leaf).sharding.mesh, spec))


def _like(piece: jax.Array, leaf: jax.Array) -> jax.Array:
    real = piece if jnp.iscomplexobj(leaf) else piece.real
    shaped = real.astype(wide_dtype(leaf.dtype)).reshape(leaf.shape)
    spec = jax.typeof(leaf).sharding.spec
    return shaped if all(part is None for part in spec) else _reshard(shaped, spec)
