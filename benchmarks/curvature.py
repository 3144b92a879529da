"""Curvature beside PyHessian and matfree: are the answers right, and what does one cost?

    python -m benchmarks.curvature [--quick] [--json FILE]

*Saddle*: both eigenvalues of the Hessian of (1 - w1 w2)^2 at the origin, which are -2 and 2, from several start
vectors. *Ends*: the largest and the smallest eigenvalue of a network on the digits with all weights zero, where they
are known; relative errors, products, and time over ours. *Products*: time of one product over that of one gradient in
the same framework, both compiled where there is a compiler, and the operations that XLA counts. *Trace*: error over 200
keys at equal products, on a Hessian small enough to be formed, and how often an interval at a nominal 95 % holds it
(for peers, two standard errors). Peers take part where they are installed; all of them compute in float32.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import sklearn.datasets
from jax.flatten_util import ravel_pytree

from benchmarks.reporting import environment, table, write_json
from gradtx import curvature

try:
    import matfree
    import matfree.decomp
    import matfree.eig
    import matfree.stochtrace
except ImportError:
    matfree = None
try:
    import pyhessian
    import torch
except ImportError:
    pyhessian = torch = None

KEY = jax.random.key(0)
PRODUCTS = 20
POWER_STEPS = 100  # of each power iteration, PyHessian's default

# ---------------------------------------------------------------------------------------------------------------------
# The saddle of a network of two weights.


def saddle(w: jax.Array, batch: None) -> jax.Array:
    return (1 - w[0] * w[1]) ** 2


def torch_saddle() -> Any:
    class TwoWeights(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2 = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))

        def forward(self, x: Any) -> Any:
            return self.w1 * self.w2 * x

    one = torch.ones(1)
    return pyhessian.hessian(TwoWeights(), lambda y, t: torch.mean((t - y) ** 2), data=(one, one), cuda=False)


def at_the_saddle() -> list[dict[str, Any]]:
    rows = []

    def add(peer: str, start: str, low: float, high: float) -> None:
        error = max(abs(low + 2), abs(high - 2))
        rows.append({"peer": peer, "start": start, "smallest": f"{low:.4f}", "largest": f"{high:.4f}", "error": error})

    matrix = curvature.hessian(saddle, jnp.zeros(2))
    for seed in range(3):
        found = curvature.extreme_eigenvalues(matrix, key=jax.random.key(seed))
        add("gradtx", f"seed {seed}", found.smallest.value, found.largest.value)
    if matfree is not None:
        lanczos = matfree.eig.eigh_partial(matfree.decomp.tridiag_sym(2))
        for start in ((1.0, 0.0), (1.0, 1.0), (1.0, 0.5)):
            values, _ = lanczos(lambda v: curvature.hvp(saddle, jnp.zeros(2), None, v), jnp.array(start))
            add("matfree", str(start), float(min(values)), float(max(values)))
    if torch is not None:
        for seed in range(3):
            torch.manual_seed(seed)
            values, _ = torch_saddle().eigenvalues(top_n=2)
            add("PyHessian", f"seed {seed}", min(values), max(values))
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Both ends of a known spectrum.


def digits() -> tuple[np.ndarray, np.ndarray]:
    bundle = sklearn.datasets.load_digits()
    return np.float32(bundle.data / 16), bundle.target


def digits_loss(params: Any, batch: Any) -> jax.Array:
    x, labels = batch
    logits = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def digits_saddle(width: int) -> tuple[Any, Any, float, float]:
    """All weights zero, the output bias at the log class frequencies: parameters, batch, and the ends of the spectrum.

    The Hessian couples the two layers by ``[x, 1]' (pi - y) / N`` alone, and the output bias with itself by
    ``diag(pi) - pi pi'``.
    """
    x, labels = digits()
    y = np.eye(10)[labels]
    share = y.mean(0)
    params = {
        "w1": jnp.zeros((64, width)), "b1": jnp.zeros(width),
        "w2": jnp.zeros((width, 10)), "b2": jnp.log(jnp.asarray(share, jnp.float32)),
    }  # fmt: skip
    singular = np.linalg.svd(np.c_[x, np.ones(len(x))].T @ (share - y) / len(x), compute_uv=False)
    output = np.linalg.eigvalsh(np.diag(share) - np.outer(share, share))
    return params, (jnp.asarray(x), jnp.asarray(labels)), -singular[0], max(singular[0], output[-1])


def torch_digits(params: Any, batch: Any) -> tuple[Any, list[int]]:
    """PyHessian on the same network, and a list that grows by one with every product."""
    width = params["b1"].size
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, 10))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[2].bias.copy_(torch.tensor(np.asarray(params["b2"])))
    data = torch.tensor(np.asarray(batch[0])), torch.tensor(np.asarray(batch[1]), dtype=torch.long)
    counted: list[int] = []
    product = pyhessian.utils.hessian_vector_product

    def counting(*arguments: Any) -> Any:
        counted.append(1)
        return product(*arguments)

    pyhessian.hessian.__init__.__globals__["hessian_vector_product"] = counting
    return pyhessian.hessian(model, torch.nn.functional.cross_entropy, data=data, cuda=False), counted


def ends(width: int) -> list[dict[str, Any]]:
    params, batch, low, high = digits_saddle(width)
    count = ravel_pytree(params)[0].size
    rows: list[dict[str, Any]] = []

    def add(peer: str, run: Callable[[], tuple[float, float, int]], repeat: bool = True) -> None:
        if repeat:
            run()  # compiles
        start = time.perf_counter()
        found_low, found_high, products = run()
        seconds = time.perf_counter() - start
        errors = abs(found_low / low - 1), abs(found_high / high - 1)
        rows.append({
            "parameters": f"{count:,}", "peer": peer, "products": products, "smallest off": f"{errors[0]:.1e}",
            "largest off": f"{errors[1]:.1e}", "time/gradtx": seconds / (rows[0]["seconds"] if rows else seconds),
            "seconds": seconds, "errors": errors,
        })  # fmt: skip

    def ours() -> tuple[float, float, int]:
        matrix = curvature.hessian(digits_loss, params, batch)
        found = curvature.extreme_eigenvalues(matrix, key=KEY, max_products=PRODUCTS)
        return found.smallest.value, found.largest.value, found.products

    add("gradtx", ours)
    if matfree is not None:
        flat, unravel = ravel_pytree(params)
        start = jax.random.normal(KEY, flat.shape)

        @jax.jit
        def lanczos(flat: jax.Array, start: jax.Array, batch: Any) -> jax.Array:
            def times(v: jax.Array) -> jax.Array:
                return jax.jvp(jax.grad(lambda w: digits_loss(unravel(w), batch)), (flat,), (v,))[1]

            decompose = matfree.decomp.tridiag_sym(PRODUCTS)
            return matfree.eig.eigh_partial(decompose)(times, start / jnp.linalg.norm(start))[0]

        def theirs() -> tuple[float, float, int]:
            values = np.asarray(lanczos(flat, start, batch))
            return float(values.min()), float(values.max()), PRODUCTS

        add("matfree", theirs)
    if torch is not None:
        torch.manual_seed(0)
        matrix, counted = torch_digits(params, batch)

        def power() -> tuple[float, float, int]:
            before = len(counted)
            values, _ = matrix.eigenvalues(maxIter=POWER_STEPS, top_n=2)
            return min(values), max(values), len(counted) - before

        add("PyHessian", power, repeat=False)
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# What a product costs.


class ConvNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for channels in (16, 32):
            x = nn.avg_pool(nn.relu(nn.Conv(channels, (3, 3))(x)), (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


class Transformer(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(256, 128)(tokens)
        for _ in range(3):
            x = x + nn.SelfAttention(4)(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
            x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
        return nn.Dense(256)(nn.LayerNorm()(x))


def models() -> dict[str, tuple[Any, Any, Any]]:
    """Name to loss, parameters and batch."""
    keys = jax.random.split(KEY, 5)
    weights = [jax.random.normal(key, (512, 512)) / 512**0.5 for key in keys[:4]]
    tokens = jax.random.randint(keys[4], (4, 128), 0, 256)
    images = jax.random.normal(keys[4], (64, 28, 28, 1))

    def perceptron(params: Any, x: Any) -> jax.Array:
        for weight in params:
            x = jnp.tanh(x @ weight)
        return jnp.mean(x**2)

    def convolutional(params: Any, x: Any) -> jax.Array:
        return -jnp.mean(jax.nn.log_softmax(ConvNet().apply(params, x))[:, 0])

    def attending(params: Any, x: Any) -> jax.Array:
        logits = jax.nn.log_softmax(Transformer().apply(params, x))
        return -jnp.mean(jnp.take_along_axis(logits[:, :-1], x[:, 1:, None], -1))

    return {
        "perceptron": (perceptron, weights, jax.random.normal(keys[4], (256, 512))),
        "ConvNet": (convolutional, ConvNet().init(KEY, images), images),
        "transformer": (attending, Transformer().init(KEY, tokens), tokens),
    }


def torch_perceptron() -> tuple[Any, Any]:
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(512, 512, bias=False), torch.nn.Tanh())]
    model, x = torch.nn.Sequential(*layers), torch.randn(256, 512)
    return list(model.parameters()), lambda: torch.mean(model(x) ** 2)


def torch_convolutional() -> tuple[Any, Any]:
    kernels = [torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.Conv2d(16, 32, 3, padding=1)]
    parts = [part for kernel in kernels for part in (kernel, torch.nn.ReLU(), torch.nn.AvgPool2d(2))]
    model = torch.nn.Sequential(*parts, torch.nn.Flatten(), torch.nn.Linear(32 * 7 * 7, 10))
    x = torch.randn(64, 1, 28, 28)
    return list(model.parameters()), lambda: -torch.mean(torch.log_softmax(model(x), -1)[:, 0])


TORCH_MODELS = {"perceptron": torch_perceptron, "ConvNet": torch_convolutional}


def product_cost(name: str, loss: Any, params: Any, batch: Any, rounds: int) -> list[dict[str, Any]]:
    """One row for each way to a product."""
    direction = jax.tree.map(lambda leaf: jax.random.normal(KEY, leaf.shape), params)
    gradient = jax.jit(jax.grad(loss))
    by_hand = jax.jit(lambda p, b, d: jax.jvp(lambda q: jax.grad(loss)(q, b), (p,), (d,))[1])
    matrix, vector = curvature.hessian(loss, params, batch), tuple(jax.tree.leaves(direction))
    runs: dict[str, Callable[[], Any]] = {
        "gradient": lambda: gradient(params, batch),
        "gradtx, in a run": lambda: matrix.apply(vector),
        "gradtx, hvp": lambda: curvature.hvp(loss, params, batch, direction),
        "jvp of grad": lambda: by_hand(params, batch, direction),
    }
    if torch is not None and name in TORCH_MODELS:
        weights, value = TORCH_MODELS[name]()
        tangent = [torch.randn_like(weight) for weight in weights]
        slope = torch.autograd.grad(value(), weights, create_graph=True)
        runs["gradient in PyTorch"] = lambda: torch.autograd.grad(value(), weights)
        runs["PyHessian"] = lambda: pyhessian.utils.hessian_vector_product(slope, weights, tangent)
    seconds: dict[str, list[float]] = {run: [] for run in runs}
    for index in range(rounds + 1):
        for run, call in list(runs.items())[:: -1 if index % 2 else 1]:
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds[run].append(time.perf_counter() - start)
            if run in ("gradient in PyTorch", "PyHessian"):
                time.sleep(0.02)  # its threads go on waiting for work, on the cores of whoever comes next
    operations = {
        "gradtx, in a run": _operations(jax.jit(matrix.apply), vector),
        "gradtx, hvp": _operations(jax.jit(lambda *given: curvature.hvp(loss, *given)), params, batch, direction),
        "jvp of grad": _operations(by_hand, params, batch, direction),
    }
    one = _operations(gradient, params, batch)
    rows = []
    for run in runs:
        if run.startswith("gradient"):
            continue
        unit = seconds["gradient in PyTorch" if run == "PyHessian" else "gradient"]
        ratios = [a / b for a, b in list(zip(seconds[run], unit, strict=True))[1:]]  # the first warms up
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append({
            "model": name, "product": run, "time/gradient": middle, "spread": f"{low:.2f}-{high:.2f}",
            "operations/gradient": operations[run] / one if run in operations else None,
            "seconds": statistics.median(seconds[run][1:]),
        })  # fmt: skip
    return rows


def _operations(function: Any, *arguments: Any) -> float:
    return function.lower(*arguments).compile().cost_analysis()["flops"]


# ---------------------------------------------------------------------------------------------------------------------
# The trace.


def trained() -> tuple[Any, Any, Any]:
    """A small network on the digits after some descent: loss, parameters and batch."""
    x, labels = digits()
    batch = jnp.asarray(x[:256]), jnp.asarray(labels[:256])
    keys = jax.random.split(KEY, 2)
    params = {
        "w1": jax.random.normal(keys[0], (64, 6)) / 8, "b1": jnp.zeros(6),
        "w2": jax.random.normal(keys[1], (6, 10)) / 6**0.5, "b2": jnp.zeros(10),
    }  # fmt: skip
    step = jax.jit(lambda p: jax.tree.map(lambda w, g: w - 0.5 * g, p, jax.grad(digits_loss)(p, batch)))
    for _ in range(200):
        params = step(params)
    return digits_loss, params, batch


def traces(keys: int) -> list[dict[str, Any]]:
    loss, params, batch = trained()
    flat, unravel = ravel_pytree(params)
    dense = np.asarray(jax.hessian(lambda w: loss(unravel(w), batch))(flat), np.float64)
    dense = jnp.asarray((dense + dense.T) / 2, jnp.float32)
    exact = float(np.trace(np.asarray(dense, np.float64)))
    matrix = curvature.hessian(lambda w, a: 0.5 * w @ (a @ w), jnp.zeros(len(dense)), dense)
    products = 60
    found: dict[str, list[tuple[float, float, float]]] = {}

    def ours(method: str) -> Callable[[int], tuple[float, float, float]]:
        def one(seed: int) -> tuple[float, float, float]:
            estimate = curvature.trace(matrix, key=jax.random.key(seed), max_products=products, method=method)
            return (estimate.value, *estimate.interval)

        return one

    peers = {"gradtx, hutch++": ours("hutch++"), "gradtx, hutchinson": ours("hutchinson")}
    if matfree is not None:
        trace = matfree.stochtrace
        like = jnp.zeros(len(dense))
        samples = {"xtrace": products // 2, "monte carlo": products}
        estimates = {
            "xtrace": trace.estimator_leave_one_out_mean_and_sem(
                trace.leave_one_out_xtrace(), trace.sampler_sphere(like, num=samples["xtrace"])
            ),
            "monte carlo": trace.estimator_monte_carlo_mean_and_sem(
                trace.monte_carlo_trace(), trace.sampler_signs(like, num=samples["monte carlo"])
            ),
        }
        for name, estimate in estimates.items():
            compiled = jax.jit(lambda key, estimate=estimate: estimate(lambda v: dense @ v, key))

            def theirs(seed: int, compiled: Any = compiled) -> tuple[float, float, float]:
                mean, error = map(float, compiled(jax.random.key(seed)))
                return mean, mean - 1.96 * error, mean + 1.96 * error

            peers[f"matfree, {name}"] = theirs
    for name, one in peers.items():
        found[name] = [one(seed) for seed in range(keys)]
    rows = []
    for name, estimates_of in found.items():
        values = np.asarray(estimates_of)
        error = float(np.sqrt(np.mean((values[:, 0] - exact) ** 2)) / abs(exact))
        held = int(np.sum((values[:, 1] <= exact) & (exact <= values[:, 2])))
        width = float(np.mean(values[:, 2] - values[:, 1]) / abs(exact))
        rows.append({"peer": name, "products": products, "error": f"{error:.1e}", "95 % held": f"{held} of {keys}",
                     "width": f"{width:.1e}", "relative error": error})  # fmt: skip
    return rows


def show(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    print(f"\n{title}\n")
    print(table(rows, columns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of timing")
    parser.add_argument("--quick", action="store_true", help="small cases and few rounds")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", module="torch")  # of a graph that PyHessian keeps
    rounds = min(given.rounds, 3) if given.quick else given.rounds

    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    results = {
        "saddle": at_the_saddle(),
        "ends": [row for width in ((64,) if given.quick else (64, 16384)) for row in ends(width)],
        "products": [row for name, case in models().items() for row in product_cost(name, *case, rounds)],
        "trace": traces(20 if given.quick else 200),
    }
    show("(1 - w1 w2)^2 at the origin: -2 and 2", results["saddle"], ["peer", "start", "smallest", "largest"])
    show("digits network at a saddle: relative errors of both ends", results["ends"],
         ["parameters", "peer", "products", "smallest off", "largest off", "time/gradtx"])  # fmt: skip
    show("one product over one gradient: median ratio in the same round, and quartiles", results["products"],
         ["model", "product", "time/gradient", "spread", "operations/gradient"])  # fmt: skip
    show("trace: root mean square error, and how often the interval holds it", results["trace"],
         ["peer", "products", "error", "95 % held", "width"])  # fmt: skip
    if given.json:
        rows = [{"part": part, **row} for part, part_rows in results.items() for row in part_rows]
        write_json(given.json, rows, rounds=rounds)


if __name__ == "__main__":
    main()
