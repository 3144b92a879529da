"""Gradients from where the loss near the parameters is largest: sharpness-aware minimization."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import GradientTransformation, Pair, apply_updates, join, record_of, transformation
from gradtx.transforms.normalizing import normalize_by_update_norm
from gradtx.tree import describe_leaf, is_inexact, widen


@transformation
def sam(base: GradientTransformation, rho: errors.NonNegative = 0.05) -> GradientTransformation:
    """``base`` with the gradient at ``p + rho * g / ||g||`` in place of the one at ``p``, the norm over all leaves.

    ``update`` needs the parameters and the signal ``value_fn``, the loss of this batch as a function of the parameters
    alone; it takes the second gradient itself, so user code has one gradient and one ``update`` a step as always::

        grads = jax.grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params, value_fn=lambda params: loss(params, batch))

    ``base`` gets the same signals. A zero gradient moves nothing (0/0 in the formula): ``base`` gets the gradient at
    ``p``. With ``rho=0`` it is ``base``. Of parameters in low precision the moved ones are rounded to nearest. State:
    that of ``base``. (Optax's ``contrib.sam`` alternates two optimizers over the calls, or is given ``grad_fn``.)

    Raises ``SignalError`` for a ``value_fn`` that is missing or no function.

    Source: Foret et al. 2021, arXiv:2010.01412, algorithm 1 and equation 2 (p = 2).

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.sam(gradtx.sgd(1.0), rho=1.0)
    >>> params = jnp.array([3.0, 0.0])
    >>> loss = lambda p: 0.5 * jnp.sum(p**2)
    >>> tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)[0].tolist()
    [-4.0, -0.0]
    """

    def towards(grads: Any, params: Any) -> Any:
        del params
        return _normalized(grads, rho)

    return _moved(base, towards)


@transformation
def asam(
    base: GradientTransformation, rho: errors.NonNegative = 0.5, eta: errors.NonNegative = 0.01
) -> GradientTransformation:
    """:func:`sam` with a ball that scales with the parameters: the gradient at ``p + rho * T^2 g / ||T g||``.

    ``T = |p| + eta``, elementwise, so that weights of other sizes with the same function get the same step. Everything
    else is as in :func:`sam`.

    Source: Kwon et al. 2021, arXiv:2102.11600, algorithm 1 (p = 2), with ``T + eta`` of section 4.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.asam(gradtx.sgd(1.0), rho=0.5, eta=0.0)
    >>> params = jnp.array([4.0])
    >>> loss = lambda p: 0.5 * jnp.sum(p**2)
    >>> tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)[0].tolist()
    [-6.0]
    """

    def towards(grads: Any, params: Any) -> Any:
        scales = jax.tree.map(lambda p: jnp.abs(p) + eta if is_inexact(p) else p, params)
        direction = _normalized(_times(grads, scales), rho)
        return _times(direction, scales)

    return _moved(base, towards)


def _moved(base: GradientTransformation, towards: Callable[[Any, Any], Any]) -> GradientTransformation:
    """``base`` on the gradient at ``params + towards(grads, params)``."""
    record = record_of(base)

    def init(params: Any) -> Any:
        return {"base": record.tree.init(params)}

    def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
        value_fn = signals["value_fn"]
        if not callable(value_fn):
            raise errors.SignalError(
                errors.UNNAMED, expected="the signal value_fn must be a function of the parameters",
                got=f"{type(value_fn).__name__} {errors.show(value_fn)}", cause="the loss was given as a number",
                fix="write tx.update(grads, state, params, value_fn=lambda params: loss(params, batch))",
            )  # fmt: skip
        moved = apply_updates(params, towards(jax.tree.map(widen, updates), jax.tree.map(widen, params)))
        updates = _gradients(value_fn, moved, updates)
        updates, new_state = record.tree.update(updates, state["base"], params, signals)
        return updates, {"base": new_state}

    return join({"base": record}, Pair(init, update), own_params=True, own_signals=["value_fn"])


def _gradients(value_fn: Callable[[Any], Any], params: Any, given: Any) -> Any:
    """The gradient of ``value_fn``, uphill also for complex leaves; leaves of integers keep what was given."""
    flat, treedef = jax.tree.flatten(params)
    trained = [index for index, leaf in enumerate(flat) if is_inexact(leaf)]

    def of_trained(leaves: list[Any]) -> Any:
        whole = list(flat)
        for index, leaf in zip(trained, leaves, strict=True):
            whole[index] = leaf
        return value_fn(treedef.unflatten(whole))

    found: list[Any] = []
    if trained:
        value, backwards = jax.vjp(of_trained, [flat[index] for index in trained])
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise errors.SignalError(
                errors.UNNAMED, expected="value_fn must return one real number", got=describe_leaf(value),
                cause="the loss of every example was returned, or metrics beside it", fix="return jnp.mean(losses)",
            )  # fmt: skip
        (found,) = backwards(jnp.ones_like(value))  # as jax.grad, which fails outside jit on explicit meshes
    grads = jax.tree.leaves(given)
    for index, leaf in zip(trained, found, strict=True):
        grads[index] = jnp.conj(leaf) if jnp.iscomplexobj(leaf) else leaf
    return treedef.unflatten(grads)


def _normalized(grads: Any, rho: Any) -> Any:
    """``rho * g / ||g||`` over the leaves of floating-point numbers, zeros for the others."""
    flat, treedef = jax.tree.flatten(grads)
    numbers = [leaf for leaf in flat if is_inexact(leaf)]
    tx = normalize_by_update_norm(rho, eps=0.0)
    found, _ = tx.update(numbers, tx.init(numbers))
    scaled = iter(found)
    return treedef.unflatten([next(scaled) if is_inexact(leaf) else leaf for leaf in flat])


def _times(x: Any, y: Any) -> Any:
    return jax.tree.map(lambda a, b: a * b if is_inexact(a) else a, x, y)
