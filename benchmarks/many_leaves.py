"""What one step costs a model of many small leaves, packed and not, beside Optax.

    python -m benchmarks.many_leaves [--quick] [--json FILE] [--leaves 1000] [--size 1000] [--flatten]

AdamW on ``--leaves`` float32 matrices of ``--size`` elements, in three steps: ``update`` is the optimizer's step alone,
``step(params, state, grads)``, update and ``apply_updates``; ``train`` is loss, gradient and update of a network with a
layer for each leaf, on 8 examples. Our packed peers keep the state packed, or state and parameters (and then get packed
gradients). Optax's steps the tree; ``--flatten`` adds ``optax.flatten``, which takes minutes to compile. Times of one
round are taken one peer after the other, and shown as the median over rounds of the ratio to Optax in the same round;
``build`` is trace, lower and compile together, ``call`` is what the host does before the call returns. Counted: fusions
of the compiled program, and arrays that a call hands over.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx
from benchmarks.reporting import environment, table, write_json
from benchmarks.steps import Peer, adamw_by_hand, built, fusions, ratio, transforming
from gradtx.storage import pack, packed, unpack

RATE, DECAY = 1e-3, 0.01
OURS = gradtx.adamw(RATE, weight_decay=DECAY)
PACKED = packed(OURS)
THEIRS = optax.adamw(RATE, weight_decay=DECAY)

Step = tuple[Callable[..., Any], Any, Any, Any]
"""``step(params, state, data) -> (params, state)`` and what it is first called with."""


def layers(count: int, size: int) -> dict[str, jax.Array]:
    """Matrices of 20 columns and as many rows, and back, in turn: a network with ``count`` layers."""
    key = jax.random.key(0)
    shapes = [(20, size // 20), (size // 20, 20)]
    return {
        f"layer_{index:04d}": jax.random.normal(jax.random.fold_in(key, index), shapes[index % 2]) / 5.0
        for index in range(count)
    }


def loss(params: Mapping[str, jax.Array], batch: jax.Array) -> jax.Array:
    for leaf in params.values():
        batch = jnp.tanh(batch @ leaf)
    return jnp.mean(batch**2)


def training(peer: Peer) -> Peer:
    """The step of a peer with the gradient of the loss in it: the third argument is the batch."""

    def step(params, state, batch):
        grads = jax.grad(lambda params: loss(unpack(params), batch))(params)
        return peer.step(params, state, grads)

    return Peer(peer.init, step)


def steps(params: Any, flatten: bool) -> dict[str, dict[str, Step]]:
    """The peers of each kind of step."""
    ours, theirs = gradtx.apply_updates, optax.apply_updates
    peers = {
        "Optax": (transforming(THEIRS, theirs), params),
        "gradtx": (transforming(OURS, ours), params),
        "gradtx, packed state": (transforming(PACKED, ours), params),
        "gradtx, packed parameters": (transforming(PACKED, ours), pack(params, PACKED)),
        "by hand": (adamw_by_hand(), params),
    }
    if flatten:
        peers["optax.flatten"] = (transforming(optax.flatten(THEIRS), theirs), params)
    batch = jnp.ones((8, 20))
    return {
        "update": {name: (peer.step, given, peer.init(given), given) for name, (peer, given) in peers.items()},
        "train": {
            name: (training(peer).step, given, peer.init(given), batch)
            for name, (peer, given) in peers.items()
            if name not in ("by hand", "optax.flatten")
        },
    }


def measure(what: str, peers: Mapping[str, Step], builds: int, rounds: int) -> list[dict[str, Any]]:
    """One row for each peer."""
    seconds: dict[str, dict[str, list[float]]] = {
        name: {"lower": [], "compile": [], "build": [], "call": [], "step": []} for name in peers
    }
    programs = {}
    for _ in range(builds):
        for name, step in peers.items():
            programs[name], lower, compiling = built(*step)
            for phase, time_of_it in (("lower", lower), ("compile", compiling), ("build", lower + compiling)):
                seconds[name][phase].append(time_of_it)
    running = {name: jax.tree.map(jnp.copy, step[1:3]) for name, step in peers.items()}
    for _ in range(rounds + 1):
        for name, step in peers.items():
            start = time.perf_counter()
            running[name] = programs[name](*running[name], step[3])
            called = time.perf_counter()
            jax.block_until_ready(running[name])
            seconds[name]["call"].append(called - start)
            seconds[name]["step"].append(time.perf_counter() - start)
    rows = []
    for name, step in peers.items():
        row: dict[str, Any] = {"step": what, "peer": name, "arrays": len(jax.tree.leaves(step[1:]))}
        row["fusions"] = fusions(programs[name])
        for phase, taken in seconds[name].items():
            warm = slice(1, None) if phase in ("call", "step") else slice(None)
            row[f"{phase}/Optax"], low, high = ratio(taken[warm], seconds["Optax"][phase][warm])
            row[f"{phase}/Optax quartiles"] = [low, high]
            row[f"{phase} seconds"] = statistics.median(taken[warm])
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--leaves", type=int, default=1_000)
    parser.add_argument("--size", type=int, default=1_000, help="elements of a leaf, a multiple of 20")
    parser.add_argument("--rounds", type=int, default=21, help="rounds of timing a step")
    parser.add_argument("--builds", type=int, default=3, help="rounds of tracing and compiling")
    parser.add_argument("--flatten", action="store_true", help="optax.flatten too")
    parser.add_argument("--quick", action="store_true", help="a tenth of the leaves, few rounds")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    if given.quick:
        given.leaves, given.builds, given.rounds = given.leaves // 10, min(given.builds, 1), min(given.rounds, 5)

    params = layers(given.leaves, given.size)
    rows = []
    for what, peers in steps(params, given.flatten).items():
        rows += measure(what, peers, given.builds, given.rounds)

    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print(f"adamw, {given.leaves} leaves of {given.size} elements; median ratio to Optax in the same round\n")
    columns = ["build/Optax", "step/Optax", "call/Optax", "build seconds", "step seconds"]
    print(table(rows, ["step", "peer", "arrays", "fusions", *columns]))
    if given.json:
        sizes = {name: getattr(given, name) for name in ("leaves", "size", "rounds", "builds")}
        write_json(given.json, rows, benchmark="many_leaves", arguments=sizes)


if __name__ == "__main__":
    main()
