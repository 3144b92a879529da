"""Shows that training can be stuck while the gradient is not small, and how to tell: it jumps between two walls.

    python examples/stuck.py                           a narrow valley, and a network on scikit-learn's digits

Both are trained with a learning rate as large as they bear. The loss stops falling, as if they had arrived somewhere;
but the gradient is not small, and successive gradients point against each other. Then the rate is cut, and the loss
falls at once. Draws both into runs/stuck/stuck.png (see --out) and says in words what it saw.
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
from gradtx import curvature, schedules

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
except ImportError as error:
    sys.exit(f"stuck.py: {error.name} is missing; write pip install gradtx[examples]")

CURVATURES = np.array([1.0, 100.0])  # of the valley
VALLEY_RATE = 1.9998 / 100  # 2 over the steepest curvature is the limit of stability
NETWORK_RATE, WARM_UP = 0.15, 200  # the network follows a rate that rises slowly to where it gets steep enough
CUT = 8  # the rate is divided by this
WINDOW = 50  # steps that a verdict looks at
WORDS = {"bouncing": "bouncing between the walls of a valley, at no critical point"}


class Run(NamedTuple):
    """What was seen before each step: the loss, the metrics of the update, and cos(g_t, g_{t-1})."""

    losses: np.ndarray
    gradient_norms: np.ndarray
    cosines: np.ndarray
    points: np.ndarray


def train(loss, params, rate, steps, keep_points=False):
    """Gradient descent, watched; ``rate`` is a schedule."""
    tx = gradtx.watch(gradtx.sgd(rate))

    @jax.jit
    def step(params, state, before):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        seen = value, gradtx.metrics(state)["gradient_norm"], curvature.gradient_cosine(grads, before)
        return gradtx.apply_updates(params, updates), state, grads, seen

    state, grads = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    history, points = [], []
    for _ in range(steps):
        points += [np.asarray(params)] if keep_points else []
        params, state, grads, seen = step(params, state, grads)
        history.append(seen)
    return Run(*np.asarray(jax.device_get(history)).T, np.asarray(points))


def verdict(run, end, rate):
    """What the steps before ``end`` show, in words, with the numbers that say so."""
    columns = {"loss": run.losses, "gradient_norm": run.gradient_norms, "gradient_cosine": run.cosines}
    history = {name: column[:end] for name, column in columns.items()}
    found = curvature.stuck(history, learning_rate=rate, window=WINDOW)
    evidence = ", ".join(f"{row.statistic} {row.value:.3g}" for row in found.evidence)
    return f"{WORDS.get(found.verdict, found.verdict)}: {found.reason}; {evidence}"


def valley(point):
    return 0.5 * jnp.sum(CURVATURES * point**2)


def network_loss():
    """The squared error of a network with one hidden layer on all digits, and its first parameters."""
    digits = sklearn.datasets.load_digits()
    images = np.float32(digits.images.reshape(-1, 64) / 16)
    targets = np.eye(10, dtype=np.float32)[digits.target]

    def loss(params):
        hidden = jnp.tanh(images @ params["in"]["kernel"] + params["in"]["bias"])
        outputs = hidden @ params["out"]["kernel"] + params["out"]["bias"]
        return jnp.mean(jnp.sum((outputs - targets) ** 2, axis=1))

    return loss


def first_params(seed):
    for_in, for_out = jax.random.split(jax.random.key(seed))
    return {
        "in": {"kernel": jax.random.normal(for_in, (64, 32)) / 8, "bias": jnp.zeros(32)},
        "out": {"kernel": jax.random.normal(for_out, (32, 10)) / 6, "bias": jnp.zeros(10)},
    }


def cut_at(rate, step):
    """``rate``, a schedule, until ``step``; then its last value divided."""
    after = schedules.constant_schedule(float(rate(step)) / CUT)
    return schedules.join_schedules([rate, after], [step])


def draw(path, runs, ends):
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained", width_ratios=(1, 1, 1))
    for row, (name, run) in enumerate(runs.items()):
        end = ends[name]
        for column, (values, label) in enumerate(((run.losses, "loss"), (run.gradient_norms, "gradient norm")), 1):
            panel = axes[row, column]
            panel.semilogy(values, linewidth=1.2)
            panel.axvline(end, color="black", linewidth=0.8, linestyle="--")
            panel.set(xlabel="step", ylabel=f"{label} ({name})")
            panel.grid(alpha=0.3)
            panel.annotate(f"rate / {CUT}", (end, panel.get_ylim()[0]), (-4, 4), textcoords="offset points", ha="right")
    axes[0, 1].set_title("The loss looks as if it had arrived ...")
    axes[0, 2].set_title("... but the gradient is not small")
    end, points = ends["valley"], runs["valley"].points
    x, y = np.meshgrid(np.linspace(-0.1, 1.1, 100), np.linspace(-1.2, 1.2, 100))
    axes[0, 0].contour(x, y, 0.5 * (CURVATURES[0] * x**2 + CURVATURES[1] * y**2), 12, colors="0.75", linewidths=0.8)
    axes[0, 0].plot(*points[: end + 1].T, color="C3", marker="o", markersize=2, linewidth=0.6, label="until then")
    axes[0, 0].plot(*points[end:].T, color="C2", marker="o", markersize=2, linewidth=1.5, label=f"rate / {CUT}")
    axes[0, 0].plot(0, 0, "k*", markersize=12)
    axes[0, 0].set(xlabel="parameter 1", ylabel="parameter 2", title="The valley: from wall to wall")
    axes[0, 0].legend(loc="lower right")
    axes[1, 0].plot(np.arange(1, len(runs["network"].cosines)), runs["network"].cosines[1:], linewidth=0.8)
    axes[1, 0].axvline(ends["network"], color="black", linewidth=0.8, linestyle="--")
    axes[1, 0].set(
        xlabel="step", ylabel="cosine of successive gradients (network)", ylim=(-1.05, 1.05),
        title="Each gradient takes back the one before",
    )  # fmt: skip
    axes[1, 0].grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of the network's first parameters")
    parser.add_argument("--out", type=Path, default=Path("runs/stuck"), help="folder of the drawing (runs/stuck)")
    parser.add_argument("--short", action="store_true", help="fewer steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    ends = {"valley": 120, "network": 350 if options.short else 500}
    constant = schedules.constant_schedule(VALLEY_RATE)
    rising = schedules.linear_schedule(NETWORK_RATE / WARM_UP, NETWORK_RATE, WARM_UP)
    runs = {
        "valley": train(
            valley, jnp.array([1.0, 1.0]), cut_at(constant, ends["valley"]), ends["valley"] + 60, keep_points=True
        ),
        "network": train(
            network_loss(), first_params(options.seed), cut_at(rising, ends["network"]), ends["network"] + 150
        ),
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "stuck.png"
    draw(drawing, runs, ends)
    print(f"2 runs in {time.perf_counter() - began:.1f} s, {drawing}")
    rates = {"valley": VALLEY_RATE, "network": NETWORK_RATE}
    for name, run in runs.items():
        end = ends[name]
        print(f"{name}: {verdict(run, end, rates[name])}")
        print(
            f"{'':{len(name)}}  after the rate was cut the loss went from {run.losses[end]:.4f} to {run.losses[-1]:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
