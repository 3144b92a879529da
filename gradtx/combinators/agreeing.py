"""Steps taken only where they agree with the gradient."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import PASS, ZERO, GradientTransformation, Pair, compose, record_of, transformation
from gradtx.tree import is_inexact, widen

Share = Annotated[errors.Scalar, errors.Interval(0.0, 1.0, open_low=True)]


@transformation
def cautious(
    base: GradientTransformation, *, before_learning_rate: bool = False, smallest_share: Share = 1e-3
) -> GradientTransformation:
    """The updates of ``base``, without those that go against the gradient::

        a = 1 where u * g < 0, else 0            (u * g > 0 with before_learning_rate)
        u <- u * a / max(mean(a), smallest_share)

    with the mean over each leaf, so that what is left is as much longer as it is less. ``base`` is a whole optimizer,
    whose updates go downhill; or with ``before_learning_rate`` the part of one that scales gradients, whose updates
    still have the gradient's sign: ``chain(cautious(scale_by_adam(), before_learning_rate=True),
    add_decayed_weights(0.1), scale_by_learning_rate(1e-3))`` leaves the decay as it is, as the paper does.

    The paper divides by ``(sum(a) + 1) / d`` of ``d`` elements; with the mean, as in its code, all agreeing gives
    ``base`` bit for bit, and a scalar keeps its step. For complex numbers ``u * g`` is the real part of
    ``u * conj(g)``.

    Source: Liang et al. 2024, arXiv:2411.16085, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.cautious(gradtx.sgd(1.0, momentum=0.5))
    >>> state = tx.init(jnp.zeros(2))
    >>> for g in ([8.0, 2.0], [-2.0, 2.0]):
    ...     updates, state = tx.update(jnp.array(g), state)
    >>> updates.tolist()
    [0.0, -6.0]
    """
    sign = 1.0 if before_learning_rate else -1.0

    @jax.jit
    def agreeing(update: jax.Array, gradient: jax.Array) -> jax.Array:
        if not is_inexact(update) or not is_inexact(gradient):
            return update
        # By signs: the product of small numbers vanishes.
        agree = _sign_of_product(update, gradient) * sign > 0
        share = jnp.mean(agree, dtype=jnp.float32) if agree.size else jnp.ones(())
        shown = jnp.isnan(gradient) | jnp.isnan(update)
        factor = 1.0 / jnp.maximum(share, smallest_share).astype(update.real.dtype)
        return jnp.where(agree | shown, update * factor, jnp.zeros_like(update))

    def body(parts: Mapping[str, Pair]) -> Pair:
        inner = parts["base"]
        if inner in (PASS, ZERO):
            return inner

        def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
            updates = jax.tree.map(widen, updates)
            steps, inner_state = inner.update(updates, state["base"], params, signals)
            return jax.tree.map(agreeing, steps, updates), {"base": inner_state}

        return Pair(lambda params: {"base": inner.init(params)}, update)

    return compose({"base": record_of(base)}, body, reads="leaf", kind="between")


def _sign_of_product(x: jax.Array, y: jax.Array) -> jax.Array:
    """The sign of ``x * y``, of its real part with ``conj(y)`` for complex numbers."""
    if not (jnp.iscomplexobj(x) or jnp.iscomplexobj(y)):
        return jnp.sign(x) * jnp.sign(y)
    return _unit(x).real * _unit(y).real + _unit(x).imag * _unit(y).imag


def _unit(x: jax.Array) -> jax.Array:
    return x / jnp.maximum(jnp.abs(x), jnp.finfo(x.dtype).tiny)
