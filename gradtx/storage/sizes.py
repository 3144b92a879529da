"""The bytes of a state, before there is one."""

import math
from typing import Any

import jax

from gradtx.core import GradientTransformation, record_of


def state_bytes(tx: GradientTransformation, params: Any) -> int:
    """The bytes of all arrays in ``tx.init(params)``, by their shapes: nothing is allocated.

    ``params`` may be arrays or their shapes, as ``jax.eval_shape(model.init, key)`` gives them. Counters and
    hyperparameters count, 4 bytes each. Raises ``ArgumentTypeError`` if ``tx`` is no transformation, and
    what ``tx.init(params)`` raises.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx import storage
    >>> params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}
    >>> exact, small = gradtx.adamw(1e-3), storage.stored(gradtx.adamw(1e-3), storage.quantized())
    >>> [round(storage.state_bytes(tx, params) / 4096**2, 4) for tx in (exact, small)]
    [8.0, 2.25]
    """
    record_of(tx)  # an error for what is no transformation
    arrays = jax.tree.leaves(jax.eval_shape(tx[0], params))
    return sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays)
