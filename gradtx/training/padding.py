"""The last batch, which is shorter, in the shape of the others."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import BatchError, Count, checked_call, show
from gradtx.training.micro_batches import length_of


@checked_call
def padded(batch: Any, length: Count) -> tuple[Any, np.ndarray]:
    """``(batch, mask)``: the batch filled up to ``length`` examples, and which of them are its own, bool of [length].

    One shape for all batches means one compilation, equal shares for all devices, and statistics over devices also of
    the last one. What is filled in are copies of the first example, so it is finite and in range; the loss leaves it
    out by the mask, and counts the others::

        error = jnp.where(batch["mask"], error, 0)
        count = jnp.maximum(jnp.sum(batch["mask"]), 1)
        return jnp.sum(error) / count, (model_state, {"examples": jnp.sum(batch["mask"])})

    Norms take it as ``where=mask[:, None]``. Every array of the batch has its examples on the leading axis; numbers
    stay. NumPy in, NumPy out; arrays on devices stay there.

    Raises:
        BatchError: More than ``length`` examples, none, or leading axes of several lengths.

    >>> import numpy as np
    >>> from gradtx.training import padded
    >>> batch, mask = padded({"x": np.array([3, 5])}, 4)
    >>> batch["x"].tolist(), mask.tolist()
    ([3, 5, 3, 3], [True, True, False, False])
    """
    call = f"padded({show(batch)}, {length})"
    own = length_of(
        batch, call, "put the examples on the leading axis of every array; of a list write np.asarray(values)"
    )
    if own > length:
        raise BatchError(
            call, expected=f"at most {length} examples", got=own, cause="the length is that of another batch",
            fix=f"write padded(batch, {own}), or cut the batch",
        )  # fmt: skip

    def filled(leaf: Any) -> Any:
        if jnp.ndim(leaf) == 0 or own == length:
            return leaf
        lib: Any = jnp if isinstance(leaf, jax.Array) else np
        return lib.concatenate([leaf, lib.repeat(leaf[:1], length - own, axis=0)])

    return jax.tree.map(filled, batch), np.arange(length) < own
