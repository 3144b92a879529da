"""Gradients taken between a fast point and its average: no schedule, and the average is the result."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.accompanying import accompanied
from gradtx.core import (
    Counter,
    GradientTransformation,
    Nested,
    PositionTree,
    SignedScalar,
    first_step,
    next_step,
    transformation,
)

Between = Annotated[errors.Scalar, errors.Interval(0.0, 1.0, open_low=True)]


class ScheduleFreeState(NamedTuple):
    step: Counter
    largest_rate: SignedScalar
    mean_weight: SignedScalar  # of all steps, over the weight of the largest rate: 1 for a constant rate, exactly
    share: SignedScalar
    old_share: SignedScalar
    b1: SignedScalar
    old_b1: SignedScalar
    ahead: PositionTree
    inner: Nested


@transformation
def schedule_free(
    base_optimizer: GradientTransformation,
    learning_rate: errors.NonNegative,
    b1: Between = 0.9,
    weight_lr_power: errors.NonNegative = 2.0,
) -> GradientTransformation:
    """Gradients at ``y = (1 - b1) * z + b1 * x``, steps of ``base_optimizer`` on ``z``, and their average ``x``::

        z <- z + u                      u from base_optimizer, with the gradient at y
        x <- (1 - c) * x + c * z        c = w_t / (w_1 + ... + w_t), w = (largest learning rate so far)^weight_lr_power
        y <- (1 - b1) * z + b1 * x

    The parameters are ``y``, and ``x``, the result, is ``averaged_params(state, params)``: evaluate and save that
    (Optax's ``schedule_free_eval_params``). ``learning_rate`` is the one of ``base_optimizer``, which has no
    momentum (``b1`` is in its place), and a decay of weights in it decays ``y``. Warm-up is the only schedule that is
    needed: :func:`gradtx.schedule_free_adamw` has it.

    What is kept is ``ahead``, the new ``z`` minus the old ``x``, where Optax keeps ``z``: then nothing cancels, no
    update needs the parameters, and a narrow layout of the state loses nothing to their size (Optax's ``state_dtype``
    is :func:`gradtx.storage.stored`). Rounding of parameters in low precision moves ``x`` and ``z`` alike. State: one
    float32 number per parameter.

    Source: Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5, with the weights of equation 23.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.schedule_free(gradtx.sgd(1.0), learning_rate=1.0, b1=0.5)
    >>> params = jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gradtx.apply_updates(params, updates)
    >>> params.tolist(), gradtx.averaged_params(state, params).tolist()
    ([1.75], [1.5])
    """

    def start(tree, inner):
        return ScheduleFreeState(
            step=first_step(),
            largest_rate=_number(0.0),
            mean_weight=_number(0.0),
            share=_number(0.0),
            old_share=_number(0.0),
            b1=_number(1.0),
            old_b1=_number(1.0),
            ahead=jax.tree.map(jnp.zeros_like, tree),
            inner=inner,
        )

    def advance(state):
        step = next_step(state.step)
        largest_rate = jnp.maximum(state.largest_rate, learning_rate)
        unit = jnp.where(largest_rate == 0, 1.0, largest_rate)
        weight, before = (largest_rate / unit) ** weight_lr_power, (state.largest_rate / unit) ** weight_lr_power
        mean = state.mean_weight * before
        mean = mean + (weight - mean) / step
        share = jnp.where(mean == 0, 0.0, weight / (step * jnp.where(mean == 0, 1.0, mean)))
        numbers = {"largest_rate": largest_rate, "mean_weight": mean, "share": share, "old_share": state.share}
        return state._replace(step=step, **numbers, b1=jnp.full_like(state.b1, b1), old_b1=state.b1)

    def follow(update, ahead, param, shared):
        del param
        return _between(update, ahead, shared, shared.share, b1)

    return accompanied(base_optimizer, "ahead", start, follow, advance=advance, reads_params=False)


class PrimalAverageState(NamedTuple):
    share: SignedScalar
    old_share: SignedScalar
    b1: SignedScalar
    old_b1: SignedScalar
    ahead: PositionTree
    inner: Nested


@transformation
def primal_average(
    base_optimizer: GradientTransformation, mu_x: errors.Decay = 0.99, mu_y: Between = 0.9
) -> GradientTransformation:
    """Generalized primal averaging: :func:`schedule_free` with a moving average, and two decays of its own::

        z <- z + u                          u from base_optimizer, with the gradient at y
        x <- mu_x * x + (1 - mu_x) * z
        y <- mu_y * x + (1 - mu_y) * z

    The parameters are ``y``, and ``x``, the result, is ``averaged_params(state, params)``. It goes with any schedule of
    the learning rate; a decay in ``base_optimizer`` is one of ``y``. With ``mu_x = b^(1 / k)`` the average looks back
    as far as a step every ``k`` steps would with decay ``b``. What is kept is ``ahead``, as in :func:`schedule_free`.
    State: one float32 number per parameter.

    Source: Defazio et al. 2025, arXiv:2512.17131 (GPA).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.primal_average(gradtx.sgd(1.0), mu_x=0.5, mu_y=0.5)
    >>> params = jnp.array([0.0])
    >>> updates, state = tx.update(jnp.array([-4.0]), tx.init(params), params)
    >>> params = gradtx.apply_updates(params, updates)
    >>> params.tolist(), gradtx.averaged_params(state, params).tolist()
    ([3.0], [2.0])
    """

    def start(tree, inner):
        ahead = jax.tree.map(jnp.zeros_like, tree)
        return PrimalAverageState(_number(0.0), _number(0.0), _number(1.0), _number(1.0), ahead, inner)

    def advance(state):
        share, b1 = jnp.full_like(state.share, 1.0 - mu_x), jnp.full_like(state.b1, mu_y)
        return state._replace(share=share, old_share=state.share, b1=b1, old_b1=state.b1)

    def follow(update, ahead, param, shared):
        del param
        return _between(update, ahead, shared, 1.0 - mu_x, mu_y)

    return accompanied(base_optimizer, "ahead", start, follow, advance=advance, reads_params=False)


def _between(update: jax.Array, ahead: jax.Array, shared: Any, share: Any, b1: Any) -> tuple[jax.Array, jax.Array]:
    """The step of ``y``, and the new ``ahead``, which is ``z`` after this step minus ``x`` before it.

    ``z - x`` was ``(1 - old c) ahead``, so the new one is ``u`` more. From ``y = z - b1 (z - x)``, before and after,
    follows the step ``(1 - b1) u + b1 c ahead`` where ``b1`` stays as it is: the old one is not needed any more, and
    can be overwritten.
    """
    ahead = update + (1.0 - shared.old_share) * ahead
    now = jnp.full_like(shared.old_b1, b1)
    change = jnp.where(now == shared.old_b1, 0.0, shared.old_b1 - now)  # a choice, or XLA takes 1 - old_b1 together
    return ((1.0 - b1) - change) * update + (change + b1 * share) * ahead, ahead


def _number(value: float) -> jax.Array:
    return jnp.full((), value, jnp.float32)
