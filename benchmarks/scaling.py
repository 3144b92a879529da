"""Steps on 1, 2, 4 and 8 devices: time, bytes of state on each, what they send; and on paper what many chips would.

    python -m benchmarks.scaling [--json FILE] [--width 256 --layers 4 --steps 10]
                                 [--chips 1024 --bandwidth 5e10 --hop 1e-6]

The devices are simulated: they share the cores of one machine, so a step can become no faster by more of them, and what
its time shows is what splitting costs. Times are over that of the same batch on one device, medians of blocked steps of
AdamW behind clipping by the global norm. The state's bytes are those that lie on the first device; what is sent is
counted in the compiled program.

On paper: a model of 10 billion float32 parameters on ``--chips`` devices, each with ``--bandwidth`` bytes per second to
its neighbours in a ring. A device sends as many bytes for each byte of parameters as here, with (n - 1) / n of the n
there; the time is that of the bytes alone, without latency, and nothing is hidden behind computation. ``latency`` is
what the rings would add with ``--hop`` seconds for each of their n - 1 turns, for all the arrays of the model together.
"""

import argparse
import os
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from benchmarks.collectives import Sent, collectives, on_the_wire
from benchmarks.reporting import environment, table, write_json
from gradtx.training import bytes_per_device, create_train_state, from_plain, make_train_step

COUNTS = (1, 2, 4, 8)
MODES = {"replicated": "shard_map", "ZeRO": "zero", "fully split": "fsdp"}
TX = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3, weight_decay=0.1))


def perceptron(width: int, layers: int) -> dict[str, Any]:
    random = np.random.default_rng(0)
    kernels = [random.normal(size=(width, width)).astype(np.float32) / width**0.5 for _ in range(layers)]
    return {"kernels": kernels, "biases": [np.zeros(width, np.float32) for _ in range(layers)]}


def loss(params: Any, batch: Any) -> jax.Array:
    for kernel, bias in zip(params["kernels"], params["biases"], strict=True):
        batch = jnp.tanh(batch @ kernel + bias)
    return jnp.mean(batch**2)


def measure(params: Any, parallel: Any, count: int, steps: int) -> dict[str, Any]:
    """Seconds of a step, bytes of state on one device, and what is sent."""
    mesh = jax.make_mesh((count,), ("data",), devices=jax.devices()[:count])
    state = create_train_state(params, TX, key=jax.random.key(0))
    step = make_train_step(from_plain(loss), TX, parallel=parallel, mesh=mesh)
    batch = np.ones((64, params["kernels"][0].shape[0]), np.float32)
    sent = collectives(step.lower(state, batch).compile().as_text(), count) if count > 1 else {}
    seconds = []
    for _ in range(steps + 2):
        before = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        seconds.append(time.perf_counter() - before)
    first = lambda tree: sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))  # noqa: E731
    return {
        "seconds": statistics.median(seconds[2:]),
        "params_bytes": first(state.params),
        "state_bytes": first(state.opt_state),
        "sent": sent,
    }


def rows_of(width: int, layers: int, steps: int) -> list[dict[str, Any]]:
    params = perceptron(width, layers)
    nbytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    rows: list[dict[str, Any]] = []
    for name, parallel in MODES.items():
        for count in COUNTS:
            found = measure(params, parallel, count, steps)
            sent: dict[str, Sent] = found["sent"]
            rows.append(
                {
                    "parallel": name,
                    "devices": count,
                    "milliseconds": found["seconds"] * 1e3,
                    "time": found["seconds"] * 1e3 / rows[0]["milliseconds"] if rows else 1.0,
                    "params/device": found["params_bytes"] / nbytes,
                    "state/device": found["state_bytes"] / nbytes,
                    **{kind: sent[kind].nbytes / nbytes if kind in sent else 0.0 for kind in KINDS},
                    "count": sum(kind.count for kind in sent.values()),
                    "sent/device": on_the_wire(sent, count) / nbytes,
                }
            )
    return rows


KINDS = ("all-reduce", "reduce-scatter", "all-gather")
COLUMNS = (
    "parallel",
    "devices",
    "milliseconds",
    "time",
    "params/device",
    "state/device",
    *KINDS,
    "count",
    "sent/device",
)


def transformer(width: int = 4096, layers: int = 48, vocabulary: int = 65_536) -> dict[str, Any]:
    """Shapes of a transformer's leaves; about 10 billion numbers."""

    def of(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    layer = {"qkv": of(width, 3 * width), "out": of(width, width), "up": of(width, 4 * width),
             "down": of(4 * width, width), "scales": of(2, width)}  # fmt: skip
    return {"embedding": of(vocabulary, width), "layers": [layer] * layers}


def on_paper(rows: list[dict[str, Any]], chips: int, bandwidth: float, hop: float) -> list[dict[str, Any]]:
    """A row for each way to run: gigabytes on each device and sent by it in a step, and how long that takes."""
    shapes = transformer()
    params_bytes = sum(leaf.size * 4 for leaf in jax.tree.leaves(shapes))
    found = []
    for name, parallel in MODES.items():
        row = next(row for row in rows if row["parallel"] == name and row["devices"] == COUNTS[-1])
        held: Any = bytes_per_device(TX, shapes, chips, parallel=parallel)  # pyright: ignore[reportArgumentType]
        whole = sum(row[kind] * (2 if kind == "all-reduce" else 1) for kind in KINDS)
        sent = whole * params_bytes * (chips - 1) / chips
        found.append(
            {
                "parallel": name,
                "params GB": held.params / 1e9,
                "gradients GB": held.gradients / 1e9,
                "state GB": held.opt_state / 1e9,
                "total GB": held.total / 1e9,
                "sent GB": sent / 1e9,
                "seconds": sent / bandwidth,
                "latency": 2 * (chips - 1) * hop,
            }
        )
    return found


PAPER = ("parallel", "params GB", "gradients GB", "state GB", "total GB", "sent GB", "seconds", "latency")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--chips", type=int, default=1024)
    parser.add_argument("--bandwidth", type=float, default=5e10, help="bytes per second and direction, of each device")
    parser.add_argument("--hop", type=float, default=1e-6, help="seconds from one device to the next")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={COUNTS[-1]}"
    os.environ.setdefault("NPROC", str(2 * COUNTS[-1]))  # jax 0.10 may hang with fewer threads
    rows = rows_of(given.width, given.layers, given.steps)
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("bytes over those of the parameters: on a device, of whole arrays by kind, and sent by a device in a step\n")
    print(table(rows, COLUMNS))
    paper = on_paper(rows, given.chips, given.bandwidth, given.hop)
    print(f"\n10 billion parameters on {given.chips} devices, {given.bandwidth:g} bytes per second each: on paper\n")
    print(table(paper, PAPER))
    if given.json:
        named = {name: getattr(given, name) for name in ("width", "layers", "steps", "chips", "bandwidth", "hop")}
        write_json(given.json, rows, benchmark="scaling", arguments=named, on_paper=paper)


if __name__ == "__main__":
    main()
