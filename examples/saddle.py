"""Leaves saddle points: of the network with two weights, and of a network that reads handwritten digits.

    python examples/saddle.py                  a few seconds of training, writes runs/saddle/saddle.png (see --out)

The network y = w1 w2 x with one example (1, 1) has the loss (1 - w1 w2)^2. At the origin its gradient is zero and its
Hessian has the eigenvalues -2 and 2: a saddle, from which the way down is known. Plain descent and momentum
run into it and stay for a while; one step along the direction of negative curvature leaves it. Then the same with a
network of one hidden layer on the digits: with all weights zero, and the output biases at the logarithms of the class
frequencies, its gradient is zero as well.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import curvature, losses

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
except ImportError as error:
    sys.exit(f"saddle.py: {error.name} is missing; write pip install gradtx[examples]")

HIDDEN, CLASSES = 64, 10
RATES = {"two weights": 0.05, "digits": 0.5}
METHODS = {"gradient descent": 0.0, "with momentum 0.9": 0.9}
COLORS = {"gradient descent": "C1", "with momentum 0.9": "C2", "escape, then descent": "C3"}
STYLES = {"gradient descent": "-", "with momentum 0.9": ":", "escape, then descent": "--"}
BESIDE = np.array([-0.5, 0.501], np.float32)  # descent starts where it leads into the saddle; there it would stay


def two_weights(w, batch):
    del batch
    return (1 - w[0] * w[1]) ** 2


def logits_of(params, images):
    hidden = jnp.tanh(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def digits_loss(params, batch):
    labels = jax.nn.one_hot(batch["label"], CLASSES)
    return jnp.mean(losses.softmax_cross_entropy(logits_of(params, batch["image"]), labels))


def digits():
    bundle = sklearn.datasets.load_digits()
    return {"image": jnp.asarray(bundle.data / 16, jnp.float32), "label": jnp.asarray(bundle.target, jnp.int32)}


def digits_saddle(data):
    """All weights zero, and the output biases such that the gradient is zero as well."""
    frequencies = jnp.bincount(data["label"], length=CLASSES) / len(data["label"])
    return {
        "hidden": {"kernel": jnp.zeros((64, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "output": {"kernel": jnp.zeros((HIDDEN, CLASSES)), "bias": jnp.log(frequencies)},
    }


def descend(loss, params, batch, rate, momentum, steps):
    """The losses of gradient descent, from before the first step, and the parameters on the way."""
    tx = gradtx.sgd(rate, momentum=momentum or None)

    @jax.jit
    def step(params, state):
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(gradient, state, params)
        return gradtx.apply_updates(params, updates), state, value

    state, values, path = tx.init(params), [], [params]
    for _ in range(steps):
        params, state, value = step(params, state)
        values.append(float(value))
        path.append(params)
    return [*values, float(loss(params, batch))], path


def compare(loss, start, saddle, batch, rate, steps):
    """Classifies the saddle, and descends from beside it by every method and from it by one escape step."""
    report = curvature.classify(loss, saddle, batch, key=jax.random.key(0))
    runs = {name: descend(loss, start, batch, rate, momentum, steps) for name, momentum in METHODS.items()}
    escaped, info = curvature.escape(loss, saddle, report, batch)
    values, path = descend(loss, escaped, batch, rate, 0.0, steps - 1)
    runs["escape, then descent"] = ([info.loss_before, *values], [saddle, *path])
    return report, info, runs


def draw_surface(axes, runs):
    grid = np.linspace(-0.8, 1.8, 261)
    w1, w2 = np.meshgrid(grid, grid)
    values = (1 - w1 * w2) ** 2
    levels = np.array([0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.6, 2.5, 4.0])
    filled = axes.contourf(w1, w2, values, levels=levels, cmap="Greys", alpha=0.6, extend="max")
    axes.figure.colorbar(filled, ax=axes, label="loss (1 - w1 w2)²")
    axes.contour(w1, w2, values, levels=[1.0], colors="0.3", linestyles="dotted", linewidths=1)
    right = grid[grid > 0.54]
    axes.plot(right, 1 / right, color="0.2", linewidth=1, label="minima: w1 w2 = 1")
    for name, (_, path) in runs.items():
        line = np.asarray([np.asarray(w) for w in path])
        axes.plot(line[:, 0], line[:, 1], STYLES[name], color=COLORS[name], linewidth=2, label=name)
    axes.plot(*BESIDE, "ko", markersize=5, label="start of descent")
    axes.plot(0, 0, "k*", markersize=12, label="saddle")
    axes.set(xlabel="weight w1", ylabel="weight w2", xlim=(-0.8, 1.8), ylim=(-0.8, 1.8), aspect="equal")
    axes.legend(loc="lower right", fontsize=8)


def draw_losses(axes, runs, title):
    for name, (values, _) in runs.items():
        axes.plot(values, STYLES[name], color=COLORS[name], linewidth=2, label=name)
    axes.set(xlabel="step", ylabel="loss", title=title, ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw(figure_path, two, network, data, saddle):
    report, _, runs = two
    figure = plt.figure(figsize=(13, 8), layout="constrained")
    axes = figure.subplot_mosaic([["surface", "two along", "two"], ["spectrum", "along", "network"]])
    draw_surface(axes["surface"], runs)
    axes["surface"].set_title("Two weights: the surface")
    spare = figure.add_axes((0, 0, 0.01, 0.01))
    curvature.plot_report(report, two_weights, jnp.zeros(2), None, axes=(spare, axes["two along"]), reach=1.8)
    spare.remove()
    axes["two along"].set_title(f"{report.verdict}: the loss through it")
    draw_losses(axes["two"], runs, "descent lingers at the saddle")
    report, _, runs = network
    curvature.plot_report(report, digits_loss, saddle, data, axes=(axes["spectrum"], axes["along"]))
    axes["spectrum"].set_title(f"Digits network, {report.dimension:,} weights: {report.verdict}")
    axes["along"].set_title("the loss through it")
    draw_losses(axes["network"], runs, "descent from the saddle never leaves it")
    figure_path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(figure_path, dpi=110)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/saddle"), help="folder for the picture")
    parser.add_argument("--steps", type=int, help="steps of descent; 200, or 20 with --short")
    parser.add_argument("--short", action="store_true", help="few steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = 20 if options.short else 200
    if options.steps < 2:
        parser.error("--steps must be at least 2")
    plt.switch_backend("Agg")
    data = digits()
    saddle = digits_saddle(data)
    two = compare(two_weights, jnp.asarray(BESIDE), jnp.zeros(2), None, RATES["two weights"], options.steps)
    network = compare(digits_loss, saddle, saddle, data, RATES["digits"], options.steps)
    for name, (report, info, runs) in {"two weights": two, "digits network": network}.items():
        print(f"{name}\n{report}")
        print(f"escape: a step of {info.step:.3g} takes the loss from {info.loss_before:.4f} to {info.loss_after:.4f}")
        for method, (values, _) in runs.items():
            print(f"{method}: loss {values[-1]:.4f} after {options.steps} steps")
        print()
    draw(options.out / "saddle.png", two, network, data, saddle)
    print(f"wrote {options.out / 'saddle.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
