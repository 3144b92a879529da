"""What a leaf is, and the dtype and device that it is computed with."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from gradtx import errors


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an array, or stands for one by its shape and dtype."""
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf holds floating-point or complex numbers."""
    return is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def wide_dtype(dtype: Any) -> Any:
    """The dtype of arithmetic on ``dtype``: itself, or float32 where it is narrower (complex64 stays complex64)."""
    is_narrow = jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32) if is_narrow else jnp.promote_types(dtype, jnp.float32)  # it refuses 8 bits


def widen(leaf: Any) -> Any:
    """A leaf in at least float32, also a Python number; other leaves (integers, ``float0``) as they are."""
    if isinstance(leaf, float | complex):
        return jnp.array(leaf, jnp.result_type(leaf))
    if not is_inexact(leaf) or leaf.dtype == wide_dtype(leaf.dtype):
        return leaf
    return jnp.asarray(leaf).astype(wide_dtype(leaf.dtype))


def strong(leaf: Any) -> Any:
    """A leaf without a weak type, with which a state would be traced a second time."""
    return jax.lax.convert_element_type(leaf, leaf.dtype) if getattr(leaf, "weak_type", False) else leaf


def beside(like: Any, tree: Any) -> Any:
    """``tree`` with its loose arrays (counters, keys) where those of ``like`` are: on their mesh, or their device.

    There an update leaves them; left elsewhere, they would compile a step twice.
    """
    placed = [leaf.sharding for leaf in jax.tree.leaves(like) if _is_concrete(leaf) and leaf.committed]
    mesh = next((sharding.mesh for sharding in placed if isinstance(sharding, NamedSharding)), None)
    if mesh is not None:
        sharding = NamedSharding(mesh, PartitionSpec())
    elif placed and isinstance(placed[0], SingleDeviceSharding):
        (device,) = placed[0].device_set
        sharding = SingleDeviceSharding(device)  # its own memory, also where the first one is in the host's
    else:
        return tree

    def place(leaf: Any) -> Any:
        return jax.device_put(leaf, sharding) if _is_concrete(leaf) and not leaf.committed else leaf

    return jax.tree.map(place, tree)


def _is_concrete(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)


def describe_leaf(leaf: Any) -> str:
    """``f32[3,4]``-like text for a leaf."""
    if is_array(leaf):
        return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"
    return f"{type(leaf).__name__} {errors.show(leaf)}"


def in_words(tree: Any) -> str:
    """A tree in a few words: its one array, or its container and number of leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    if leaves and jax.tree_util.treedef_is_leaf(treedef):
        return f"one leaf {describe_leaf(tree)}"
    return f"a {type(tree).__name__} of {len(leaves)} leaves"


def square(x: Any) -> Any:
    """``|x|^2``, real also for complex ``x``."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def cut(x: jax.Array, bound: Any) -> jax.Array:
    """``x`` limited to ``[-bound, bound]``, a complex one in each of its parts; infinities and NaN stay visible."""
    if jnp.iscomplexobj(x):
        return jax.lax.complex(cut(x.real, bound), cut(x.imag, bound))
    lowest, largest = jnp.asarray(-bound, x.dtype), jnp.asarray(bound, x.dtype)
    return jax.lax.select(jax.lax.is_finite(x), jax.lax.clamp(lowest, x, largest), x)
