"""How many bytes a model takes on each device, before any of it exists."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from gradtx.errors import Count, checked_call, show
from gradtx.training.parallel import Parallel
from gradtx.training.sharded_state import own_memory, parameter_sharding, state_shapes, state_sharding
from gradtx.training.state import check_transformation
from gradtx.tree import is_inexact, wide_dtype


class DeviceBytes(NamedTuple):
    """Bytes on each device."""

    params: int
    """The parameters."""
    gradients: int
    """The gradients that the optimizer gets."""
    opt_state: int
    """The state of the optimizer."""

    @property
    def total(self) -> int:
        return sum(self)


@checked_call
def bytes_per_device(tx: Any, params: Any, devices: Count = 1, *, parallel: Parallel = "jit") -> DeviceBytes:
    """Bytes of parameters, gradients and optimizer's state on each device, by shapes alone.

    With P bytes of parameters, G of gradients, S of state and n devices, where every leaf has a dimension that n
    divides: ``P + G + S`` if they are replicated (``"jit"``, ``"shard_map"``, ``"pmap"``), ``P + (G + S) / n`` by
    ``"zero"``, ``(P + G + S) / n`` by ``"fsdp"``. The rule is that of :func:`state_sharding`, leaf by leaf.

    It is what a device keeps, without what :func:`gradtx.storage.offloaded` keeps on its host, and the gradients that
    the optimizer gets: float32 or wider where devices average them.
    While the loss is differentiated there are in addition its activations, and by ``"zero"`` and ``"fsdp"`` gradients
    of whole leaves until they are summed, by ``"fsdp"`` also whole parameters: of all leaves at worst, ``P + G``.

    Args:
        tx: A gradient transformation.
        params: The parameters, or their shapes (``jax.eval_shape(model.init, ...)``).
        devices: Their number.
        parallel: As in :func:`make_train_step`.

    Raises ``ArgumentTypeError`` and ``ArgumentRangeError`` for wrong arguments.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx.training import bytes_per_device
    >>> params = {"w": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
    >>> found = bytes_per_device(gradtx.adam(1e-3), params, 8, parallel="zero")
    >>> found.params, found.gradients, round(found.opt_state, -3)
    (4000000, 500000, 1000000)
    """
    check_transformation(tx, f"bytes_per_device({show(tx)}, params)")
    mesh = AbstractMesh((devices,), ("data",))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    state = state_shapes(tx, shapes)
    grads = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if parallel == "jit" else wide_dtype(leaf.dtype))
        for leaf in jax.tree.leaves(shapes)
        if is_inexact(leaf)
    ]
    is_split, params_too = parallel in ("zero", "fsdp"), parallel == "fsdp"
    return DeviceBytes(
        params=_bytes(shapes, parameter_sharding(shapes, mesh) if params_too else None),
        gradients=_bytes(grads, parameter_sharding(grads, mesh) if is_split else None),
        opt_state=_bytes(state, state_sharding(tx, shapes, mesh) if is_split else None),
    )


def _bytes(tree: Any, shardings: Any) -> int:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype")]
    places = [None] * len(leaves) if shardings is None else jax.tree.leaves(shardings)
    return sum(
        math.prod(leaf.shape if place is None else place.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, place in zip(leaves, places, strict=True)
        if own_memory(leaf) is None
    )
