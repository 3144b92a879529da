"""A step ``(params, state, grads) -> (params, state)``: ours, Optax's, by hand; and what the compiler counts of it."""

import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp

RATE, DECAY, B1, B2, EPS, MAX_NORM = 1e-3, 0.01, 0.9, 0.999, 1e-8, 1.0


class Peer(NamedTuple):
    """``init(params) -> state`` and ``step(params, state, grads) -> (params, state)``."""

    init: Callable[[Any], Any]
    step: Callable[[Any, Any, Any], tuple[Any, Any]]


def transforming(tx: Any, apply_updates: Callable[[Any, Any], Any]) -> Peer:
    """The step of a pair ``(init, update)``, ours or Optax's."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return apply_updates(params, updates), state

    return Peer(tx.init, step)


def equal_leaves(count: int, size: int) -> dict[str, jax.Array]:
    """Parameters, or gradients: ``count`` float32 vectors of ``size`` elements."""
    return {f"leaf_{index:04d}": jnp.full(size, 0.01 * (index % 7 + 1), jnp.float32) for index in range(count)}


# ---------------------------------------------------------------------------------------------------------------------
# The same steps by hand.


def sgd_by_hand() -> Peer:
    return Peer(lambda params: (), lambda params, state, grads: (jax.tree.map(_descend, params, grads), state))


def momentum_by_hand() -> Peer:
    def step(params, state, grads):
        state = jax.tree.map(lambda m, g: B1 * m + g, state, grads)
        return jax.tree.map(_descend, params, state), state

    return Peer(lambda params: jax.tree.map(jnp.zeros_like, params), step)


def adamw_by_hand(*, clipped: bool = False) -> Peer:
    def init(params):
        return jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)

    def step(params, state, grads):
        count, mean, square = state
        if clipped:
            norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
            grads = jax.tree.map(lambda g: g * jnp.minimum(1.0, MAX_NORM / norm), grads)
        t = (count + 1).astype(jnp.float32)
        mean = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, mean, grads)
        square = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, square, grads)

        def move(p, m, v):
            return p - RATE * (m / (1 - B1**t) / (jnp.sqrt(v / (1 - B2**t)) + EPS) + DECAY * p)

        return jax.tree.map(move, params, mean, square), (count + 1, mean, square)

    return Peer(init, step)


def _descend(param: jax.Array, direction: jax.Array) -> jax.Array:
    return param - RATE * direction


def nbytes(tree: Any) -> int:
    """Bytes of all arrays, or shapes, in a tree."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


# ---------------------------------------------------------------------------------------------------------------------
# Counting.


def lowered(peer: Peer, params: Any, state: Any = None) -> jax.stages.Lowered:
    """The step, traced and lowered with donated parameters and state."""
    state = jax.eval_shape(peer.init, params) if state is None else state
    return jax.jit(peer.step, donate_argnums=(0, 1)).lower(params, state, params)


def bytes_moved(compiled: jax.stages.Compiled, params: Any) -> float:
    """Bytes that the compiler says are read and written, over the bytes of the parameters."""
    analysis: Any = compiled.cost_analysis()
    return analysis["bytes accessed"] / nbytes(params)


def has_loop(compiled: jax.stages.Compiled) -> bool:
    """Whether there is a loop in the program, of which :func:`bytes_moved` counts one turn."""
    return " while(" in str(compiled.as_text())


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that the compiler plans for: arguments, outputs that are no donated argument, and scratch."""
    memory: Any = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    return memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes


def bytes_not_taken(peer: Peer, params: Any) -> float:
    """Bytes of the branches for numbers out of range, which :func:`bytes_moved` counts, over the parameters' bytes.

    Where a branch of ours has the name ``usual``, the other one is for sums that overflow or vanish, and is compiled
    here alone. (Of the two the compiler counts the larger one, and the usual one only hands on what was found.)
    """
    state = jax.eval_shape(peer.init, params)
    step = jax.make_jaxpr(peer.step)(params, state, params)
    return sum(_bytes_alone(branch, params) for branch in _branches_not_taken(step.jaxpr))


def _branches_not_taken(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        for branches in equation.params.values():
            inside = branches if isinstance(branches, tuple | list) else [branches]
            inside = [getattr(one, "jaxpr", one) for one in inside if hasattr(getattr(one, "jaxpr", one), "eqns")]
            is_usual = [one.debug_info.func_name == "usual" for one in inside]
            yield from (one for one, usual in zip(inside, is_usual, strict=True) if any(is_usual) and not usual)
            yield from (found for one in inside if not any(is_usual) for found in _branches_not_taken(one))


def _bytes_alone(jaxpr: Any, params: Any) -> float:
    branch = jax.extend.core.jaxpr_as_fun(jax.extend.core.ClosedJaxpr(jaxpr, ()))
    given = [jax.ShapeDtypeStruct(var.aval.shape, var.aval.dtype) for var in jaxpr.invars]
    return bytes_moved(jax.jit(branch).lower(*given).compile(), params)


def fusions(compiled: jax.stages.Compiled) -> int:
    """Loops, or kernels, that the compiled program runs."""
    return str(compiled.as_text()).count(" fusion(")


def parameter_copies(compiled: jax.stages.Compiled, params: Any) -> int:
    """Copies of whole buffers of a parameter's size, fused or not."""
    sizes = {leaf.size for leaf in jax.tree.leaves(params)} - {1}
    copied = re.findall(r" = \w+\[([\d,]*)\]\S* copy(?:-start)?\(", str(compiled.as_text()))
    return sum(_size(shape) in sizes for shape in copied)


def traces(peer: Peer, params: Any, calls: int = 3) -> int:
    """How often the step is traced when it is called ``calls`` times, from its initial state on."""
    count = 0

    def counted(params, state, grads):
        nonlocal count
        count += 1
        return peer.step(params, state, grads)

    step = jax.jit(counted)
    state = peer.init(params)
    moved = params
    for _ in range(calls):
        moved, state = step(moved, state, params)
    return count


def _size(shape: str) -> int:
    size = 1
    for length in filter(None, shape.split(",")):
        size *= int(length)
    return size


# ---------------------------------------------------------------------------------------------------------------------
# Timing.


def built(step: Callable[..., Any], *arguments: Any) -> tuple[jax.stages.Compiled, float, float]:
    """The step, compiled, and the seconds that tracing and lowering, and compiling took."""
    jax.clear_caches()
    start = time.perf_counter()
    program = jax.jit(step, donate_argnums=(0, 1)).lower(*arguments)
    middle = time.perf_counter()
    return program.compile(), middle - start, time.perf_counter() - middle


def ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of one round, with their quartiles."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return middle, low, high
