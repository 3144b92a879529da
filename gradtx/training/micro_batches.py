"""A batch in parts, one after the other: the means that one pass over all of it would give."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxprs_in_params

from gradtx.combinators.holding import all_finite, choose
from gradtx.errors import BatchError
from gradtx.tree import path_name, wide_dtype


class Evaluated(NamedTuple):
    """What a loss gives for a batch. ``grads`` are those of floating-point parameters, without their tree."""

    value: jax.Array
    metrics: dict[str, jax.Array]
    grads: list[jax.Array]
    model_state: Any


class _Means(NamedTuple):
    """What the parts so far gave: means weighted by ``examples``, whether of any part, and how many were left out."""

    examples: jax.Array
    has_any: jax.Array
    left_out: jax.Array
    evaluated: Evaluated


Evaluate = Callable[[Any, Any, jax.Array], Evaluated]
"""``(model_state, batch, key) -> Evaluated``; among the metrics are ``examples``."""


def means_over_parts(
    evaluate: Evaluate,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    parts: int,
    *,
    keep_all: bool = False,
    agreed: Callable[[jax.Array], jax.Array] = lambda is_finite: is_finite,
) -> tuple[Evaluated, jax.Array]:
    """The means over ``parts`` parts of a batch and the last model state; and how many parts were left out.

    A part whose loss or gradients are not finite is left out with its model state, unless ``keep_all``. If there is no
    other, the means are NaN. ``agreed`` says whether a part is finite everywhere, where devices have a share of each.
    Parts run in a loop; written out one by one where the loss has a convolution and the program is for CPUs, whose
    compiler makes the gradient of a convolution in a loop 15 times slower.
    """
    count, part, rest = cut(batch, parts, f"step(state, batch) with accumulate={parts}")
    evaluate = jax.jit(evaluate)  # so that it is traced once for all parts of one shape
    closed, shape = jax.make_jaxpr(evaluate, return_shape=True)(model_state, part(0), key)
    is_written_out = jax.default_backend() == "cpu" and has_convolution(closed.jaxpr)
    with_next = functools.partial(_with, keep_all=keep_all, branches=is_written_out, agreed=agreed)

    def add(means: _Means, index: Any) -> tuple[_Means, None]:
        # Never negative, but the compiler does not know: so it finishes one part before it begins the next one.
        index = jnp.where(means.left_out < 0, 0, index)
        new = evaluate(means.evaluated.model_state, part(index), jax.random.fold_in(key, index))
        return with_next(means, new), None

    means, _ = jax.lax.scan(add, _none_yet(shape, model_state), jnp.arange(count), unroll=is_written_out)
    if rest is not None:
        means = with_next(means, evaluate(means.evaluated.model_state, rest, jax.random.fold_in(key, count)))
    value, metrics, grads, model_state = means.evaluated
    value, metrics, grads = jax.tree.map(lambda mean: jnp.where(means.has_any, mean, jnp.nan), (value, metrics, grads))
    metrics["examples"] = means.examples.astype(shape.metrics["examples"].dtype)
    return Evaluated(value, metrics, grads, model_state), means.left_out


def _none_yet(shape: Evaluated, model_state: Any) -> _Means:
    def zero(like: Any) -> jax.Array:
        return jnp.zeros(like.shape, wide_dtype(like.dtype))

    value, metrics, grads = jax.tree.map(zero, (shape.value, shape.metrics, shape.grads))
    evaluated = Evaluated(value, metrics, grads, model_state)
    return _Means(jnp.zeros((), jnp.result_type(float)), jnp.zeros((), bool), jnp.zeros((), jnp.int32), evaluated)


def _with(
    means: _Means,
    new: Evaluated,
    *,
    keep_all: bool,
    branches: bool,
    agreed: Callable[[jax.Array], jax.Array],
) -> _Means:
    """The means with one more part: four bytes for one of the parameters, one of them to see what is finite.

    By a branch where parts are written out, or the compiler makes one sum at the end, and keeps all gradients until
    then. In a loop a branch would have to wait for the device.
    """
    weight = new.metrics["examples"].astype(means.examples.dtype)
    is_finite = agreed(all_finite((new.value, new.grads)))
    is_first = means.examples == 0  # until there are examples, what a part without any gives stands for the mean
    is_used = ((weight > 0) | is_first) & (is_finite | keep_all)
    total = means.examples + jnp.where(is_used, weight, 0.0)
    share = weight / jnp.where(is_first, 1.0, total)

    def move(old: Any, value: Any) -> Any:
        return jax.tree.map(lambda old, value: _moved(old, value, share, is_first), old, value)

    old, now = means.evaluated[:3], new[:3]
    moved = jax.lax.cond(is_used, move, _first, old, now) if branches else choose(is_used, move(old, now), old)
    model_state = choose(is_finite | keep_all, new.model_state, means.evaluated.model_state)
    left_out = means.left_out + jnp.where(is_used | (weight == 0), 0, 1)
    value, metrics, grads = moved
    return _Means(total, means.has_any | is_used, left_out, Evaluated(value, metrics, grads, model_state))


def _first(old: Any, value: Any) -> Any:
    del value
    return old


def _moved(mean: jax.Array, value: jax.Array, share: jax.Array, is_first: jax.Array) -> jax.Array:
    """``mean + share * (value - mean)``; the products apart, or the difference of two finite numbers may overflow."""
    value, share = value.astype(mean.dtype), share.astype(mean.real.dtype)
    return jnp.where(is_first, value, mean + (share * value - share * mean))


def has_convolution(jaxpr: Jaxpr) -> bool:
    return has_equation(jaxpr, lambda eqn: eqn.primitive.name == "conv_general_dilated")


def has_equation(jaxpr: Jaxpr, is_such: Callable[[Any], bool]) -> bool:
    """Whether a program has such an equation, at any depth."""
    return any(
        is_such(eqn) or any(has_equation(inner, is_such) for inner in jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )


def cut(batch: Any, parts: int, call: str) -> tuple[int, Callable[[Any], Any], Any]:
    """How many equal parts, the part of a number, and the shorter rest or None.

    A part takes every so manieth example, so that each device has a share of each part of a batch that is split among
    devices.
    """
    length = length_of(batch, call)
    size = -(-length // parts)
    count = length // size

    def part(index: Any) -> Any:
        def of(leaf: Any) -> Any:
            if jnp.ndim(leaf) == 0:
                return leaf
            columns = leaf[: count * size].reshape(size, count, *jnp.shape(leaf)[1:])
            return jax.lax.dynamic_index_in_dim(columns, index, axis=1, keepdims=False)

        return jax.tree.map(of, batch)

    rest = jax.tree.map(lambda leaf: leaf[count * size :] if jnp.ndim(leaf) else leaf, batch)
    return count, part, rest if count * size < length else None


_TAKE_IT_WHOLE = "put the examples on the leading axis of every array, or take it whole by accumulate=1, parallel='jit'"


def length_of(batch: Any, call: str, fix: str = _TAKE_IT_WHOLE) -> int:
    """The common length of the leading axes, which are cut."""
    lengths = {
        path_name(path) or "batch": jnp.shape(leaf)[0]
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch)
        if jnp.ndim(leaf)
    }
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        shown = ", ".join(f"{length} at {name}" for name, length in lengths.items())
        raise BatchError(
            call,
            expected="a batch with one length of all leading axes, and at least one example",
            got=shown or "no array with a leading axis",
            cause="the leading axis is that of the examples",
            fix=fix,
        )
    return next(iter(lengths.values()))
