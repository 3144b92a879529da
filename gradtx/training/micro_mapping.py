"""Functions of a batch on parts of it, one after the other, in the memory of one part."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx.errors import ArgumentRangeError, Count, checked_call, show
from gradtx.training.micro_batches import cut, has_convolution, length_of
from gradtx.tree import broadcast_prefix, is_inexact, widen

ACCUMULATORS = ("sum", "mean", "concat")


@checked_call
def microbatch(
    fun: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    microbatch_size: Count | None = None,
    accumulator: Any = "sum",
) -> Callable[..., Any]:
    """``fun`` on parts of its batch, one after the other, and the results put together::

        sum:     y = sum_i y_i                     over parts i of e_i examples
        mean:    y = sum_i e_i y_i / sum_i e_i
        concat:  y = the rows of all y_i, in the order of the batch

    Args:
        fun: A function of trees of arrays.
        argnums: Which positional arguments are batches: they are cut along their first axis (a number goes to every
            part whole). All others, and keyword arguments, go to every part whole.
        microbatch_size: The most examples in a part. Parts are as equal as can be, the last may be shorter. (Optax: it
            has to divide the batch.) None for all at once.
        accumulator: ``"sum"``, ``"mean"`` or ``"concat"``, or a tree of them that is a prefix of the result.

    Returns:
        The function. Sums and means are in float32 or wider; sums of integers and booleans in the dtype of
        ``jnp.sum``, int32 for bool and int8. A part takes every so manieth example, so that each device has a share of
        each part of a batch that is split among devices.

    Raises, when the function is called:
        BatchError: The batches have several lengths, or none.
        ArgumentRangeError: Another accumulator.
        SelectionError: A tree of accumulators that is no prefix of the result.

    >>> import jax.numpy as jnp
    >>> from gradtx.training import microbatch
    >>> doubled, total = microbatch(lambda x: (2 * x, jnp.sum(x)), 0, 2, ("concat", "sum"))(jnp.arange(5.0))
    >>> doubled.tolist(), float(total)
    ([0.0, 2.0, 4.0, 6.0, 8.0], 10.0)
    """
    call = f"microbatch({show(fun)}, microbatch_size={show(microbatch_size)}, accumulator={show(accumulator)})"

    def in_parts(*args: Any, **kwargs: Any) -> Any:
        places = [number % len(args) for number in ([argnums] if isinstance(argnums, int) else argnums)]
        batch = [args[place] for place in places]

        @jax.jit  # so that it is traced once for all parts of one length
        def of_part(part: list[Any]) -> Any:
            given = dict(zip(places, part, strict=True))
            return fun(*[given.get(place, arg) for place, arg in enumerate(args)], **kwargs)

        length = length_of(batch, call)
        parts = -(-length // (microbatch_size or length))
        size = -(-length // parts)
        count, part, rest = cut(batch, parts, call)
        closed, shape = jax.make_jaxpr(of_part, return_shape=True)(part(0))
        treedef, kinds = jax.tree.structure(shape), _kinds(call, accumulator, shape)

        def evaluate(part: list[Any], examples: int) -> tuple[list[Any], list[Any]]:
            """What the part adds to the sums, and the rows that it has; None where there are none."""
            found = list(zip(jax.tree.leaves(of_part(part)), kinds, strict=True))
            shares = [None if kind == "concat" else _summand(leaf, kind, examples / length) for leaf, kind in found]
            return shares, [leaf if kind == "concat" else None for leaf, kind in found]

        def add(sums: list[Any], index: Any) -> tuple[list[Any], list[Any]]:
            shares, rows = evaluate(part(index), size)
            return jax.tree.map(jnp.add, sums, shares), rows

        like, _ = jax.eval_shape(lambda: evaluate(part(0), size))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
        is_written_out = jax.default_backend() == "cpu" and has_convolution(closed.jaxpr)
        sums, rows = jax.lax.scan(add, zeros, jnp.arange(count), unroll=is_written_out)
        rows = jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), rows)
        if rest is not None:
            shares, last = evaluate(rest, length - count * size)
            sums = jax.tree.map(jnp.add, sums, shares)
            rows = jax.tree.map(lambda *both: jnp.concatenate(both), rows, last)
        return treedef.unflatten([row if total is None else total for total, row in zip(sums, rows, strict=True)])

    return in_parts


@checked_call
def micro_vmap(
    fun: Callable[..., Any],
    in_axes: int | Sequence[int | None] | None = 0,
    *,
    microbatch_size: Count | None = None,
    accumulator: Any = "concat",
) -> Callable[..., Any]:
    """``jax.vmap(fun, in_axes)`` in parts of at most ``microbatch_size`` examples, in the memory of one of them.

    ``in_axes`` is 0 for what is mapped over and None for what is not, for all arguments or for each. With the
    ``accumulator`` ``"sum"`` or ``"mean"``, or a tree of these as in :func:`microbatch`, results are summed or averaged
    over the examples at once, and never held for all of them.

    Raises, when the function is called, what :func:`microbatch` raises; ``ArgumentRangeError`` for another axis.

    >>> import jax.numpy as jnp
    >>> from gradtx.training import micro_vmap
    >>> micro_vmap(lambda x: x**2, microbatch_size=3)(jnp.arange(8)).tolist()
    [0, 1, 4, 9, 16, 25, 36, 49]
    """
    call = f"micro_vmap({show(fun)}, {show(in_axes)}, accumulator={show(accumulator)})"

    def mapped(*args: Any) -> Any:
        axes = (in_axes,) * len(args) if in_axes is None or isinstance(in_axes, int) else tuple(in_axes)
        if any(axis not in (0, None) for axis in axes):
            raise ArgumentRangeError(
                call, expected="in_axes of 0 and None", got=show(in_axes), cause="parts are cut along the first axis",
                fix="write micro_vmap(fun)(jnp.moveaxis(x, axis, 0))",
            )  # fmt: skip

        def of_part(*part: Any) -> Any:
            found, treedef = jax.tree.flatten(jax.vmap(fun, axes)(*part))
            kinds = _kinds(call, accumulator, treedef.unflatten(found))
            reduced = [
                leaf if kind == "concat" else _reduced(leaf, kind) for leaf, kind in zip(found, kinds, strict=True)
            ]
            return treedef.unflatten(reduced)

        places = [place for place, axis in enumerate(axes) if axis == 0]
        return microbatch(of_part, places, microbatch_size, accumulator)(*args)

    return mapped


class PerExample(NamedTuple):
    """What :func:`micro_grad` has of every example: losses, what the loss gives besides, and measures of gradients."""

    values: Any
    aux: Any
    metrics: Any


@checked_call
def micro_grad(
    fun: Callable[..., Any],
    has_aux: bool = False,
    argnums: int | Sequence[int] = 0,
    *,
    batch_argnums: int | Sequence[int] = 1,
    keep_batch_dim: bool = True,
    microbatch_size: Count | None = None,
    accumulator: Any = "sum",
    transform_fn: Callable[[Any], Any] | None = None,
    metrics_fn: Callable[[Any], Any] | None = None,
) -> Callable[..., tuple[Any, PerExample]]:
    """The gradient of every example, transformed by itself and then summed, in the memory of ``microbatch_size``::

        g = sum_i transform_fn(grad fun(params, x_i))

    Args:
        fun: A loss of parameters and a batch, by default ``fun(params, batch)``; with ``has_aux`` it gives
            ``(loss, aux)``.
        argnums: What it is differentiated by, as of ``jax.grad``.
        batch_argnums: Which positional arguments have a first axis of examples.
        keep_batch_dim: Give ``fun`` batches of length one; without, single examples.
        microbatch_size: The most examples at once, None for all.
        accumulator: ``"sum"``, ``"mean"``, or ``"concat"`` for the gradients of all examples.
        transform_fn: What is done with each gradient, such as clipping.
        metrics_fn: What is kept of each gradient before that, such as its norm.

    Returns:
        A function with the arguments of ``fun`` that gives the gradient and :class:`PerExample`, whose leaves have a
        first axis of examples.

    Raises, when the function is called, what :func:`microbatch` raises.

    >>> import gradtx, jax.numpy as jnp
    >>> from gradtx.training import micro_grad
    >>> def loss(w, x):
    ...     return jnp.mean(x @ w)
    >>> clip = gradtx.clip_by_global_norm(1.0)
    >>> clipped = micro_grad(loss, microbatch_size=2, transform_fn=lambda g: clip.update(g, clip.init(g))[0],
    ...                      metrics_fn=gradtx.global_norm)
    >>> total, examples = clipped(jnp.zeros(2), jnp.array([[3.0, 4.0], [0.5, 0.0], [0.0, 2.0]]))
    >>> [round(float(g), 4) for g in total], examples.metrics.tolist()
    ([1.1, 1.8], [5.0, 0.5, 2.0])
    """
    batched = [batch_argnums] if isinstance(batch_argnums, int) else list(batch_argnums)

    def grad_in_parts(*args: Any) -> tuple[Any, PerExample]:
        places = {number % len(args) for number in batched}

        def of_one(*one: Any) -> tuple[Any, PerExample]:
            if keep_batch_dim:
                one = tuple(jax.tree.map(lambda x: x[None], arg) if place in places else arg
                            for place, arg in enumerate(one))  # fmt: skip
            numbers = argnums if isinstance(argnums, int) else tuple(argnums)
            found, grads = jax.value_and_grad(fun, numbers, has_aux=has_aux)(*one)
            value, aux = found if has_aux else (found, None)
            metrics = None if metrics_fn is None else metrics_fn(grads)
            return (grads if transform_fn is None else transform_fn(grads)), PerExample(value, aux, metrics)

        axes = [0 if place in places else None for place in range(len(args))]
        return micro_vmap(of_one, axes, microbatch_size=microbatch_size, accumulator=(accumulator, "concat"))(*args)

    return grad_in_parts


def _kinds(call: str, accumulator: Any, tree: Any) -> list[str]:
    """The accumulator of each leaf."""
    kinds = broadcast_prefix(accumulator, tree, call, "accumulator")
    for kind in kinds:
        if kind not in ACCUMULATORS:
            raise ArgumentRangeError(
                call, expected=f"accumulator must be one of {', '.join(map(repr, ACCUMULATORS))}, or a tree of them",
                got=show(kind), cause="there is no other choice", fix="write accumulator='mean'",
            )  # fmt: skip
    return kinds


def _summand(leaf: jax.Array, kind: str, share: float) -> jax.Array:
    return _wide(leaf) * share if kind == "mean" else jnp.sum(widen(leaf)[None], 0)  # booleans and short integers too


def _reduced(leaf: jax.Array, kind: str) -> jax.Array:
    """Over the examples of a part. Shares first: the sum of finite numbers may overflow where their mean does not."""
    return jnp.sum(_wide(leaf) / leaf.shape[0], 0) if kind == "mean" else jnp.sum(widen(leaf), 0)


def _wide(leaf: jax.Array) -> jax.Array:
    return widen(leaf) if is_inexact(leaf) else leaf.astype(jnp.float32)
