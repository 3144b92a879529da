"""Batch normalization beside Flax's and PyTorch's: how exact it is far from zero, and what it costs.

    python -m benchmarks.normalization [--quick] [--json FILE]

Accuracy: largest error of the output and of the gradients (by x, scale and bias) in training, over the largest entry of
each, against NumPy in float64 on the same float32 numbers, with the mean of x that many deviations away from zero.

Cost: bytes that the compiler counts over the bytes of x, fusions, and time. *forward* is the output and the new running
statistics in training; *both* has the gradients besides; *evaluation* is the output by running statistics. Times of one
round are taken one peer after the other, back and forth, and shown as the median over rounds of the ratio to Flax in
the same round; ``--json`` has the seconds too. PyTorch takes part where it is installed, with a thread for every core.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.reporting import environment, table, write_json
from gradtx import norm

try:
    import torch
except ImportError:
    torch = None

EPS, DECAY = 1e-5, 0.9
OFFSETS = (0.0, 1e2, 1e4, 1e6)
SHAPES = ((256, 64), (64, 1024), (32, 28, 28, 32))
KINDS = ("forward", "both", "evaluation")

Apply = Callable[[Any, jax.Array, bool], tuple[jax.Array, Any]]


def ours(params: Any, x: jax.Array, train: bool) -> tuple[jax.Array, Any]:
    channels = x.shape[-1]
    state = norm.BatchNormState(jnp.zeros(channels), jnp.ones(channels))
    return norm.batch_norm(decay=DECAY, eps=EPS).apply(params, state, x, train)


def flax(fast: bool) -> Apply:
    def apply(params, x, train):
        layer = nn.BatchNorm(not train, momentum=DECAY, epsilon=EPS, use_fast_variance=fast)
        stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
        return layer.apply({"params": params, "batch_stats": stats}, x, mutable=["batch_stats"])

    return apply


PEERS: dict[str, Apply] = {"gradtx": ours, "Flax": flax(True), "Flax, slow variance": flax(False)}


def program(apply: Apply, kind: str) -> Callable[..., Any]:
    """``(params, x, g) -> what is measured``; g is the cotangent of the output."""

    def both(params, x, g):
        y, pull, state = jax.vjp(lambda params, x: apply(params, x, True), params, x, has_aux=True)
        return y, state, pull(g)

    return both if kind == "both" else lambda params, x, g: apply(params, x, kind == "forward")


def inputs(shape: tuple[int, ...], offset: float = 0.0) -> tuple[Any, jax.Array, jax.Array]:
    """Scale and bias, x with deviation 1 and that mean, and a cotangent; float32."""
    random = np.random.default_rng(0)
    channels = shape[-1]
    params = {"scale": random.uniform(0.5, 2.0, channels), "bias": random.normal(size=channels)}
    x, g = random.normal(size=shape) + offset, random.normal(size=shape)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x, g))


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy.


def exact(params: Any, x: Any, g: Any) -> tuple[Any, Any, Any, Any]:
    """Output and gradients by x, scale and bias, in float64."""
    scale, bias, x, g = (np.asarray(leaf, np.float64) for leaf in (params["scale"], params["bias"], x, g))
    over = tuple(range(x.ndim - 1))
    root = np.sqrt(x.var(over) + EPS)
    h = (x - x.mean(over)) / root
    dx = scale / root * (g - g.mean(over) - h * (g * h).mean(over))
    return scale * h + bias, dx, (g * h).sum(over), g.sum(over)


def by_torch(params: Any, x: Any, g: Any) -> tuple[Any, Any, Any, Any]:
    scale, bias, x = (torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in (*_both(params), x))
    y = _torch_batch_norm(x, scale, bias, train=True)
    y.backward(torch.tensor(np.asarray(g)))
    return tuple(leaf.detach().numpy() for leaf in (y, x.grad, scale.grad, bias.grad))


def accuracy(shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """One row for each peer and offset."""
    rows = []
    for offset in OFFSETS:
        params, x, g = inputs(shape, offset)
        found = {}
        for name, apply in PEERS.items():
            y, _, (dparams, dx) = jax.jit(program(apply, "both"))(params, x, g)
            found[name] = y, dx, *_both(dparams)
        if torch is not None:
            found["PyTorch"] = by_torch(params, x, g)
        expected = exact(params, x, g)
        for name, results in found.items():
            errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(results, expected, strict=True)]
            row: dict[str, Any] = {"shape": _name(shape), "offset": f"{offset:.0e}" if offset else "0", "peer": name}
            rows.append({**row, "output": f"{errors[0]:.1e}", "gradients": f"{max(errors[1:]):.1e}",
                         "output error": errors[0], "gradient error": max(errors[1:])})  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Cost.


def torch_run(kind: str, params: Any, x: Any, g: Any) -> Callable[[], Any]:
    scale, bias, x = (torch.tensor(np.asarray(leaf), requires_grad=kind == "both") for leaf in (*_both(params), x))
    g = torch.tensor(np.asarray(g))

    def run():
        y = _torch_batch_norm(x, scale, bias, train=kind != "evaluation")
        return torch.autograd.grad(y, (x, scale, bias), g) if kind == "both" else y

    return run


def cost(shape: tuple[int, ...], kind: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each peer."""
    arguments = inputs(shape)
    compiled = {name: jax.jit(program(apply, kind)).lower(*arguments).compile() for name, apply in PEERS.items()}
    runs: dict[str, Callable[[], Any]] = {name: lambda c=c: c(*arguments) for name, c in compiled.items()}
    if torch is not None:
        runs["PyTorch"] = torch_run(kind, *arguments)
    repeats = max(1, 1_000_000 // arguments[1].size)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in list(runs.items())[:: -1 if index % 2 else 1]:
            jax.block_until_ready(run())
            start = time.perf_counter()
            for _ in range(repeats):
                result = run()
            if name in compiled:
                jax.block_until_ready(result)
            seconds[name].append((time.perf_counter() - start) / repeats)
            if name == "PyTorch":
                time.sleep(0.02)  # its threads go on waiting for work, on the cores of whoever comes next
    rows = []
    for name in runs:
        ratios = [a / b for a, b in list(zip(seconds[name], seconds["Flax"], strict=True))[1:]]  # the first warms up
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        row: dict[str, Any] = {"shape": _name(shape), "kind": kind, "peer": name}
        if name in compiled:
            analysis: Any = compiled[name].cost_analysis()
            row["bytes"] = analysis["bytes accessed"] / arguments[1].nbytes
            row["fusions"] = str(compiled[name].as_text()).count(" fusion(")
        rows.append({**row, "time/Flax": middle, "spread": f"{low:.2f}-{high:.2f}",
                     "seconds": statistics.median(seconds[name][1:])})  # fmt: skip
    return rows


def _both(params: Any) -> tuple[Any, Any]:
    return params["scale"], params["bias"]


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _torch_batch_norm(x: Any, scale: Any, bias: Any, *, train: bool) -> Any:
    """PyTorch's function over the last axis."""
    mean, variance = torch.zeros(x.shape[-1]), torch.ones(x.shape[-1])
    channels_second = x.movedim(-1, 1)
    y = torch.nn.functional.batch_norm(channels_second, mean, variance, scale, bias, train, 1 - DECAY, EPS)
    return y.movedim(1, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41, help="rounds of timing")
    parser.add_argument("--quick", action="store_true", help="the smallest shape, few rounds")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    shapes = SHAPES[:1] if given.quick else SHAPES
    rounds = min(given.rounds, 5) if given.quick else given.rounds

    exactness = [row for shape in shapes for row in accuracy(shape)]
    costs = [row for kind in KINDS for shape in shapes for row in cost(shape, kind, rounds)]
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("\nerrors: largest over the largest entry; offset: deviations between the mean and zero\n")
    print(table(exactness, ["shape", "offset", "peer", "output", "gradients"]))
    print("\nbytes: moved per byte of x; times: median ratio to Flax in the same round, and quartiles\n")
    print(table(costs, ["shape", "kind", "peer", "bytes", "fusions", "time/Flax", "spread"]))
    if given.json:
        write_json(given.json, [*exactness, *costs], benchmark="normalization", arguments={"rounds": rounds})


if __name__ == "__main__":
    main()
