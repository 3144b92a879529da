"""The examples of each process, as one batch of all of them."""

import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradtx.errors import ArgumentTypeError, BatchError, checked_call, show
from gradtx.training.micro_batches import length_of
from gradtx.training.sharded_state import EVERYWHERE, checked_mesh


@checked_call
def global_batch(batch: Any, mesh: Any, axis: str | None = None) -> Any:
    """The global arrays of which each process gives its own examples: no process has to load those of another.

    With ``n`` processes that give ``e`` examples each, arrays have a leading axis of ``n e``, split along ``axis``;
    the examples lie in the order of the mesh's devices. A number goes to all devices, and must be the same everywhere.
    Nothing is sent. With one process, this puts a batch onto its devices::

        for own in batches(own_examples, batch_size // jax.process_count(), key=key, drop_last=True):
            state, metrics = step(state, global_batch(own, mesh))

    All processes must give as many examples; whether they do is not seen without asking, and not looked at.

    Args:
        batch: Any tree of arrays, the examples of this process along their leading axes.
        mesh: The devices of all processes.
        axis: The axis of the mesh along which batches are split; its first one without.

    Raises:
        ArgumentTypeError, ArgumentRangeError: ``mesh`` has no devices, none of this process, or no such axis.
        BatchError: Arrays of several lengths, or of one that the devices of this process do not divide.

    >>> import jax, numpy as np
    >>> from gradtx.training import global_batch
    >>> mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    >>> tuple(global_batch({"x": np.ones((6, 3))}, mesh)["x"].sharding.spec)
    ('data',)
    """
    call = "global_batch(batch, mesh)"
    mesh, axis = checked_mesh(call, mesh, axis)
    own = mesh.local_devices if isinstance(mesh, Mesh) else []
    if not own:
        raise ArgumentTypeError(
            call, expected="mesh must have devices of every process", got=show(mesh),
            cause="it was made of the devices of some, or is abstract",
            fix='write mesh=jax.make_mesh((jax.device_count(),), ("data",))',
        )  # fmt: skip
    count = len(set(np.argwhere(np.isin(mesh.devices, own))[:, mesh.axis_names.index(axis)].tolist()))
    length = length_of(batch, call)
    if length % count:
        raise BatchError(
            call, expected=f"a number of examples that {count} devices of this process divide", got=length,
            cause="the last batch of the data is shorter than the others",
            fix=f"write batch_size={math.ceil(length / count) * count}, drop_last=True",
        )  # fmt: skip
    along, everywhere = NamedSharding(mesh, PartitionSpec(axis)), NamedSharding(mesh, EVERYWHERE)

    def placed(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_process_local_data(along if leaf.ndim else everywhere, leaf)

    return jax.tree.map(placed, batch)
