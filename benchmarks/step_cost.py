"""What one optimizer step costs, beside Optax and beside the same step written by hand.

    python -m benchmarks.step_cost [--quick] [--json FILE] [--leaves 4 --size 1000000] [--small-leaves 400 ...]

A step is ``step(params, state, grads) -> (params, state)``, update and ``apply_updates``, with parameters and state
donated. Counted, by the compiler: bytes moved over the parameters' bytes, fusions, copies of buffers as large as a
parameter; and traces of the update in three calls. Timed: trace and lower, compile, run. Times of one round are taken
one peer after the other, so that what else the machine does hits all of them, and are shown as the median over rounds
of the ratio to Optax in the same round; ``--json`` has the seconds too.
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import optax

import gradtx
from benchmarks.reporting import environment, table, write_json
from gradtx import training

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


def _peers(ours: Any, theirs: Any, by_hand: Peer) -> dict[str, Peer]:
    return {
        "gradtx": transforming(ours, gradtx.apply_updates),
        "Optax": transforming(theirs, optax.apply_updates),
        "by hand": by_hand,
    }


CASES: dict[str, dict[str, Peer]] = {
    "sgd": _peers(gradtx.sgd(RATE), optax.sgd(RATE), sgd_by_hand()),
    "momentum": _peers(gradtx.sgd(RATE, momentum=B1), optax.sgd(RATE, momentum=B1), momentum_by_hand()),
    "adamw": _peers(
        gradtx.adamw(RATE, weight_decay=DECAY), optax.adamw(RATE, weight_decay=DECAY), adamw_by_hand()
    ),
    "clip, adamw": _peers(
        gradtx.chain(gradtx.clip_by_global_norm(MAX_NORM), gradtx.adamw(RATE, weight_decay=DECAY)),
        optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adamw(RATE, weight_decay=DECAY)),
        adamw_by_hand(clipped=True),
    ),
}  # fmt: skip


def equal_leaves(count: int, size: int) -> dict[str, jax.Array]:
    """Parameters, or gradients: ``count`` float32 vectors of ``size`` elements."""
    return {f"leaf_{index:04d}": jnp.full(size, 0.01 * (index % 7 + 1), jnp.float32) for index in range(count)}


# ---------------------------------------------------------------------------------------------------------------------
# Counting.


def lowered(peer: Peer, params: Any, state: Any = None) -> jax.stages.Lowered:
    """The step, traced and lowered with donated parameters and state."""
    state = jax.eval_shape(peer.init, params) if state is None else state
    return jax.jit(peer.step, donate_argnums=(0, 1)).lower(params, state, params)


def bytes_moved(compiled: jax.stages.Compiled, params: Any) -> float:
    """Bytes that the compiler says are read and written, over the bytes of the parameters."""
    analysis: Any = compiled.cost_analysis()
    return analysis["bytes accessed"] / sum(leaf.nbytes for leaf in jax.tree.leaves(params))


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


def timed(peers: Mapping[str, Peer], params: Any, builds: int, rounds: int, repeats: int) -> dict[str, dict[str, list]]:
    """Seconds to lower, to compile and for one step, in rounds that go through the peers in turn."""
    seconds: dict[str, dict[str, list]] = {name: {"lower": [], "compile": [], "step": []} for name in peers}
    programs: dict[str, jax.stages.Compiled] = {}
    for _ in range(builds):
        for name, peer in peers.items():
            jax.clear_caches()
            state = jax.eval_shape(peer.init, params)
            start = time.perf_counter()
            program = lowered(peer, params, state)
            middle = time.perf_counter()
            programs[name] = program.compile()
            seconds[name]["lower"].append(middle - start)
            seconds[name]["compile"].append(time.perf_counter() - middle)
    grads = jax.tree.map(jnp.copy, params)
    running = {name: (jax.tree.map(jnp.copy, params), peer.init(params)) for name, peer in peers.items()}
    for _ in range(rounds + 1):
        for name, program in programs.items():
            moved, state = running[name]
            start = time.perf_counter()
            for _ in range(repeats):
                moved, state = program(moved, state, grads)
            jax.block_until_ready((moved, state))
            seconds[name]["step"].append((time.perf_counter() - start) / repeats)
            running[name] = moved, state
    for name in peers:
        del seconds[name]["step"][0]  # the first round warms up
    return seconds


def ratio(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Median of the ratios of one round, with their quartiles."""
    ratios = [a / b for a, b in zip(of, to, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return middle, low, high


def measure(
    what: str, peers: Mapping[str, Peer], params: Any, builds: int, rounds: int, repeats: int
) -> list[dict[str, Any]]:
    """One row for each peer."""
    seconds = timed(peers, params, builds, rounds, repeats)
    rows = []
    for name, peer in peers.items():
        compiled = lowered(peer, params).compile()
        row: dict[str, Any] = {
            "step": what,
            "peer": name,
            "bytes": bytes_moved(compiled, params),
            "fusions": fusions(compiled),
            "copies": parameter_copies(compiled, params),
            "traces": traces(peer, params),
        }
        for phase, label in (("lower", "lower/Optax"), ("compile", "compile/Optax"), ("step", "time/Optax")):
            row[label], low, high = ratio(seconds[name][phase], seconds["Optax"][phase])
            row[f"{label} quartiles"] = [low, high]
            row[f"{phase} seconds"] = statistics.median(seconds[name][phase])
        row["spread"] = "{:.2f}-{:.2f}".format(*row["time/Optax quartiles"])
        rows.append(row)
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# The train step.


def compiled_train_step(tx: Any, params: Any) -> jax.stages.Compiled:
    """``gradtx.training.make_train_step`` for one layer of ``tanh`` per leaf, seen as a matrix of ten rows.

    Below a stack of layers the compiler may still copy a weight that the backward pass reads, to update it early.
    """

    def loss(params, batch):
        return sum(jnp.mean(jnp.tanh(batch @ leaf.reshape(10, -1)) ** 2) for leaf in jax.tree.leaves(params))

    state = training.create_train_state(params, tx, key=jax.random.key(0))
    return training.make_train_step(training.from_plain(loss), tx).lower(state, jnp.ones((8, 10))).compile()


def measure_train_step(params: Any) -> list[dict[str, Any]]:
    """Counts of the whole train step, loss and gradient included."""
    optimizers = {
        "sgd": gradtx.sgd(RATE),
        "adamw": gradtx.adamw(RATE, weight_decay=DECAY),
        "clip, adamw": gradtx.chain(gradtx.clip_by_global_norm(MAX_NORM), gradtx.adamw(RATE, weight_decay=DECAY)),
    }
    rows = []
    for what, tx in optimizers.items():
        compiled = compiled_train_step(tx, params)
        rows.append({
            "step": what, "peer": "make_train_step", "bytes": bytes_moved(compiled, params),
            "fusions": fusions(compiled), "copies": parameter_copies(compiled, params),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, default=4, help="large leaves")
    parser.add_argument("--size", type=int, default=1_000_000, help="elements of a large leaf")
    parser.add_argument("--small-leaves", type=int, default=400, help="small leaves")
    parser.add_argument("--small-size", type=int, default=1_000, help="elements of a small leaf")
    parser.add_argument("--rounds", type=int, default=21, help="rounds of timing a step")
    parser.add_argument("--builds", type=int, default=5, help="rounds of tracing and compiling")
    parser.add_argument("--quick", action="store_true", help="a tenth of the leaves and sizes, few rounds")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    if given.quick:
        given.size, given.small_leaves = given.size // 10, given.small_leaves // 10
        given.builds, given.rounds = min(given.builds, 2), min(given.rounds, 5)

    trees = {
        f"{given.leaves} x {given.size:,}": (equal_leaves(given.leaves, given.size), 3),
        f"{given.small_leaves} x {given.small_size:,}": (equal_leaves(given.small_leaves, given.small_size), 10),
    }
    rows = []
    for title, (params, repeats) in trees.items():
        for what, peers in CASES.items():
            rows += [
                {"leaves": title, **row} for row in measure(what, peers, params, given.builds, given.rounds, repeats)
            ]
        rows += [{"leaves": title, **row} for row in measure_train_step(params)]

    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("bytes: moved per byte of parameters; times: median ratio to Optax in the same round, and quartiles\n")
    counts = ["leaves", "step", "peer", "bytes", "fusions", "copies", "traces"]
    print(table(rows, [*counts, "lower/Optax", "compile/Optax", "time/Optax", "spread"]))
    if given.json:
        sizes = {
            name: getattr(given, name) for name in ("leaves", "size", "small_leaves", "small_size", "rounds", "builds")
        }
        write_json(given.json, rows, benchmark="step_cost", arguments=sizes)


if __name__ == "__main__":
    main()
