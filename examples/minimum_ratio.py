"""Draws the minimum ratio of critical points against their loss, and what the threshold for zero has to do with it.

    python examples/minimum_ratio.py                   networks of 17 parameters, driven to zero gradient

The minimum ratio of a critical point is the share of its Hessian's eigenvalues that are positive: 1 at a minimum. Small
networks are trained for various times, and from each point the squared norm of the gradient is minimized, which leads
to saddles as well as to minima. Then all eigenvalues are counted: above zero, above a thousandth, and above a hundredth
of the largest. The data come from a network of three units with noise, and the networks that learn have four, so that
the critical points of smaller networks lie at many losses in between (Fukumizu and Amari 2000). At last each point is
left along its lowest eigenvector, which shows how much further down there was to go. Prints tables and draws
runs/minimum_ratio/minimum_ratio.png (see --out).
"""

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import gradtx
from gradtx import curvature

try:
    import matplotlib.pyplot as plt
    from matplotlib import ticker
except ImportError as error:
    sys.exit(f"minimum_ratio.py: {error.name} is missing; write pip install gradtx[examples]")

HIDDEN, EXAMPLES = 4, 60
TRAINED = (0, 10, 25, 50, 100, 200, 400, 1000, 3000)  # steps of Adam before the gradient is driven to zero
RATE = 0.02
CRITICAL = 1e-5  # a gradient up to this norm counts as zero
NOISE = 1e-6  # eight roundings of float32: eigenvalues are known up to this part of the largest
LEAVING, AFTER = 0.1, 1000  # the step along the lowest eigenvector, and the steps of Adam that follow
THRESHOLDS = (0.0, 1e-3, 1e-2)  # in parts of the largest |eigenvalue|
KINDS = {"saddle": ("C3", "v"), "undecided": ("0.45", "s"), "minimum": ("C0", "^")}
BANDS = (0.0, 0.15, 0.35, 0.7, np.inf)  # of the loss, for the table


class Points(NamedTuple):
    """Where the runs ended, a row each."""

    params: np.ndarray
    losses: np.ndarray
    gradient_norms: np.ndarray
    eigenvalues: np.ndarray
    """Ascending."""
    flatness: np.ndarray
    """``|H g| / (|H| |g|)``: where it is zero, ``|g|^2`` is stationary though the gradient is not zero."""

    def where(self, chosen):
        return Points(*(field[chosen] for field in self))


def init(key):
    hidden, bias, output = jax.random.split(key, 3)
    return {
        "hidden": {
            "kernel": jax.random.normal(hidden, (2, HIDDEN)) / np.sqrt(2),
            "bias": 0.5 * jax.random.normal(bias, (HIDDEN,)),
        },
        "output": {"kernel": jax.random.normal(output, (HIDDEN,)) / np.sqrt(HIDDEN), "bias": jnp.zeros(())},
    }


def outputs(params, x):
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def examples():
    """Inputs and noisy outputs of a network with three units, of variance 1: a constant has a loss of 1."""
    teacher = {
        "hidden": {"kernel": jnp.array([[2.0, -1.5, 0.5], [0.5, 1.5, -2.5]]), "bias": jnp.array([0.5, 0.0, -0.5])},
        "output": {"kernel": jnp.array([1.0, 1.0, 1.2]), "bias": jnp.zeros(())},
    }
    for_inputs, for_noise = jax.random.split(jax.random.key(7))
    x = jax.random.normal(for_inputs, (EXAMPLES, 2))
    y = outputs(teacher, x) + 0.3 * jax.random.normal(for_noise, (EXAMPLES,))
    return x, (y - y.mean()) / y.std()


_, as_tree = ravel_pytree(init(jax.random.key(0)))


def loss(w, batch):
    """The mean squared error; the parameters are one vector here."""
    x, y = batch
    return jnp.mean((outputs(as_tree(w), x) - y) ** 2)


def hessian(w, batch):
    """All of it, from a product with each unit vector."""
    matrix = jax.vmap(lambda unit: curvature.hvp(loss, w, batch, unit))(jnp.eye(w.size))
    return (matrix + matrix.T) / 2


def descend(w, batch, moments):
    """Adam on each row of ``w`` by itself: the parameters after each of these numbers of steps."""
    tx = gradtx.adam(RATE)

    @jax.jit
    @jax.vmap
    def step(w, state):
        updates, state = tx.update(jax.grad(loss)(w, batch), state, w)
        return gradtx.apply_updates(w, updates), state

    state, kept = jax.vmap(tx.init)(w), []
    for index in range(moments[-1] + 1):
        if index in moments:
            kept.append(w)
        w, state = step(w, state)
    return kept


def minimize_gradient(w, batch, steps):
    """Levenberg and Marquardt's steps on ``|g|^2``, ``-(H^2 + mu)^-1 H g``, in the Hessian's own axes.

    Formed there, float32 is not squared. A step that makes the gradient longer is not taken.
    """

    def step(_, carry):
        w, mu = carry
        gradient = jax.grad(loss)(w, batch)
        values, axes = jnp.linalg.eigh(hessian(w, batch))
        moved = w - axes @ (values / (values**2 + mu) * (axes.T @ gradient))
        shorter = jnp.sum(jax.grad(loss)(moved, batch) ** 2) < jnp.sum(gradient**2)
        return jnp.where(shorter, moved, w), jnp.clip(jnp.where(shorter, mu / 4, mu * 4), 1e-12, 1e3)

    return jax.lax.fori_loop(0, steps, step, (w, jnp.float32(0.01)))[0]


def measure(w, batch):
    gradient, matrix = jax.grad(loss)(w, batch), hessian(w, batch)
    values, norm = jnp.linalg.eigvalsh(matrix), jnp.linalg.norm(gradient)
    flatness = jnp.linalg.norm(matrix @ gradient) / jnp.maximum(jnp.max(jnp.abs(values)) * norm, 1e-30)
    return Points(w, loss(w, batch), norm, values, flatness)


def find(networks, trained, steps, batch):
    """All runs' ends, whether critical or not."""
    first = jax.vmap(lambda key: ravel_pytree(init(key))[0])(jax.random.split(jax.random.key(0), networks))
    starts = jnp.concatenate(descend(first, batch, trained))
    run = jax.jit(jax.vmap(lambda w: measure(minimize_gradient(w, batch, steps), batch)))
    return Points(*map(np.asarray, run(starts)))


def counted(values, threshold):
    """For each point the share of eigenvalues above the threshold, where rounding may move it, and the point's kind."""
    size = np.max(np.abs(values), axis=1, keepdims=True)
    zero, rounding = threshold * size, NOISE * size
    share, least, most = (np.mean(values > zero + shift * rounding, axis=1) for shift in (0, 1, -1))
    kinds = np.where(np.any(values < -zero - rounding, axis=1), "saddle", np.where(least == 1, "minimum", "undecided"))
    return share, least, most, kinds


def losses_after_leaving(points, batch):
    """The lowest loss of each point after a step along its lowest eigenvector, to either side, and some descent."""
    w = jnp.asarray(points.params)
    lowest = jax.vmap(lambda w: jnp.linalg.eigh(hessian(w, batch))[1][:, 0])(w)
    beside = jnp.concatenate([w + LEAVING * lowest, w - LEAVING * lowest])
    (ends,) = descend(beside, batch, (AFTER,))
    after = np.asarray(jax.vmap(lambda w: loss(w, batch))(ends)).reshape(2, -1).min(axis=0)
    return np.minimum(after, points.losses)


def representatives(points):
    """The lowest point, one in the middle, and the highest."""
    order = np.argsort(points.losses)
    middle = order[np.argmin(np.abs(points.losses[order] - 0.4))]
    return [int(order[0]), int(middle), int(order[-1])]


def disagreement(points, batch):
    """How far the eigenvalues are from those of a Lanczos run over the whole space, in parts of the largest."""
    worst = 0.0
    for index in representatives(points):
        w = jnp.asarray(points.params[index])
        found = curvature.spectrum(curvature.hessian(loss, w, batch), key=jax.random.key(1), products=w.size)
        apart = np.max(np.abs(found.probes[0].values - points.eigenvalues[index]))
        worst = max(worst, float(apart / np.max(np.abs(points.eigenvalues[index]))))
    return worst


def tell(points, critical, after):
    missed = points.where(points.gradient_norms > CRITICAL)
    print(
        f"{len(critical.losses)} of {len(points.losses)} runs reached a gradient below {CRITICAL:g}: "
        f"median {np.median(critical.gradient_norms):.1e}, largest {np.max(critical.gradient_norms):.1e}"
    )
    if len(missed.losses):
        print(
            f"the others are left out: median {np.median(missed.gradient_norms):.1e}; in "
            f"{np.mean(missed.flatness < 0.01):.0%} of them the gradient lies in flat directions, |H g| < 0.01 |H| |g|"
        )
    print("\nthreshold  saddles  undecided  minima")
    for threshold in THRESHOLDS:
        kinds = counted(critical.eigenvalues, threshold)[3]
        saddles, undecided, minima = (int(np.sum(kinds == kind)) for kind in KINDS)
        print(f"{threshold:>9g}  {saddles:>7}  {undecided:>9}  {minima:>6}")
    print(
        "\n     loss      points  " + "  ".join(f"p+ {c:<5g}  p- {c:<5g}" for c in THRESHOLDS) + "  median loss, after"
    )
    for low, high in itertools.pairwise(BANDS):
        inside = (low <= critical.losses) & (critical.losses < high)
        if np.any(inside):
            values = critical.eigenvalues[inside]
            cells = "  ".join(f"{np.mean(counted(sign * values, c)[0]):>8.2f}" for c in THRESHOLDS for sign in (1, -1))
            medians = f"{np.median(critical.losses[inside]):>11.4f}  {np.median(after[inside]):>5.4f}"
            print(f"{low:>5g} to {high:<5g} {np.sum(inside):>6}  {cells}  {medians}")


def draw(path, points):
    figure, axes = plt.subplots(2, 2, figsize=(11, 8.3), layout="constrained")
    for panel, threshold in zip(axes.ravel(), THRESHOLDS, strict=False):
        draw_ratios(panel, points, threshold)
    draw_bulk(axes[1, 1], points)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_ratios(axes, points, threshold):
    share, least, most, kinds = counted(points.eigenvalues, threshold)
    for kind, (color, marker) in KINDS.items():
        of_kind = kinds == kind
        x, y = points.losses[of_kind], share[of_kind]
        error = (y - least[of_kind], most[of_kind] - y)
        axes.errorbar(x, y, error, fmt="none", ecolor=color, elinewidth=0.8, alpha=0.5)
        axes.scatter(x, y, s=36, c=color, marker=marker, alpha=0.5, label=f"{kind}: {np.sum(of_kind)}")
    name = f"{threshold:g} of the largest" if threshold else "zero"
    axes.set(xscale="log", ylim=(0, 1.04), xlabel="loss at the critical point (1: a constant output)")
    axes.set(ylabel="minimum ratio: share of eigenvalues above", title=f"Counted as positive: above {name}")
    axes.xaxis.set_major_locator(ticker.FixedLocator([0.1, 0.2, 0.3, 0.5, 1.0]))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.grid(alpha=0.3)
    if not threshold:
        axes.plot([], [], color="0.3", linewidth=0.8, label="may be rounding")
    axes.legend(loc="lower left")


def draw_bulk(axes, points):
    beside = ("axes fraction", "data")
    for index, color in zip(representatives(points), ("C0", "C1", "C3"), strict=True):
        values = points.eigenvalues[index][::-1]
        size = np.max(np.abs(values))
        rank = np.arange(1, len(values) + 1)
        relative = np.maximum(np.abs(values) / size, 1e-9)
        label = f"loss {points.losses[index]:.3f}"
        axes.semilogy(rank, relative, color=color, linewidth=0.8)
        for sign, fill in ((values > 0, color), (values <= 0, "white")):
            axes.semilogy(rank[sign], relative[sign], "o", color=color, markerfacecolor=fill,
                          label=label if fill == color else None)  # fmt: skip
    axes.semilogy([], [], "o", color="0.3", markerfacecolor="white", label="negative")
    for threshold in THRESHOLDS[1:]:
        axes.axhline(threshold, color="black", linewidth=1, linestyle="--")
        axes.annotate(f"threshold\n{threshold:g}", (1.01, threshold), xycoords=beside, va="center")
    axes.axhspan(1e-10, NOISE, color="0.9")
    axes.annotate("rounding\nof float32", (1.01, NOISE / 30), xycoords=beside, va="center")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set(xlabel="eigenvalue, from the largest to the smallest", ylabel="|eigenvalue| / largest")
    axes.set(title="Three points: which of these are zero?", ylim=(5e-10, 2))
    axes.legend(loc="lower left", fontsize=9)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, help="how many are trained; 50, or 8 with --short")
    parser.add_argument("--out", type=Path, default=Path("runs/minimum_ratio"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="few networks and steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.networks is None:
        options.networks = 8 if options.short else 50
    if options.networks < 1:
        parser.error("--networks must be at least 1")
    plt.switch_backend("Agg")
    began = time.perf_counter()
    batch = examples()
    trained, steps = (TRAINED[:-2], 100) if options.short else (TRAINED, 500)
    points = find(options.networks, trained, steps, batch)
    critical = points.where(points.gradient_norms <= CRITICAL)
    if not len(critical.losses):
        sys.exit("minimum_ratio.py: no run reached a critical point; write --networks 50")
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "minimum_ratio.png"
    draw(drawing, critical)
    apart = disagreement(critical, batch)
    print(f"{len(points.losses)} runs in {time.perf_counter() - began:.1f} s, {drawing}")
    tell(points, critical, losses_after_leaving(critical, batch))
    print(f"\na Lanczos run over the whole space gives the same eigenvalues up to {apart:.1e} of the largest")
    return 0


if __name__ == "__main__":
    sys.exit(main())
