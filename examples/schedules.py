"""Draws every schedule of the library, and trains with five of them to show what they are for.

    python examples/schedules.py                       the 1,797 images of 8x8 pixels that scikit-learn ships

The first drawing, runs/schedules/schedules.png (see --out), shows all schedules over 1,000 steps. For the second,
schedules_training.png, a classifier with one dense layer is trained in small batches at the same highest learning rate.
With a little weight decay its lowest loss is known, so the drawing can show how far above it each schedule ends: a
constant rate stays where the noise of the batches keeps it, and what decays gets closer.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import losses, schedules, training

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
    import sklearn.model_selection
except ImportError as error:
    sys.exit(f"schedules.py: {error.name} is missing; write pip install gradtx[examples]")

STEPS = 1000  # of the schedules in the first drawing, and a peak of 1
RUN = {"transition_steps": STEPS, "peak_value": 1.0}
CYCLE = {"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 50, "decay_steps": 300}

# What is drawn, by the function that makes it; a panel may hold several.
PANELS = {
    "constant_schedule": {"": schedules.constant_schedule(0.6)},
    "linear_schedule": {"": schedules.linear_schedule(1.0, 0.0, 800, transition_begin=100)},
    "polynomial_schedule": {
        f"power {power:g}": schedules.polynomial_schedule(1.0, 0.0, power, STEPS) for power in (0.5, 2, 4)
    },
    "cosine_decay_schedule": {
        "to 0": schedules.cosine_decay_schedule(1.0, STEPS),
        "to 0.1, exponent 2": schedules.cosine_decay_schedule(1.0, STEPS, alpha=0.1, exponent=2.0),
    },
    "exponential_decay": {
        "smooth": schedules.exponential_decay(1.0, 250, 0.4),
        "staircase": schedules.exponential_decay(1.0, 250, 0.4, staircase=True),
    },
    "step_decay": {"": schedules.step_decay(1.0, 300, 0.3)},
    "inverse_time_decay": {"": schedules.inverse_time_decay(1.0, 100)},
    "inverse_sqrt_decay": {"": schedules.inverse_sqrt_decay(1.0, 100)},
    "piecewise_constant_schedule": {"": schedules.piecewise_constant_schedule(1.0, {300: 0.5, 600: 0.2, 900: 0.2})},
    "piecewise_interpolate_schedule": {
        kind: schedules.piecewise_interpolate_schedule(kind, 0.2, {200: 5.0, 500: 0.4, 1000: 0.25})
        for kind in ("linear", "cosine")
    },
    "linear_onecycle_schedule": {"": schedules.linear_onecycle_schedule(**RUN)},
    "cosine_onecycle_schedule": {"": schedules.cosine_onecycle_schedule(**RUN)},
    "linear_warmup": {
        ", before step_decay": schedules.linear_warmup(schedules.step_decay(1.0, 300, 0.3), 200),
    },
    "warmup_constant_schedule": {"": schedules.warmup_constant_schedule(0.0, 1.0, 200)},
    "warmup_cosine_decay_schedule": {"": schedules.warmup_cosine_decay_schedule(0.0, 1.0, 200, STEPS)},
    "warmup_exponential_decay_schedule": {
        "": schedules.warmup_exponential_decay_schedule(0.0, 1.0, 200, 250, 0.4, transition_begin=100)
    },
    "warmup_inverse_sqrt_schedule": {"": schedules.warmup_inverse_sqrt_schedule(1.0, 200)},
    "warmup_stable_decay_schedule": {
        shape: schedules.warmup_stable_decay_schedule(0.0, 1.0, 100, 500, STEPS, shape=shape)
        for shape in ("linear", "cosine", "1-sqrt")
    },
    "cosine_restarts_schedule": {", growth 2": schedules.cosine_restarts_schedule(1.0, 143, growth=2)},
    "sgdr_schedule": {
        "": schedules.sgdr_schedule([{**CYCLE, "peak_value": peak} for peak in (1.0, 0.6, 0.3)]),
    },
    "join_schedules": {
        "": schedules.join_schedules(
            [schedules.linear_schedule(0.0, 0.8, 300), schedules.cosine_decay_schedule(1.0, 700)], [300]
        )
    },
}

CLASSES, PIXELS = 10, 64
BATCH_SIZE = 16
RATE = 0.25  # highest of all
STRENGTH = 0.01  # of the weight decay, which makes the lowest loss a number that is reached
WINDOW = 25  # steps that are averaged to one point of the second drawing; an epoch has 89
SPLIT_SEED = 0  # which fifth is held out; --seed does not change it


def rates(steps, per_epoch):
    """The schedules that are trained with, for this number of steps."""
    return {
        "constant": schedules.constant_schedule(RATE),
        "steps": schedules.step_decay(RATE, steps // 3 + 1, 0.2),
        "warm-up and cosine": schedules.warmup_cosine_decay_schedule(0.0, RATE, steps // 20, steps),
        "warm-up, stable, decay": schedules.warmup_stable_decay_schedule(0.0, RATE, steps // 20, steps // 2, steps),
        "on plateaus": gradtx.reduce_on_plateau(0.4, patience=2, rtol=0.01, accumulation_size=per_epoch),
    }


def make_optimizer(rate):
    """Gradient descent by a schedule, or by a constant rate times what the loss says."""
    if isinstance(rate, gradtx.GradientTransformation):
        return gradtx.chain(gradtx.sgd(RATE), rate)
    return gradtx.chain(gradtx.sgd(rate))


def digits():
    """Training and test images as rows of 64 pixels, four fifths and one, each class in proportion."""
    bundle = sklearn.datasets.load_digits()
    data = {"image": np.float32(bundle.data / 16), "label": np.int32(bundle.target)}
    for_training, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(bundle.target)), test_size=0.2, random_state=SPLIT_SEED, stratify=bundle.target
    )
    return [{name: values[rows] for name, values in data.items()} for rows in (for_training, held_out)]


def logits_of(params, batch):
    return batch["image"] @ params["kernel"] + params["bias"]


def loss(params, batch):
    """Cross entropy and half the squared weights: convex."""
    entropy = jnp.mean(losses.softmax_cross_entropy(logits_of(params, batch), jax.nn.one_hot(batch["label"], CLASSES)))
    return entropy + 0.5 * STRENGTH * sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(params))


def first_params():
    return {"kernel": jnp.zeros((PIXELS, CLASSES)), "bias": jnp.zeros(CLASSES)}


def lowest_loss(params, data):
    """By 3,000 steps with all images, from parameters that are close."""
    tx = gradtx.sgd(RATE, momentum=0.9, nesterov=True)

    def step(run, _):
        params, state = run
        updates, state = tx.update(jax.grad(loss)(params, data), state, params)
        return (gradtx.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda params: jax.lax.scan(step, (params, tx.init(params)), length=3000))(params)
    return float(loss(params, data))


def train(rate, data, options):
    """The rate of every step and the loss of all training images after it, and the parameters at the end."""
    tx = make_optimizer(rate)
    step = training.make_train_step(training.from_plain(loss), tx)
    order = training.batches(data, BATCH_SIZE, key=jax.random.key(options.seed), epochs=options.epochs, drop_last=True)

    def advance(state, batch):
        plateau = state.opt_state.get("reduce_on_plateau")
        now = rate(state.step) if plateau is None else RATE * plateau.scale
        state, _ = step(state, batch)
        return state, (now, loss(state.params, data))

    state = training.create_train_state(first_params(), tx, key=jax.random.key(options.seed))
    state, seen = jax.jit(lambda *run: jax.lax.scan(advance, *run))(
        state, jax.tree.map(lambda *steps: np.stack(steps), *order)
    )
    return np.asarray(seen, np.float64), state.params


def draw_all(path):
    """A panel for each function that makes schedules."""
    figure, grid = plt.subplots(
        -(-len(PANELS) // 3), 3, figsize=(10, 11), sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (name, drawn) in zip(grid.flat, PANELS.items(), strict=True):
        schedules.plot_schedule(drawn, STEPS, axes=axes)
        only = next(iter(drawn)) if len(drawn) == 1 else ""
        axes.set_title(f"{name}{only}", fontsize=9)
        axes.set(xlabel="", ylabel="", xlim=(0, STEPS), ylim=(-0.05, 1.1), yticks=(0, 0.5, 1))
        axes.grid(alpha=0.3)
        if axes.get_legend():
            axes.legend(fontsize=7)
    figure.supxlabel("step")
    figure.supylabel("value")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_training(path, results, lowest):
    """The rate over steps, and below it how far the loss is above the lowest one."""
    figure, (above, below) = plt.subplots(
        2, 1, figsize=(8.5, 8), sharex=True, height_ratios=(1, 1.6), layout="constrained"
    )
    for name, ((rate, values), _) in results.items():
        above.plot(rate, linewidth=1.6)
        smooth = np.convolve(values - lowest, np.full(WINDOW, 1 / WINDOW), "valid")
        below.semilogy(np.arange(len(smooth)) + WINDOW / 2, smooth, linewidth=1.6, label=name)
    above.set(ylabel="learning rate (per step)", title="Learning rate", ylim=(0, None))
    below.set(
        xlabel="step", ylabel="loss above the lowest one (nats per image)",
        title=f"Loss of all training images, mean of {WINDOW} steps",
    )  # fmt: skip
    below.legend()
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="passes over the training images (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images")
    parser.add_argument("--out", type=Path, default=Path("runs/schedules"), help="folder of the drawings")
    parser.add_argument("--short", action="store_true", help="fewer epochs, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.epochs is None:
        options.epochs = 12 if options.short else 20
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    return options


def main(arguments=None):
    options = parse(arguments)
    began = time.perf_counter()
    data, test = digits()
    per_epoch = training.batches_per_epoch(data, BATCH_SIZE, drop_last=True)
    results = {}
    for name, rate in rates(options.epochs * per_epoch, per_epoch).items():
        results[name] = train(rate, data, options)
    lowest = lowest_loss(results["warm-up and cosine"][1], data)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        draw_all(options.out / "schedules.png")
        draw_training(options.out / "schedules_training.png", results, lowest)
    except OSError as error:
        print(f"schedules.py: {error}", file=sys.stderr)
        return 2
    print(schedules.render_schedule(PANELS["warmup_cosine_decay_schedule"][""], STEPS, width=60, height=7))
    print(f"{len(PANELS)} functions, {options.epochs} epochs in {time.perf_counter() - began:.1f} s, {options.out}")
    print(f"{'':24}{'loss above the lowest':>24}{'test accuracy':>16}")
    for name, ((_, values), params) in results.items():
        accuracy = np.mean(np.argmax(logits_of(params, test), -1) == test["label"])
        print(f"{name:24}{values[-WINDOW:].mean() - lowest:24.5f}{accuracy:16.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
