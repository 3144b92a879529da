"""Follows all eigenvalues of the Hessian through training, up to the edge of stability.

    python examples/spectrum.py                        a network of one hidden layer on scikit-learn's digits

Plain gradient descent on all images, so that nothing is noise. The largest eigenvalue rises until it reaches 2 / rate,
where a descent step along it no longer shrinks, and stays there; the loss falls on, in jumps. The negative eigenvalues
nearly vanish, and most of the spectrum stays flat. Each moment costs 300 products with the Hessian, about 600
gradients. Prints a table and draws runs/spectrum/spectrum_training.png (see --out).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import curvature

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
except ImportError as error:
    sys.exit(f"spectrum.py: {error.name} is missing; write pip install gradtx[examples]")

HIDDEN, CLASSES = 16, 10
RATE = 0.1
EDGE = 2 / RATE  # of a quadratic, a curvature above it makes descent diverge
THRESHOLD = 1e-3 * EDGE  # the same at all moments, so that their shares compare
MOMENTS = (0, 10, 30, 100, 200, 300, 450, 650, 900, 1300, 2000)
KINDS = {"negative": "C3", "near zero": "0.75", "positive": "C0"}
WIDTH = 0.1  # of the Gaussians that make the density a curve


class Moment(NamedTuple):
    """What was measured before the update of this step."""

    step: int
    report: Any
    spectrum: Any


def digits():
    bundle = sklearn.datasets.load_digits()
    return jnp.asarray(bundle.data / 16, jnp.float32), jax.nn.one_hot(bundle.target, CLASSES)


def init(key):
    hidden, output = jax.random.split(key)
    return {
        "hidden": {"kernel": jax.random.normal(hidden, (64, HIDDEN)) / 8, "bias": jnp.zeros(HIDDEN)},
        "output": {"kernel": 0.3 * jax.random.normal(output, (HIDDEN, CLASSES)) / 4, "bias": jnp.zeros(CLASSES)},
    }


def loss(params, batch):
    images, targets = batch
    hidden = jnp.tanh(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    outputs = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))


def train(params, batch, steps):
    """Loss and gradient norm before each of ``steps`` updates and after the last, and the parameters at the moments."""
    tx = gradtx.watch(gradtx.sgd(RATE))

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return gradtx.apply_updates(params, updates), state, (value, gradtx.metrics(state)["gradient_norm"])

    state, history, kept = tx.init(params), [], {}
    for index in range(steps + 1):
        if index in MOMENTS or index == steps:
            kept[index] = params
        params, state, seen = step(params, state)
        history.append(seen)
    return np.asarray(jax.device_get(history)), kept


def measure(step, params, batch, probes, products):
    """Both ends of the spectrum from one run, and the distribution from others."""
    report = curvature.classify(
        loss, params, batch, key=jax.random.key(1), threshold=THRESHOLD, max_products=min(60, products)
    )
    matrix = curvature.hessian(loss, params, batch)
    found = curvature.spectrum(matrix, key=jax.random.key(2), probes=probes, products=products, threshold=THRESHOLD)
    return Moment(step, report, found)


def table(moments):
    lines = [
        f"{'step':>4}  {'loss':>7}  {'gradient':>8}  {'lambda min, in':>24}  {'lambda max, in':>23}  "
        f"{'p-':>5}  {'p0':>5}  {'p+':>5}  products"
    ]
    for step, report, found in moments:
        low, high = report.lambda_min_interval, report.lambda_max_interval
        smallest = f"{report.lambda_min:.3f} [{low[0]:.3f}, {low[1]:.3f}]"
        largest = f"{report.lambda_max:.2f} [{high[0]:.2f}, {high[1]:.2f}]"
        shares = "  ".join(f"{share:>5.1%}" for share in found.shares)
        lines.append(
            f"{step:>4}  {report.loss:7.4f}  {report.gradient_norm:8.4f}  {smallest:>24}  {largest:>23}  {shares}  "
            f"{report.products + found.products}"
        )
    return "\n".join(lines)


def at_edge(moments):
    """The first moment at which the largest eigenvalue has reached the edge, or None."""
    return next((moment for moment in moments if moment.report.lambda_max > 0.97 * EDGE), None)


def draw(path, history, moments):
    figure = plt.figure(figsize=(11.5, 7.6), layout="constrained")
    axes = figure.subplot_mosaic(
        [["loss", "largest"], ["loss", "smallest"], ["shares", "density"]], height_ratios=(3, 2, 5)
    )
    draw_history(axes["loss"], history)
    draw_ends(axes["largest"], axes["smallest"], moments)
    draw_shares(axes["shares"], moments)
    draw_densities(axes["density"], moments)
    reached = at_edge(moments)
    for name in ("loss", "largest", "smallest", "shares"):
        axes[name].set_xscale("symlog", linthresh=10, linscale=0.4)
        axes[name].set_xlim(0, 1.06 * moments[-1].step)
        axes[name].set_xticks([0, 10, 100, 1000][: 2 + (moments[-1].step >= 100) + (moments[-1].step >= 1000)])
        axes[name].xaxis.set_major_formatter("{x:g}")
        axes[name].set_xlabel("" if name == "largest" else "step of gradient descent")
        if reached is not None:
            axes[name].axvline(reached.step, color="black", linewidth=0.8, linestyle=":", label="at the edge")
    axes["loss"].legend(loc="lower left")
    axes["largest"].tick_params(labelbottom=False)
    figure.savefig(path, dpi=105)
    plt.close(figure)


def draw_history(axes, history):
    axes.semilogy(history[:, 0], color="C0", linewidth=1.4, label="loss")
    axes.semilogy(history[:, 1], color="C1", linewidth=1, label="gradient norm", zorder=1)
    axes.set(
        ylabel="squared error per image; gradient norm", title="Past the edge the gradient jumps, and the loss falls on"
    )
    axes.grid(alpha=0.3)


def draw_ends(largest, smallest, moments):
    steps = [moment.step for moment in moments]
    for axes, name, color in ((largest, "lambda_max", "C0"), (smallest, "lambda_min", "C3")):
        values = np.array([getattr(moment.report, name) for moment in moments])
        low, high = np.array([getattr(moment.report, f"{name}_interval") for moment in moments]).T
        axes.errorbar(steps, values, (values - low, high - values), color=color, marker="o", markersize=4, capsize=3)
        axes.grid(alpha=0.3)
    largest.axhline(EDGE, color="black", linewidth=1, linestyle="--", label=f"2 / rate = {EDGE:g}")
    largest.set(ylabel="largest eigenvalue", ylim=(0, 1.25 * EDGE), title="The steepest direction rises to 2 / rate")
    largest.legend(loc="lower right")
    smallest.axhline(0, color="black", linewidth=0.8)
    smallest.set(ylabel="smallest eigenvalue")


def draw_shares(axes, moments):
    steps = [moment.step for moment in moments]
    shares = 100 * np.array([moment.spectrum.shares for moment in moments]).T
    axes.stackplot(steps, shares, colors=list(KINDS.values()), labels=list(KINDS), alpha=0.7)
    intervals = 100 * np.array([moment.spectrum.share_intervals for moment in moments])
    for values, (low, high) in ((shares[0], intervals[:, 0].T), (100 - shares[2], 100 - intervals[:, 2, ::-1].T)):
        axes.errorbar(steps, values, (values - low, high - values), fmt="k.", markersize=3, capsize=3, linewidth=0.8)
    axes.set(ylabel="share of eigenvalues (%)", ylim=(0, 100))
    axes.set_title(f"Most directions are flat (threshold {THRESHOLD:g}; bars: 95 %)")
    axes.legend(loc="center", framealpha=0.9)


def draw_densities(axes, moments):
    first, last = moments[0], moments[-1]
    middle = at_edge(moments) or moments[len(moments) // 2]
    dimension = last.spectrum.dimension
    one = 1 / (dimension * WIDTH * np.sqrt(2 * np.pi))
    low = min(moment.report.lambda_min for moment in moments) - 1
    points = np.linspace(low, 1.2 * EDGE, 4000)
    for moment, color, filled in ((first, "C2", 0.35), (middle, "C4", 0.25), (last, "C1", 0.25)):
        curve = np.maximum(curvature.density(moment.spectrum, points, width=WIDTH), one / 30)
        axes.fill_between(points, one / 30, curve, color=color, alpha=filled)
        axes.plot(points, curve, color=color, linewidth=1.2, label=f"step {moment.step:,}")
    axes.axhline(one, color="black", linewidth=0.8, linestyle=":", label="a single eigenvalue")
    axes.axvline(EDGE, color="black", linewidth=1, linestyle="--", label="2 / rate")
    axes.set(xlabel="eigenvalue of the Hessian", ylabel="share of eigenvalues per unit", yscale="log")
    axes.set(
        xlim=(low, 1.2 * EDGE), ylim=(one / 30, None), title=f"{dimension:,} eigenvalues: a bulk at zero, a few steep"
    )
    axes.legend(loc="upper center")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, help=f"steps of descent; {MOMENTS[-1]}, or 30 with --short")
    parser.add_argument("--out", type=Path, default=Path("runs/spectrum"), help="folder of the drawing (runs/spectrum)")
    parser.add_argument("--short", action="store_true", help="few steps and products, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = 30 if options.short else MOMENTS[-1]
    if options.steps < 1:
        parser.error("--steps must be at least 1")
    probes, products = (1, 30) if options.short else (3, 80)
    plt.switch_backend("Agg")
    began = time.perf_counter()
    batch = digits()
    history, kept = train(init(jax.random.key(0)), batch, options.steps)
    moments = [measure(step, params, batch, probes, products) for step, params in kept.items()]
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "spectrum_training.png"
    draw(drawing, history, moments)
    print(f"{options.steps} steps and {len(moments)} spectra in {time.perf_counter() - began:.1f} s, {drawing}")
    print(table(moments))
    reached = at_edge(moments)
    if reached is None:
        print(f"the largest eigenvalue has not reached 2 / rate = {EDGE:g}")
    else:
        print(f"the largest eigenvalue reached 2 / rate = {EDGE:g} by step {reached.step}, at a loss of "
              f"{reached.report.loss:.4f}; the loss then fell to {moments[-1].report.loss:.4f}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
