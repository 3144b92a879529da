"""An optimizer in a subspace of each matrix's gradients, so that its state is small: GaLore."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradtx import errors
from gradtx.core import (
    Counter,
    FactorTree,
    GradientTransformation,
    Nested,
    Pair,
    compose,
    first_step,
    next_step,
    record_of,
    transformation,
)
from gradtx.transforms import scale_by_adam
from gradtx.tree import cut


class ScaleByGaloreState(NamedTuple):
    step: Counter
    projector: FactorTree
    inner: Nested


@transformation
def scale_by_galore(
    rank: errors.Count = 128,
    update_proj_gap: errors.Count = 200,
    scale: errors.NonNegative = 1.0,
    base_optimizer: GradientTransformation | None = None,
) -> GradientTransformation:
    """``u = scale * P base(P' g)`` for matrices ``g``: ``base_optimizer`` sees ``rank`` rows, or columns.

    ``P`` are the ``rank`` leading left singular vectors of ``g``, for a matrix with no more rows than columns; of
    others the right ones, ``u = scale * base(g P) P'``. They are found anew every ``update_proj_gap`` steps, beginning
    with the first, in a branch that is not run at other steps; the state of ``base_optimizer`` stays, in the new basis.
    Leaves that have not two axes, or no more rows or columns than ``rank``, go to ``base_optimizer`` as they are. (Of
    matrices that are not square Optax takes the singular vectors of the longer side; the paper those of the shorter.)

    ``base_optimizer`` (:func:`gradtx.scale_by_adam` without one) must read one leaf at a time and take no parameters:
    decay stands behind, as in :func:`gradtx.galore`. A gradient of any size has a projection; one that is not finite
    gives updates that are not. State: for ``n x m`` weights, ``n <= m``, that of ``base_optimizer`` for
    ``rank x m`` and ``n rank`` float32 numbers.

    Raises ``ArgumentTypeError`` for a ``base_optimizer`` that reads whole trees or parameters.

    Source: Zhao et al. 2024, arXiv:2403.03507, algorithm 2 and definition 3.6.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_galore(rank=1, base_optimizer=gradtx.identity())
    >>> grads = jnp.array([[0.0, 0.0], [3.0, 4.0]])         # of rank one: nothing is lost
    >>> [[round(float(u), 4) + 0.0 for u in row] for row in tx.update(grads, tx.init(grads))[0]]
    [[0.0, 0.0], [3.0, 4.0]]
    """
    base = record_of(scale_by_adam() if base_optimizer is None else base_optimizer)
    if base.locality == "tree" or base.needs_params:
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="base_optimizer must read one leaf at a time and take no parameters",
            got=str(base.call), cause="it sees a projection of the gradients, which has no parameters",
            fix="write base_optimizer=scale_by_adam(), and add_decayed_weights behind",
        )  # fmt: skip

    def advance(state):
        return state._replace(step=next_step(state.step))

    def projects(leaf: jax.Array) -> bool:
        return getattr(leaf, "ndim", 0) == 2 and min(leaf.shape) > rank

    def body(parts: Mapping[str, Pair]) -> Pair:
        inner = parts["inner"]

        def init(param):
            if not projects(param):
                return ScaleByGaloreState(first_step(), None, inner.init(param))
            whole = _gathered(param)
            small = jnp.zeros_like(whole[:rank] if _is_wide(whole) else whole[:, :rank])
            return ScaleByGaloreState(first_step(), jnp.zeros((min(param.shape), rank), param.dtype), inner.init(small))

        def update(update, state, param, signals):
            del param
            if not projects(update):
                found, new = inner.update(update, state.inner, None, signals)
                return scale * found, state._replace(inner=new)
            g, old = _gathered(update), _gathered(state.projector)
            due = (state.step - 1) % update_proj_gap == 0
            projector = jax.lax.cond(due, lambda: _leading(g, rank).astype(old.dtype), lambda: old)
            projector = projector * jnp.where(due, _turn(projector), 1)  # within, it would read all vectors again
            found, new = inner.update(_seen(projector, g), state.inner, None, signals)
            back = _times(projector, found) if _is_wide(g) else _times(found, projector.T)
            projector = _placed(projector, state.projector)
            return _placed(scale * back, update), state._replace(projector=projector, inner=new)

        return Pair(init, update)

    return compose({"inner": base}, body, own_advance=advance, reads="leaf")


def _is_wide(g: jax.Array) -> bool:
    return g.shape[0] <= g.shape[1]


def _leading(g: jax.Array, rank: int) -> jax.Array:
    """The ``rank`` leading singular vectors of the shorter side."""

    def vectors(g: jax.Array) -> jax.Array:
        return jnp.linalg.svd(g if _is_wide(g) else g.T, full_matrices=False)[0]

    def scaled(g: jax.Array) -> jax.Array:
        largest = jnp.max(jnp.abs(g))
        return vectors(g / jnp.where(largest == 0, 1.0, largest))

    return jax.lax.platform_dependent(g, cpu=vectors, default=scaled)[:, :rank]  # LAPACK scales by itself


def _turn(vectors: jax.Array) -> jax.Array:
    """What makes the largest entry of each vector positive."""
    chosen = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=0)[None], axis=0)
    return jnp.where(chosen == 0, 1.0, chosen / jnp.where(chosen == 0, 1.0, jnp.abs(chosen))).conj()


def _seen(projector: jax.Array, g: jax.Array) -> jax.Array:
    """``P' g`` or ``g P``; where a sum overflows, that of a ``g`` cut so far that no sum along a unit vector does."""

    def along(g: jax.Array) -> jax.Array:
        return _times(projector.T, g) if _is_wide(g) else _times(g, projector)

    def usual() -> jax.Array:
        return small

    def cut_first() -> jax.Array:
        return along(cut(g, float(jnp.finfo(g.dtype).max) / min(g.shape)))

    small = along(g)
    return jax.lax.cond(jnp.all(jnp.isfinite(small)), usual, cut_first)


def _times(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")


def _gathered(x: jax.Array) -> jax.Array:
    """On a mesh with explicit axes, the whole array everywhere."""
    if all(axis is None for axis in jax.typeof(x).sharding.spec):
        return x
    return jax.sharding.reshard(x, NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec(*[None] * x.ndim)))


def _placed(y: jax.Array, like: jax.Array) -> jax.Array:
    if all(axis is None for axis in jax.typeof(like).sharding.spec):
        return y
    return jax.sharding.reshard(y, jax.typeof(like).sharding)
