"""Draws the paths of optimizers down an ill-conditioned bowl: who bounces, who creeps, and what cures it.

    python examples/quadratic.py                       a bowl fifty times steeper in one direction than in the other

Every optimizer has its best learning rate out of many, so that what is seen is the method and not a bad choice. Draws
paths and losses into runs/quadratic/quadratic.png (see --out).
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradtx

try:
    import matplotlib.pyplot as plt
except ImportError as error:
    sys.exit(f"quadratic.py: {error.name} is missing; write pip install gradtx[examples]")

START = (-2.0, 1.0)
TURN = np.deg2rad(20)  # otherwise a rate for each parameter would make any bowl round
REACHED = 1e-6  # of the loss at the start: here a run counts as done
RATES = np.geomspace(1e-4, 3.0, 120)

# A title, and what makes the optimizer from its learning rate.
OPTIMIZERS = {
    "gradient descent": gradtx.sgd,
    "momentum": lambda rate: gradtx.sgd(rate, momentum=0.8),
    "Nesterov": lambda rate: gradtx.sgd(rate, momentum=0.8, nesterov=True),
    "AdaGrad": lambda rate: gradtx.adagrad(rate, initial_accumulator_value=0.0),
    "RMSProp": lambda rate: gradtx.rmsprop(rate, decay=0.9),
    "Adam": lambda rate: gradtx.adam(rate, b1=0.8, b2=0.99),
}


def bowl(condition):
    """The Hessian of a bowl whose axes are turned against those of the parameters."""
    cosine, sine = np.cos(TURN), np.sin(TURN)
    axes = np.array([[cosine, -sine], [sine, cosine]])
    return axes @ np.diag([1.0, condition]) @ axes.T


def run(make, rates, hessian, steps):
    """The points that an optimizer visits with each rate, ``[rate, step, 2]``: all rates at once, by ``vmap``."""
    tx = gradtx.tunable(lambda learning_rate: make(learning_rate), learning_rate=1.0)

    def loss(point):
        return 0.5 * point @ hessian @ point

    def one_run(rate):
        point = jnp.array(START)

        def step(carry, _):
            point, state = carry
            updates, state = tx.update(jax.grad(loss)(point), state, point)
            point = gradtx.apply_updates(point, updates)
            return (point, state), point

        state = gradtx.set_hyperparameters(tx.init(point), learning_rate=rate)
        _, path = jax.lax.scan(step, (point, state), length=steps)
        return jnp.concatenate([jnp.array([START]), path])

    return np.asarray(jax.jit(jax.vmap(one_run))(jnp.asarray(rates, jnp.float32)), np.float64)


def best(make, hessian, steps):
    """The rate that is done first, or comes lowest; its path and its losses."""
    paths = run(make, RATES, hessian, steps)
    losses = 0.5 * np.einsum("rti,ij,rtj->rt", paths, hessian, paths)
    # A rate counts by the steps until the loss stays below the mark; among those that never do, by the last loss.
    above = ~(losses <= REACHED * losses[:, :1])
    needed = above.shape[1] - np.argmax(above[:, ::-1], axis=1)
    last = np.where(np.isfinite(losses[:, -1]), losses[:, -1], np.inf)
    chosen = np.lexsort((last, needed))[0]
    return RATES[chosen], paths[chosen], losses[chosen], int(needed[chosen])


def draw(path, results, hessian, steps):
    """A panel with contours and the path for each optimizer, and all losses below."""
    figure = plt.figure(figsize=(12, 9), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=(1, 1, 1.25))
    x, y = np.meshgrid(np.linspace(-2.3, 0.7, 200), np.linspace(-2.0, 1.25, 200))
    surface = 0.5 * (hessian[0, 0] * x**2 + 2 * hessian[0, 1] * x * y + hessian[1, 1] * y**2)
    levels = np.geomspace(1e-3, 1, 9) * surface.max()
    for place, (name, (rate, points, _, needed)) in enumerate(results.items()):
        axes = figure.add_subplot(grid[place // 3, place % 3])
        axes.contour(x, y, surface, levels, colors="0.75", linewidths=0.8)
        axes.plot(*points.T, color=f"C{place}", marker="o", markersize=2.5, linewidth=1)
        axes.plot(*START, "k^", markersize=7)
        axes.plot(0, 0, "k*", markersize=12)
        how = f"{needed} steps" if needed <= steps else f"more than {steps} steps"
        axes.set_title(f"{name}, rate {rate:.2g}: {how}", fontsize=10)
        axes.set(xlim=(-2.3, 0.7), ylim=(-2.0, 1.25))
        axes.set_xlabel("parameter 1", fontsize=9)
        axes.set_ylabel("parameter 2", fontsize=9)
    axes = figure.add_subplot(grid[2, :])
    for name, (_, _, losses, _) in results.items():
        axes.semilogy(np.maximum(losses, 1e-12), label=name)
    axes.axhline(REACHED * results["Adam"][2][0], color="black", linewidth=0.8, linestyle="--", label="done")
    axes.set(xlabel="step", ylabel="loss", ylim=(1e-9, 1e2), xlim=(0, steps))
    axes.grid(alpha=0.3)
    axes.legend(ncols=4, loc="upper right")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--condition", type=float, default=50.0, help="steepest over flattest curvature (50)")
    parser.add_argument("--steps", type=int, default=200, help="steps of each run (200)")
    parser.add_argument("--out", type=Path, default=Path("runs/quadratic"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="few steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.steps < 1 or not 1 <= options.condition < 1e6:
        parser.error("--steps must be at least 1 and --condition from 1 to a million")
    steps = min(options.steps, 60) if options.short else options.steps
    began = time.perf_counter()
    hessian = bowl(options.condition)
    results = {name: best(make, hessian, steps) for name, make in OPTIMIZERS.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "quadratic.png"
    draw(drawing, results, hessian, steps)
    print(f"{len(results) * len(RATES)} runs in {time.perf_counter() - began:.1f} s, {drawing}")
    print(f"{'':18}{'best rate':>10}{'turns':>8}{'steps to ' + format(REACHED, 'g'):>16}")
    for name, (rate, points, _, needed) in results.items():
        moves = np.diff(points[: needed + 1], axis=0)
        turns = int(np.sum(np.sum(moves[1:] * moves[:-1], axis=1) < 0))
        print(f"{name:18}{rate:10.3g}{turns:8}{needed if needed <= steps else '-':>16}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
