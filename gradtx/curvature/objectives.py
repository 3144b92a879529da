"""The signal ``value_fn`` as a function of the parameters' leaves, inside the program that updates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.curvature.differentiation import Vector, hessian_vector

_WRITE = "write tx.update(grads, state, params, value_fn=lambda params: loss(params, batch))"


def objective(name: str, value_fn: Any, params: Any) -> tuple[Callable[[Vector], jax.Array], Vector]:
    """``value_fn`` of the leaves of ``params``, and these leaves; ``name`` is the part that asks, for errors.

    Raises ``SignalError`` where ``value_fn`` is no function of the parameters to one real number, or where it fails on
    the leaves that a combinator left.
    """
    if not callable(value_fn):
        raise errors.SignalError(
            name,
            expected="the signal value_fn must be a function of the parameters",
            got=f"{type(value_fn).__name__} {errors.show(value_fn)}",
            cause="the value was given instead of the function",
            fix=_WRITE,
        )
    leaves, treedef = jax.tree.flatten(params)

    def function(x: Vector) -> jax.Array:
        return one_number(name, "value_fn", value_fn(treedef.unflatten(x)))

    missing = len(jax.tree.leaves(params, is_leaf=lambda leaf: leaf is None)) - len(leaves)
    if missing:
        try:
            jax.eval_shape(function, tuple(leaves))
        except errors.GradtxError:
            raise
        except Exception as error:
            raise errors.SignalError(
                name,
                expected="value_fn must take the parameters as this part has them",
                got=f"a tree with None in {missing} places: {type(error).__name__} {str(error).splitlines()[0][:120]}",
                cause="in only, masked or partition a part has its own leaves alone, and the loss is of all of them",
                fix="put the part in front of or behind that combinator, in one chain",
            ) from error
    return function, tuple(leaves)


def hessian_product(function: Callable[[Vector], jax.Array], x: Vector) -> Callable[[Vector], Vector]:
    """``v -> A v`` with the Hessian at ``x``, differentiated once however often it is used.

    Within a compiled program the calls are inlined, and what does not depend on ``v`` is computed once.
    """
    product = jax.jit(lambda x, v: hessian_vector(function, x, v))
    return lambda v: product(x, v)


def one_number(name: str, signal: str, value: Any) -> jax.Array:
    """The value as a scalar of at least float32."""
    if not errors.is_real(value):
        raise errors.SignalError(
            name,
            expected=f"the signal {signal} must give one real number",
            got=f"{type(value).__name__} {errors.show(value)}",
            cause="the loss of every example was given instead of their mean, or something besides it",
            fix=f"{_WRITE}, with value=jnp.mean(losses)",
        )
    return jnp.asarray(value).astype(jnp.promote_types(jnp.result_type(value), jnp.float32))
