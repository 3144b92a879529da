"""Every normalization beside Flax's and PyTorch's: how exact it is far from zero, and what it costs.

    python -m benchmarks.normalization [--quick] [--layer NAME] [--json FILE]

Accuracy: largest error of the output and of the gradients (by x, scale and bias) in training, over the largest entry of
each, against NumPy in float64 on the same float32 numbers, with the mean of x that many deviations away from zero.

Batch renormalization has no layer of the peers: it stands beside their batch normalization, whose output it has while
nothing is clipped. Layers that remember nothing have no *evaluation* of their own.

Cost: bytes that the compiler counts over the bytes of x, fusions, and time. *forward* is the output and the new running
statistics in training; *both* has the gradients besides; *evaluation* is the output by running statistics. Times of one
round are taken one peer after the other, back and forth, and shown as the median over rounds of the ratio to Flax in
the same round; ``--json`` has the seconds too. PyTorch takes part where it is installed, with a thread for every core.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

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
KINDS = ("forward", "both", "evaluation")
GROUPS = 8
IMAGES = ((8, 16, 16, 64), (32, 28, 28, 32))
FEATURES = ((256, 64), (64, 1024), (8, 128, 512))

Apply = Callable[[Any, jax.Array, bool], tuple[jax.Array, Any]]


class Layer(NamedTuple):
    """Ours, Flax's by whether it takes the fast variance, PyTorch's function of channels second, and what it averages.

    ``axes`` are those of x cut into groups of channels, for the layers that have such.
    """

    ours: norm.Normalization
    flax: Callable[..., Any]
    torch: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    axes: Callable[[int], tuple[int, ...]]
    remembers: bool = False
    centred: bool = True
    channels_second: bool = True
    groups: int | None = None


def torch_batch_norm(x: Any, scale: Any, bias: Any, train: bool) -> Any:
    mean, variance = torch.zeros(x.shape[1]), torch.ones(x.shape[1])
    return torch.nn.functional.batch_norm(x, mean, variance, scale, bias, train, 1 - DECAY, EPS)


def batch(ours: norm.Normalization) -> Layer:
    return Layer(
        ours,
        lambda fast, train: nn.BatchNorm(not train, momentum=DECAY, epsilon=EPS, use_fast_variance=fast),
        torch_batch_norm,
        ((256, 64), (64, 1024), (32, 28, 28, 32)),
        lambda rank: tuple(range(rank - 1)),
        remembers=True,
    )


LAYERS = {
    "batch": batch(norm.batch_norm(decay=DECAY, eps=EPS)),
    "renorm": batch(norm.batch_renorm(decay=DECAY, eps=EPS, r_max=1.0, d_max=0.0)),
    "layer": Layer(
        norm.layer_norm(eps=EPS),
        lambda fast, train: nn.LayerNorm(epsilon=EPS, use_fast_variance=fast),
        lambda x, scale, bias, train: torch.nn.functional.layer_norm(x, scale.shape, scale, bias, EPS),
        FEATURES,
        lambda rank: (rank - 1,),
        channels_second=False,
    ),
    "rms": Layer(
        norm.rms_norm(eps=EPS),
        lambda fast, train: nn.RMSNorm(epsilon=EPS, use_fast_variance=fast),
        lambda x, scale, bias, train: torch.nn.functional.rms_norm(x, scale.shape, scale, EPS),
        FEATURES,
        lambda rank: (rank - 1,),
        centred=False,
        channels_second=False,
    ),
    "instance": Layer(
        norm.instance_norm(eps=EPS),
        lambda fast, train: nn.InstanceNorm(epsilon=EPS, use_fast_variance=fast),
        lambda x, scale, bias, train: torch.nn.functional.instance_norm(x, weight=scale, bias=bias, eps=EPS),
        IMAGES,
        lambda rank: tuple(range(1, rank - 1)),
    ),
    "group": Layer(
        norm.group_norm(GROUPS, eps=EPS),
        lambda fast, train: nn.GroupNorm(GROUPS, epsilon=EPS, use_fast_variance=fast),
        lambda x, scale, bias, train: torch.nn.functional.group_norm(x, GROUPS, scale, bias, EPS),
        IMAGES,
        lambda rank: (*range(1, rank - 1), rank),
        groups=GROUPS,
    ),
}


def ours(layer: Layer) -> Apply:
    def apply(params, x, train):
        return layer.ours.apply(params, layer.ours.init(x.shape)[1], x, train)

    return apply


def flax(layer: Layer, fast: bool) -> Apply:
    def apply(params, x, train):
        variables = {"params": params}
        if layer.remembers:
            variables["batch_stats"] = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
        return layer.flax(fast, train).apply(variables, x, mutable=["batch_stats"])

    return apply


def peers(layer: Layer) -> dict[str, Apply]:
    found = {"gradtx": ours(layer), "Flax": flax(layer, True)}
    return {**found, "Flax, slow variance": flax(layer, False)} if layer.centred else found


def program(apply: Apply, kind: str) -> Callable[..., Any]:
    """``(params, x, g) -> what is measured``; g is the cotangent of the output."""

    def both(params, x, g):
        y, pull, state = jax.vjp(lambda params, x: apply(params, x, True), params, x, has_aux=True)
        return y, state, pull(g)

    return both if kind == "both" else lambda params, x, g: apply(params, x, kind == "forward")


def inputs(layer: Layer, shape: tuple[int, ...], offset: float = 0.0) -> tuple[Any, jax.Array, jax.Array]:
    """Scale and bias, x with deviation 1 and that mean, and a cotangent; float32."""
    random = np.random.default_rng(0)
    channels = shape[-1]
    params = {"scale": random.uniform(0.5, 2.0, channels)}
    if layer.centred:
        params["bias"] = random.normal(size=channels)
    x, g = random.normal(size=shape) + offset, random.normal(size=shape)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (params, x, g))


# ---------------------------------------------------------------------------------------------------------------------
# Accuracy.


def exact(layer: Layer, params: Any, x: Any, g: Any) -> tuple[Any, ...]:
    """Output and gradients by x, scale and bias, in float64."""
    shape = np.shape(x)
    view = (*shape[:-1], layer.groups, -1) if layer.groups else shape
    scale, bias = (np.asarray(params.get(name, 0.0), np.float64) for name in ("scale", "bias"))
    x, g = np.asarray(x, np.float64).reshape(view), np.asarray(g, np.float64)
    over = layer.axes(len(shape))
    mean = x.mean(over, keepdims=True) if layer.centred else 0.0
    root = np.sqrt(np.square(x - mean).mean(over, keepdims=True) + EPS)
    h = (x - mean) / root
    by_h = (g * scale).reshape(view)
    dx = by_h - h * (by_h * h).mean(over, keepdims=True)
    dx = ((dx - by_h.mean(over, keepdims=True) if layer.centred else dx) / root).reshape(shape)
    h, examples = h.reshape(shape), tuple(range(len(shape) - 1))
    found = (scale * h + bias, dx, (g * h).sum(examples), g.sum(examples))
    return found if layer.centred else found[:3]


def by_torch(layer: Layer, params: Any, x: Any, g: Any) -> tuple[Any, ...]:
    leaves = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in (x, *in_order(params))]
    y = _by_torch(layer, leaves, train=True)
    y.backward(torch.tensor(np.asarray(g)))
    return tuple(leaf.detach().numpy() for leaf in (y, *(leaf.grad for leaf in leaves)))


def accuracy(name: str, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """One row for each peer and offset."""
    rows, layer = [], LAYERS[name]
    for offset in OFFSETS:
        params, x, g = inputs(layer, shape, offset)
        found = {}
        for peer, apply in peers(layer).items():
            y, _, (dparams, dx) = jax.jit(program(apply, "both"))(params, x, g)
            found[peer] = y, dx, *in_order(dparams)
        if torch is not None:
            found["PyTorch"] = by_torch(layer, params, x, g)
        expected = exact(layer, params, x, g)
        for peer, results in found.items():
            errors = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(results, expected, strict=True)]
            row: dict[str, Any] = {"layer": name, "shape": _name(shape), "offset": f"{offset:.0e}" if offset else "0"}
            rows.append({**row, "peer": peer, "output": f"{errors[0]:.1e}", "gradients": f"{max(errors[1:]):.1e}",
                         "output error": errors[0], "gradient error": max(errors[1:])})  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Cost.


def torch_run(layer: Layer, kind: str, params: Any, x: Any, g: Any) -> Callable[[], Any]:
    leaves = [torch.tensor(np.asarray(leaf), requires_grad=kind == "both") for leaf in (x, *in_order(params))]
    g = torch.tensor(np.asarray(g))

    def run():
        y = _by_torch(layer, leaves, train=kind != "evaluation")
        return torch.autograd.grad(y, leaves, g) if kind == "both" else y

    return run


def cost(name: str, shape: tuple[int, ...], kind: str, rounds: int) -> list[dict[str, Any]]:
    """One row for each peer."""
    layer = LAYERS[name]
    arguments = inputs(layer, shape)
    compiled = {peer: jax.jit(program(apply, kind)).lower(*arguments).compile() for peer, apply in peers(layer).items()}
    runs: dict[str, Callable[[], Any]] = {peer: lambda c=c: c(*arguments) for peer, c in compiled.items()}
    if torch is not None:
        runs["PyTorch"] = torch_run(layer, kind, *arguments)
    repeats = max(1, 1_000_000 // arguments[1].size)
    seconds: dict[str, list[float]] = {peer: [] for peer in runs}
    for index in range(rounds + 1):
        for peer, run in list(runs.items())[:: -1 if index % 2 else 1]:
            jax.block_until_ready(run())
            start = time.perf_counter()
            for _ in range(repeats):
                result = run()
            if peer in compiled:
                jax.block_until_ready(result)
            seconds[peer].append((time.perf_counter() - start) / repeats)
            if peer == "PyTorch":
                time.sleep(0.02)  # its threads go on waiting for work, on the cores of whoever comes next
    rows = []
    for peer in runs:
        ratios = [a / b for a, b in list(zip(seconds[peer], seconds["Flax"], strict=True))[1:]]  # the first warms up
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        row: dict[str, Any] = {"layer": name, "shape": _name(shape), "kind": kind, "peer": peer}
        if peer in compiled:
            analysis: Any = compiled[peer].cost_analysis()
            row["bytes"] = analysis["bytes accessed"] / arguments[1].nbytes
            row["fusions"] = str(compiled[peer].as_text()).count(" fusion(")
        rows.append({**row, "time/Flax": middle, "spread": f"{low:.2f}-{high:.2f}",
                     "seconds": statistics.median(seconds[peer][1:])})  # fmt: skip
    return rows


def in_order(params: Any) -> list[Any]:
    return [params[name] for name in ("scale", "bias") if name in params]


def _name(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _by_torch(layer: Layer, leaves: Any, *, train: bool) -> Any:
    """PyTorch's function, with channels on the last axis."""
    x, scale, *bias = leaves
    x = x.movedim(-1, 1) if layer.channels_second else x
    y = layer.torch(x, scale, bias[0] if bias else None, train)
    return y.movedim(1, -1) if layer.channels_second else y


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=41, help="rounds of timing")
    parser.add_argument("--quick", action="store_true", help="the smallest shapes, few rounds")
    parser.add_argument("--layer", choices=LAYERS, action="append", help="only this one; may be given several times")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    rounds = min(given.rounds, 5) if given.quick else given.rounds
    chosen = given.layer or list(LAYERS)
    cases = [(name, shape) for name in chosen for shape in LAYERS[name].shapes[: 1 if given.quick else None]]

    exactness = [row for case in cases for row in accuracy(*case)]
    costs = [
        row
        for name, shape in cases
        for kind in KINDS[: None if LAYERS[name].remembers else 2]
        for row in cost(name, shape, kind, rounds)
    ]
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("\nerrors: largest over the largest entry; offset: deviations between the mean and zero\n")
    print(table(exactness, ["layer", "shape", "offset", "peer", "output", "gradients"]))
    print("\nbytes: moved per byte of x; times: median ratio to Flax in the same round, and quartiles\n")
    print(table(costs, ["layer", "shape", "kind", "peer", "bytes", "fusions", "time/Flax", "spread"]))
    if given.json:
        write_json(given.json, [*exactness, *costs], benchmark="normalization", arguments={"rounds": rounds})


if __name__ == "__main__":
    main()
