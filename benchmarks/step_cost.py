"""What one optimizer step costs, beside Optax and beside the same step written by hand.

    python -m benchmarks.step_cost [--quick] [--json FILE] [--leaves 4 --size 1000000] [--small-leaves 400 ...]

A step is ``step(params, state, grads) -> (params, state)``, update and ``apply_updates``, with parameters and state
donated. Counted, by the compiler: bytes moved over the parameters' bytes, fusions, copies of buffers as large as a
parameter; and traces of the update in three calls. Timed: trace and lower, compile, run. Times of one round are taken
one peer after the other, so that what else the machine does hits all of them, and are shown as the median over rounds
of the ratio to Optax in the same round; ``--json`` has the seconds too. The whole train step, loss and gradient
included, stands beside the one by hand, with the Python time that a call of it takes beyond that.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx
from benchmarks.reporting import environment, table, write_json
from benchmarks.steps import (
    B1,
    DECAY,
    MAX_NORM,
    RATE,
    Peer,
    adamw_by_hand,
    built,
    bytes_moved,
    equal_leaves,
    fusions,
    lowered,
    momentum_by_hand,
    parameter_copies,
    ratio,
    sgd_by_hand,
    traces,
    transforming,
)
from gradtx import training


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


# ---------------------------------------------------------------------------------------------------------------------
# Timing.


def timed(peers: Mapping[str, Peer], params: Any, builds: int, rounds: int, repeats: int) -> dict[str, dict[str, list]]:
    """Seconds to lower, to compile and for one step, in rounds that go through the peers in turn."""
    seconds: dict[str, dict[str, list]] = {name: {"lower": [], "compile": [], "step": []} for name in peers}
    programs: dict[str, jax.stages.Compiled] = {}
    for _ in range(builds):
        for name, peer in peers.items():
            state = jax.eval_shape(peer.init, params)
            programs[name], lower, compiling = built(peer.step, params, state, params)
            seconds[name]["lower"].append(lower)
            seconds[name]["compile"].append(compiling)
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


def layers_loss(params: Any, batch: jax.Array) -> jax.Array:
    """One layer of ``tanh`` per leaf, seen as a matrix of ten rows.

    Below a stack of layers the compiler may still copy a weight that the backward pass reads, to update it early.
    """
    return sum(
        (jnp.mean(jnp.tanh(batch @ leaf.reshape(10, -1)) ** 2) for leaf in jax.tree.leaves(params)),
        start=jnp.zeros(()),
    )


def train_steps(tx: Any, params: Any) -> dict[str, tuple[Any, Any]]:
    """``gradtx.training.make_train_step`` and the same step by hand, each with its first state."""
    state = training.create_train_state(params, tx, key=jax.random.key(0))

    @functools.partial(jax.jit, donate_argnums=0)
    def by_hand(state, batch):
        count, params, opt_state = state
        loss, grads = jax.value_and_grad(layers_loss)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (count + 1, gradtx.apply_updates(params, updates), opt_state), {"loss": loss, "examples": len(batch)}

    plain = (jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params), tx.init(params))
    return {
        "make_train_step": (training.make_train_step(training.from_plain(layers_loss), tx), state),
        "train step by hand": (by_hand, plain),
    }


def compiled_train_steps(tx: Any, params: Any) -> dict[str, jax.stages.Compiled]:
    batch = jnp.ones((8, 10))
    return {name: step.lower(state, batch).compile() for name, (step, state) in train_steps(tx, params).items()}


def python_time(tx: Any, rounds: int) -> float:
    """Microseconds for which a call of the train step keeps Python, beyond those of the step by hand.

    The median over rounds in which both are called once, on eight small leaves, and waited for.
    """
    steps = train_steps(tx, equal_leaves(8, 100))
    batch = jnp.ones((8, 10))
    beyond = []
    for _ in range(rounds):
        seconds = []
        for name, (step, state) in steps.items():
            start = time.perf_counter()
            state, _ = step(state, batch)
            seconds.append(time.perf_counter() - start)
            steps[name] = step, jax.block_until_ready(state)
        beyond.append(seconds[0] - seconds[1])
    return 1e6 * statistics.median(beyond[rounds // 4 :])


def measure_train_step(params: Any) -> list[dict[str, Any]]:
    """Counts of the whole train step, loss and gradient included."""
    optimizers = {
        "sgd": gradtx.sgd(RATE),
        "adamw": gradtx.adamw(RATE, weight_decay=DECAY),
        "clip, adamw": gradtx.chain(gradtx.clip_by_global_norm(MAX_NORM), gradtx.adamw(RATE, weight_decay=DECAY)),
    }
    rows = []
    for what, tx in optimizers.items():
        for peer, compiled in compiled_train_steps(tx, params).items():
            rows.append({
                "step": what, "peer": peer, "bytes": bytes_moved(compiled, params),
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
    beyond = python_time(gradtx.adamw(RATE, weight_decay=DECAY), 40 * given.rounds)
    print(f"\nPython time of a train step beyond that of the step by hand: {beyond:.0f} microseconds a call")
    if given.json:
        sizes = {
            name: getattr(given, name) for name in ("leaves", "size", "small_leaves", "small_size", "rounds", "builds")
        }
        write_json(given.json, rows, benchmark="step_cost", arguments=sizes, python_microseconds=beyond)


if __name__ == "__main__":
    main()
