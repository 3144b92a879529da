"""The signals ``value`` and ``value_fn`` as the parts that need them take them: checked, and ready for arithmetic."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors

_WRITE = "write tx.update(grads, state, params, value=value, grad=grads, value_fn=lambda params: loss(params, batch))"


def one_number(signal: str, value: Any) -> jax.Array:
    """The value as a scalar of at least float32; ``SignalError`` for what is not one real number."""
    if not errors.is_real(value):
        raise errors.SignalError(
            errors.UNNAMED,
            expected=f"the signal {signal} must give one real number",
            got=f"{type(value).__name__} {errors.show(value)}",
            cause="the loss of every example was given instead of their mean, or something besides it",
            fix=f"{_WRITE}, with one mean of the losses",
        )
    return jnp.asarray(value).astype(jnp.promote_types(jnp.result_type(value), jnp.float32))


def loss_of(value_fn: Any, params: Any) -> Callable[[Any], jax.Array]:
    """``value_fn`` as a function to a scalar; ``SignalError`` where it is none, or where it fails on ``params``."""
    if not callable(value_fn):
        raise errors.SignalError(
            errors.UNNAMED,
            expected="the signal value_fn must be a function of the parameters",
            got=f"{type(value_fn).__name__} {errors.show(value_fn)}",
            cause="the value was given instead of the function",
            fix=_WRITE,
        )

    def function(at: Any) -> jax.Array:
        return one_number("value_fn", value_fn(at))

    if any(leaf is None for leaf in jax.tree.leaves(params, is_leaf=lambda leaf: leaf is None)):
        try:
            jax.eval_shape(function, params)
        except errors.GradtxError:
            raise
        except Exception as error:
            raise errors.SignalError(
                errors.UNNAMED,
                expected="value_fn must take the parameters as this part has them",
                got=f"a tree with None in it: {type(error).__name__} {str(error).splitlines()[0][:120]}",
                cause="in only, masked or partition a part has its own leaves alone, and the loss is of all of them",
                fix="put the part in front of or behind that combinator, in one chain",
            ) from error
    return function
