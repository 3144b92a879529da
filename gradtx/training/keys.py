"""Random keys: typed or raw where a user gives one, raw words in a state, typed where a function gets one."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import ArgumentTypeError, show

_IMPLEMENTATION = {2: "threefry2x32", 4: "rbg"}


def key_data(key: Any, call: Any) -> jax.Array:
    """A copy of the uint32 words of one random key, typed (``jax.random.key``) or raw (``jax.random.PRNGKey``)."""
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    is_words = isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32
    if not is_words or key.ndim != 1 or key.shape[0] not in _IMPLEMENTATION:
        raise ArgumentTypeError(
            call,
            expected="key must be one random key",
            got=f"{type(key).__name__} {show(key)}",
            cause="a seed is not yet a key, and an array of keys is more than one",
            fix="write key=jax.random.key(0)",
        )
    return jnp.array(key)


def typed_key(data: jax.Array) -> jax.Array:
    """The typed key of these words; their number tells threefry (2) from rbg (4)."""
    return jax.random.wrap_key_data(data, impl=_IMPLEMENTATION[data.shape[0]])
