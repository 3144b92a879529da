"""What normalizations share that scale and shift each channel: parameters, and the deviations of a batch."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.norm.checking import check_enough, check_synchronized
from gradtx.norm.statistics import AxisName, Deviations, deviations
from gradtx.tree import widen


def initial_params(channels: tuple[int, ...]) -> dict[str, jax.Array]:
    """Scale one and bias zero."""
    return {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}


def along(shape: Sequence[int], own: Sequence[int], leaves: Iterable[Any]) -> list[Any]:
    """Numbers of the channels, which are the axes ``own``, in at least float32 and so that they broadcast to x."""
    lengths = [length if i in own else 1 for i, length in enumerate(shape)]
    return [widen(leaf).reshape(lengths) for leaf in leaves]


def batch_deviations(call: Any, x: jax.Array, own: Sequence[int], axis_name: AxisName, where: Any) -> Deviations:
    """Those over the whole batch, on all devices; raises where they would not be."""
    axes = tuple(i for i in range(x.ndim) if i not in own)
    check_synchronized(call, axis_name)
    fix = "give a larger batch (drop a last one of a single example), or write train=False"
    check_enough(call, x, axes, axis_name, "training needs at least two values per channel", fix)
    return deviations(x, axes, axis_name=axis_name, where=where)
