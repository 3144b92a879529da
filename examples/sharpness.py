"""Trains one network with small and with large batches, and measures how sharp the solutions are.

    python examples/sharpness.py                       600 of the images of 8x8 pixels that scikit-learn ships

Both batch sizes start from the same parameters, with the same optimizer, and stop at the same training loss: sharpness
falls with the loss, so solutions of different losses do not compare. Prints the measures, says which of them tell the
batch sizes apart, and draws the loss between two solutions into runs/sharpness/sharpness.png (see --out).
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import curvature, losses, training

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
except ImportError as error:
    sys.exit(f"sharpness.py: {error.name} is missing; write pip install gradtx[examples]")

SMALL, LARGE = 10, 600  # the large batch is all training images
WIDTH = 32
RATE = 0.1
MOST_EPOCHS = 4000
MEASURES = ("training loss", "test accuracy", "gradient norm", "lambda max", "box", "SAM", "adaptive SAM", "stability")


class Solution(NamedTuple):
    """Where a run stopped, and what was measured there."""

    params: list
    updates: int
    values: tuple


@jax.jit
def init(key):
    widths = [64, WIDTH, WIDTH, 10]
    keys = jax.random.split(key, len(widths) - 1)
    return [
        {"kernel": jax.random.normal(key, (inside, outside)) * np.sqrt(2 / inside), "bias": jnp.zeros(outside)}
        for key, inside, outside in zip(keys, widths, widths[1:], strict=False)
    ]


def logits(params, images):
    x = images
    for depth, layer in enumerate(params):
        x = jax.nn.relu(x) if depth else x
        x = x @ layer["kernel"] + layer["bias"]
    return x


def loss(params, batch):
    return jnp.mean(losses.softmax_cross_entropy(logits(params, batch["image"]), batch["label"]))


@jax.jit
def loss_and_gradient_norm(params, batch):
    value, grads = jax.value_and_grad(loss)(params, batch)
    return value, jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)))


@jax.jit
def accuracy(params, batch):
    return jnp.mean(jnp.argmax(logits(params, batch["image"]), -1) == batch["label"])


def digits():
    """Training and held-out images and labels."""
    bundle = sklearn.datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(bundle.target))
    data = {"image": np.float32(bundle.data / 16), "label": np.int32(bundle.target)}
    return tuple({name: values[rows] for name, values in data.items()} for rows in (order[:LARGE], order[LARGE:]))


def train(step, tx, data, batch_size, seed, target):
    """Parameters and the number of updates, at the first epoch's end with a training loss below ``target``."""
    key = jax.random.key(seed)
    state = training.create_train_state(init(key), tx, key=key)
    for epoch in range(MOST_EPOCHS):
        for batch in training.batches(data, batch_size, key=jax.random.fold_in(key, epoch)):
            state, _ = step(state, batch)
        if loss_and_gradient_norm(state.params, data)[0] < target:
            break
    return state.params, int(state.step)


def measured(params, updates, data, held_out, seed):
    value, gradient_norm = loss_and_gradient_norm(params, data)
    key = jax.random.key(seed)
    stable = curvature.stability(curvature.hessian(loss, params, data), RATE, key=key)
    values = (
        float(value),
        float(accuracy(params, held_out)),
        float(gradient_norm),
        stable.lambda_max,
        curvature.box_sharpness(loss, params, data, key=key),
        curvature.sam_sharpness(loss, params, data),
        curvature.sam_sharpness(loss, params, data, rho=0.5, adaptive=True),
        stable.value,
    )
    return Solution(params, updates, values)


def table(solutions):
    """A row for each run, and for each batch size the mean over seeds."""
    lines = ["batch  seed  updates  " + "  ".join(MEASURES)]
    for size, runs in solutions.items():
        rows = [(seed, run.updates, run.values) for seed, run in enumerate(runs)]
        mean = np.mean([run.values for run in runs], axis=0)
        rows.append(("mean", round(np.mean([run.updates for run in runs])), mean))
        for seed, updates, values in rows:
            cells = "  ".join(f"{x:>{len(name)}.3g}" for x, name in zip(values, MEASURES, strict=True))
            lines.append(f"{size:>5}  {seed:>4}  {updates:>7,}  {cells}")
    return "\n".join(lines)


def verdict(solutions):
    """Which measures are larger for all runs of one batch size than for all of the other."""
    small, large = (np.array([run.values for run in solutions[size]]) for size in (SMALL, LARGE))
    lines = []
    for column, name in enumerate(MEASURES[1:7], 1):
        a, b = small[:, column], large[:, column]
        kind = "no clear difference"
        if a.max() < b.min():
            kind = f"larger for the large batch, {b.mean() / a.mean():.3g} times"
        elif b.max() < a.min():
            kind = f"larger for the small batch, {a.mean() / b.mean():.3g} times"
        lines.append(f"{name}: {kind}")
    return "\n".join(lines)


def draw(path, start, small, large, data, held_out, points):
    figure, (line, sharp, plane) = plt.subplots(1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=(4, 4, 5))
    alphas = np.linspace(-0.5, 1.5, points)
    for batch, name in ((data, "training"), (held_out, "held out")):
        curvature.plot_line(
            curvature.loss_line(loss, small, batch, end=large, alphas=alphas), axes=line, label=f"{name} images"
        )
    for x, size in ((0, SMALL), (1, LARGE)):
        line.axvline(x, color="black", linewidth=0.8, linestyle="--")
        line.annotate(f"batch {size}", (x, 0.03), (4, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points")  # fmt: skip
    line.set(xlabel="from the small batch's solution (0) to the large one's (1)", ylabel="loss (nats per image)",
             yscale="log", title="Between the solutions")  # fmt: skip
    line.legend(loc="center")
    for params, size, color in ((small, SMALL, "C2"), (large, LARGE, "C3")):
        found = curvature.extreme_eigenvalues(curvature.hessian(loss, params, data), key=jax.random.key(0)).largest
        seen = curvature.loss_line(loss, params, data, direction=found.direction, alphas=(alphas - 0.5) / 2)
        rise = seen._replace(losses=seen.losses - float(loss(params, data)))
        axes = curvature.plot_line(rise, axes=sharp, label=f"batch {size}, curvature {found.value:.2g}")
        axes.lines[-1].set_color(color)
    sharp.set(xlabel="step along the direction of largest curvature", ylabel="rise of the training loss (nats)",
              title="Across the valleys")  # fmt: skip
    sharp.legend(loc="upper center")
    through = curvature.plane_through(small, large, start)
    grid = curvature.loss_plane(loss, through.origin, data, directions=through.directions, xs=through.xs, ys=through.ys)
    names = f"batch {SMALL}", f"batch {LARGE}", "first parameters"
    curvature.plot_plane(grid, axes=plane, points=dict(zip(names, through.points, strict=True)))
    plane.set(xlabel="distance along the line between the solutions", ylabel="distance from that line",
              title="The plane through both and the start")  # fmt: skip
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--target", type=float, default=0.01, help="the training loss to stop at, in nats (0.01)")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each batch size (3)")
    parser.add_argument("--out", type=Path, default=Path("runs/sharpness"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="two seeds and an early stop, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or not options.target > 0:
        parser.error("--seeds must be at least 1 and --target above 0")
    target, seeds = options.target, options.seeds
    if options.short:
        target, seeds = max(target, 0.3), min(seeds, 2)
    began = time.perf_counter()
    data, held_out = digits()
    tx = gradtx.sgd(RATE)
    step = training.make_train_step(training.from_plain(loss), tx)
    solutions = {
        size: [measured(*train(step, tx, data, size, seed, target), data, held_out, seed) for seed in range(seeds)]
        for size in (SMALL, LARGE)
    }
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "sharpness.png"
    small, large = (solutions[size][0].params for size in (SMALL, LARGE))
    draw(drawing, init(jax.random.key(0)), small, large, data, held_out, 21 if options.short else 81)
    print(f"{2 * seeds} runs to a training loss of {target:g} in {time.perf_counter() - began:.1f} s, {drawing}")
    print(table(solutions))
    print(verdict(solutions))
    return 0


if __name__ == "__main__":
    sys.exit(main())
