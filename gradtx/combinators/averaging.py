"""Averages of the parameters along the way, beside the training: exponential and uniform."""

from typing import NamedTuple

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


class ExponentialAverageState(NamedTuple):
    average: PositionTree
    inner: Nested


@transformation
def exponential_average(tx: GradientTransformation, decay: errors.Decay = 0.999) -> GradientTransformation:
    """``tx``, and beside it ``average <- decay * average + (1 - decay) * p``, from the parameters at ``init``.

    ``p`` are the parameters after the update, before they are rounded into their dtype. The updates are those of
    ``tx``, bit for bit; :func:`gradtx.averaged_params` gives the average, to evaluate with. A ``decay`` that is a
    schedule can grow with the training, ``lambda step: jnp.minimum(0.999, (1 + step) / (10 + step))``. It must be
    around the whole optimizer, as it needs the steps that are taken. State: one float32 number per parameter.

    Source: Polyak and Juditsky 1992, SIAM Journal on Control and Optimization 30(4), with exponential weights;
    Tarvainen and Valpola 2017, arXiv:1703.01780, equation 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.exponential_average(gradtx.sgd(1.0), decay=0.75)
    >>> params = jnp.array([0.0])
    >>> updates, state = tx.update(jnp.array([-4.0]), tx.init(params), params)
    >>> params = gradtx.apply_updates(params, updates)
    >>> params.tolist(), gradtx.averaged_params(state, params).tolist()
    ([4.0], [1.0])
    """

    def follow(update, average, param, shared):
        del shared
        return update, average + (1.0 - decay) * ((param - average) + update)

    return accompanied(tx, "average", ExponentialAverageState, follow)


class UniformAverageState(NamedTuple):
    step: Counter
    share: SignedScalar
    average: PositionTree
    inner: Nested


@transformation
def uniform_average(
    tx: GradientTransformation, start: errors.Index = 0, every: errors.Count = 1
) -> GradientTransformation:
    """``tx``, and beside it the plain mean of the parameters after the updates ``start + every * (1, 2, 3, ...)``.

    Stochastic weight averaging: ``start`` is where the last part of the training begins, ``every`` the length of an
    epoch or of a cycle of the learning rate. With ``start=0, every=1`` it is the average of Polyak and Ruppert. Until
    the first of these updates the average is the parameters as they are. The updates are those of ``tx``, bit for bit;
    :func:`gradtx.averaged_params` gives the average. Statistics of batch normalization belong to parameters: run them
    anew on some batches with the average. It must be around the whole optimizer. State: one float32 number per
    parameter.

    Source: Izmailov et al. 2018, arXiv:1803.05407, algorithm 1; Polyak and Juditsky 1992, SIAM Journal on Control and
    Optimization 30(4).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.uniform_average(gradtx.sgd(1.0), start=1)
    >>> params = jnp.array([0.0])
    >>> state = tx.init(params)
    >>> for _ in range(3):
    ...     updates, state = tx.update(jnp.array([-1.0]), state, params)
    ...     params = gradtx.apply_updates(params, updates)
    >>> params.tolist(), gradtx.averaged_params(state, params).tolist()
    ([3.0], [2.5])
    """
    last = int(jnp.iinfo(jnp.int32).max)
    start, every = min(start, last), min(every, last)

    def begin(average, inner):
        return UniformAverageState(first_step(), jnp.zeros((), jnp.float32), average, inner)

    def advance(state):
        """``share`` is the weight of the parameters in the new average: 1, 1 / n at the n-th that counts, or 0."""
        step = next_step(state.step)
        counted = jnp.maximum(step - start, 0) // every
        counts = jnp.maximum(step - start, 0) % every == 0
        share = jnp.where(counts, 1.0 / jnp.maximum(counted, 1), 0.0)
        return state._replace(step=step, share=jnp.where(counted == 0, 1.0, share))

    def follow(update, average, param, shared):
        return update, _towards(average, param, update, shared.share)

    return accompanied(tx, "average", begin, follow, advance=advance)


def _towards(average: jax.Array, param: jax.Array, update: jax.Array, share: jax.Array) -> jax.Array:
    """``average + share * (param + update - average)``, exactly the parameters for a share of 1."""
    new = param + update
    return jnp.where(share == 1.0, new, average + share * (new - average))
