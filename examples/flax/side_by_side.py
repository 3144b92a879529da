"""Trains a model of Flax once with gradtx and once with Optax, in turns, and shows both: a table, pictures, a JSON row.

Every side starts from the same parameters and sees the same batches. Before each step the sides change places, so that
none of them always finds the caches as another one left them; the first steps, which compile, are not timed.

How far two curves of one method may be apart is measured by a yardstick: Optax beside Optax, with the last bit of every
first parameter changed.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flax.training.train_state
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from tqdm import tqdm

import gradtx
from gradtx import training

sys.path.append(str(Path(__file__).parents[1]))  # the data of the other examples

from idx import DataError, idx_digits

OURS, THEIRS, WATCHED, NUDGED = "gradtx", "Optax", "gradtx, watched", "Optax, last bits changed"
COMPILING = 2  # the first steps, which are not timed
EARLY = 20  # steps after which roundings have hardly grown yet
EVALUATED = 500  # examples of a batch in evaluation
SMOOTH = 15  # steps of the running median in the pictures


class Side(NamedTuple):
    """``step(state, batch) -> (state, metrics)``, and the state before the first step."""

    state: Any
    step: Callable[[Any, Any], tuple[Any, dict[str, Any]]]


class Trial(NamedTuple):
    """A model that every side trains."""

    model: str
    api: str
    method: str
    """The optimizer, in words."""
    data: str
    unit: str
    """What the loss is a mean over."""
    sides: dict[str, Side]
    batches: Iterator[Any]
    """As many as there are steps, or more."""
    examples: int
    """In a batch."""
    parameters: int
    evaluate: Callable[[Any], dict[str, Any]]
    """``loss`` and, if there is one, ``accuracy`` on held-out data, from the state of a side."""


class Found(NamedTuple):
    """By side: each metric of every step, held-out metrics, and examples per second."""

    curves: dict[str, dict[str, np.ndarray]]
    held_out: dict[str, dict[str, float]]
    rates: dict[str, float]


# ---------------------------------------------------------------------------------------------------------------------
# Sides.


class LinenState(flax.training.train_state.TrainState):
    """Flax's own train state, with the variables that are not trained."""

    model_state: Any


def linen_sides(loss, params, model_state, ours, theirs, *, watched=False):
    """A step of ``gradtx.training``, and one written out as in Flax's examples; ``loss`` has the form of the former."""
    sides = {}
    for name, tx in {OURS: ours, **({WATCHED: gradtx.watch(ours, per_leaf=True)} if watched else {})}.items():
        state = training.create_train_state(params, tx, key=jax.random.key(0), model_state=model_state)
        sides[name] = Side(state, training.make_train_step(loss, tx))

    def step(state, batch):
        key = jax.random.key(0)  # no loss here draws from it
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (value, (changed, metrics)), grads = value_and_grad(state.params, state.model_state, batch, key)
        return state.apply_gradients(grads=grads, model_state=changed), {"loss": value, **metrics}

    compiled = jax.jit(step, donate_argnums=0)
    for name, first in {THEIRS: params, NUDGED: nudged(params)}.items():
        own, own_state = jax.tree.map(jnp.copy, (first, model_state))  # the step takes their memory
        state = LinenState.create(apply_fn=loss, params=own, tx=theirs, model_state=own_state)
        sides[name] = Side(state, compiled)
    return sides


def nnx_sides(loss, model, ours, theirs, *, watched=False):
    """``flax.nnx.Optimizer`` on every side: only the transformation in it differs.

    ``loss(model, batch) -> (scalar, metrics)``. The state is the pair of model and optimizer, which a step changes.
    """

    @nnx.jit
    def compiled(model, optimizer, batch):
        (value, metrics), grads = nnx.value_and_grad(loss, has_aux=True)(model, batch)
        optimizer.update(model, grads)
        return {"loss": value, **metrics, **gradtx.metrics(nnx.as_pure(optimizer.opt_state))}

    def step(state, batch):
        return state, compiled(*state, batch)

    transformations = {OURS: ours, THEIRS: theirs, NUDGED: theirs}
    if watched:
        transformations[WATCHED] = gradtx.watch(ours, per_leaf=True)
    sides = {}
    for name, tx in transformations.items():
        own = nnx.clone(model)
        if name == NUDGED:
            nnx.update(own, nudged(nnx.state(own, nnx.Param)))
        sides[name] = Side((own, nnx.Optimizer(own, tx, wrt=nnx.Param)), step)
    return sides


def nudged(params):
    """The next larger numbers."""
    return jax.tree.map(lambda leaf: jnp.nextafter(leaf, jnp.full_like(leaf, jnp.inf)), params)


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def linen_evaluation(loss, data):
    """From either state of Linen's sides: the means of ``loss`` and its metrics over ``data``."""
    compiled = jax.jit(loss)

    def evaluate(state):
        def metrics(batch):
            value, (_, found) = compiled(state.params, state.model_state, batch, jax.random.key(0))
            return {"loss": value, **found}

        return mean(metrics, data)

    return evaluate


def nnx_evaluation(loss, data):
    """The same of a pair of model and optimizer."""
    compiled = nnx.jit(loss)

    def evaluate(state):
        model, _ = state

        def metrics(batch):
            value, found = compiled(model, batch)
            return {"loss": value, **found}

        return mean(metrics, data)

    return evaluate


def mean(metrics, data):
    """Of ``metrics(batch)``, over all batches of ``data``."""

    def counted(batch):
        return {**metrics(batch), "examples": len(jax.tree.leaves(batch)[0])}

    found = training.mean_metrics(map(counted, training.batches(data, EVALUATED)))
    return {name: value for name, value in found.items() if name != "examples"}


# ---------------------------------------------------------------------------------------------------------------------
# Data.


def digits(folder):
    """Training and held-out images [n, side, side, 1] and labels, and what they are called."""
    if folder is None:
        from digits import bundled_digits

        name, parts = "scikit-learn's digits", bundled_digits()
    else:
        name, parts = folder.name, idx_digits(folder)
    return name, *({"image": part["image"][..., None], "label": part["label"]} for part in parts)


def shuffled(data, options, **given):
    """Batches without end, a new order every epoch."""
    key = jax.random.key(options.seed + 1)  # the first parameters are drawn from the seed itself
    return training.batches(data, options.batch_size, key=key, epochs=None, drop_last=True, **given)


# ---------------------------------------------------------------------------------------------------------------------
# Runs.


def run(trial, steps):
    """Trains every side, a step of each in turn."""
    names = list(trial.sides)
    states = {name: side.state for name, side in trial.sides.items()}
    metrics, seconds = {name: [] for name in names}, {name: [] for name in names}
    order = itertools.islice(trial.batches, steps)
    with tqdm(order, desc=f"{trial.model}, {trial.api}", total=steps, unit="step", dynamic_ncols=True) as bar:
        for number, batch in enumerate(bar):
            batch = jax.block_until_ready(jax.device_put(batch))
            first = number % len(names)
            for name in names[first:] + names[:first]:
                began = time.perf_counter()
                states[name], seen = trial.sides[name].step(states[name], batch)
                jax.block_until_ready(seen)
                seconds[name].append(time.perf_counter() - began)
                metrics[name].append(seen)
    curves, held_out, rates = {}, {}, {}
    for name in names:
        got = jax.device_get(metrics[name])
        curves[name] = {key: np.asarray([seen[key] for seen in got], np.float64) for key in got[0]}
        held_out[name] = {key: float(value) for key, value in trial.evaluate(states[name]).items()}
        rates[name] = trial.examples / statistics.median(seconds[name][COMPILING:] or seconds[name])
    return Found(curves, held_out, rates)


def differences(found, side=OURS):
    """Of the loss curves of a side and of Optax, at every step."""
    return np.abs(found.curves[side]["loss"] - found.curves[THEIRS]["loss"])


def row(trial, found):
    """What a run found, under names that a table can print."""
    apart, yardstick = differences(found), differences(found, NUDGED)
    return {
        "model": trial.model,
        "api": trial.api,
        "optimizer": trial.method,
        "data": trial.data,
        "parameters": trial.parameters,
        "steps": len(apart),
        "batch": trial.examples,
        "unit": trial.unit,
        "sides": {
            name: {
                "loss": found.held_out[name]["loss"],
                "accuracy": found.held_out[name].get("accuracy"),
                "examples_per_second": found.rates[name],
            }
            for name in (OURS, WATCHED, THEIRS)
            if name in trial.sides
        },
        "first_loss": float(found.curves[OURS]["loss"][0]),
        "early_difference": float(apart[:EARLY].max()),
        "largest_difference": float(apart.max()),
        "early_yardstick": float(yardstick[:EARLY].max()),
        "largest_yardstick": float(yardstick.max()),
    }


def report(rows):
    """A line for each side of each model."""
    lines = [f"{'':34}{'held-out loss':>14}{'accuracy':>10}{'examples/s':>12}"]
    for one in rows:
        lines.append(
            f"{one['model']}, {one['api']}, {one['optimizer']}: {one['parameters']:,} parameters, "
            f"{one['steps']} steps of {one['batch']}"
        )
        for name, side in one["sides"].items():
            accuracy = "-" if side["accuracy"] is None else f"{side['accuracy']:.4f}"
            lines.append(f"    {name:30}{side['loss']:14.4f}{accuracy:>10}{side['examples_per_second']:12,.0f}")
        lines.append(
            f"    loss curves differ by at most {one['early_difference']:.1e} in the first {EARLY} steps, "
            f"{one['largest_difference']:.1e} in all"
        )
        lines.append(f"    {NUDGED}, moves its own by {one['early_yardstick']:.1e} and {one['largest_yardstick']:.1e}")
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------------------------------
# Pictures.


def smooth(values):
    """A running median; shorter at both ends."""
    return [np.median(values[max(i - SMOOTH // 2, 0) : i + SMOOTH // 2 + 1]) for i in range(len(values))]


def draw_curves(path, trials, results):
    """A column for each model: both losses on top of each other, and how far they are apart, beside the yardstick."""
    figure, axes = plt.subplots(
        2, len(trials), figsize=(5 * len(trials) + 2, 6.5), height_ratios=(2, 1), sharex="col", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for (above, below), trial, found in zip(axes.T, trials, results, strict=True):
        steps = np.arange(1, len(found.curves[OURS]["loss"]) + 1)
        above.plot(steps, found.curves[OURS]["loss"], color="C0", linewidth=4, alpha=0.45, label=OURS)
        above.plot(steps, found.curves[THEIRS]["loss"], color="black", linewidth=0.8, label=THEIRS)
        above.set(ylabel=f"training loss (nats per {trial.unit})", title=f"{trial.model}, {trial.api}\n{trial.method}")
        above.legend()
        for side, colour, label in ((NUDGED, "0.6", NUDGED), (OURS, "C3", f"{OURS} and {THEIRS}")):
            apart = differences(found, side)
            below.semilogy(steps, np.where(apart > 0, apart, np.nan), ".", markersize=3, color=colour, label=label)
        below.legend(fontsize=8, markerscale=3, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
        below.set(xlabel="step", ylabel="difference (nats)")
        for panel in (above, below):
            panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_watched(path, trial, found, most=9):
    """What ``gradtx.watch`` saw: how much of itself each kernel moves by in a step, and the angle of the whole step."""
    figure, (ratios, angle) = plt.subplots(1, 2, figsize=(13, 4.8), layout="constrained", width_ratios=(3, 2))
    curves = found.curves[WATCHED]
    steps = np.arange(1, len(curves["loss"]) + 1)
    leaves = [name for name in curves if name.startswith("update_ratio/") and np.any(curves[name])]
    kernels = [name for name in leaves if name.endswith(("kernel", "embedding"))]
    chosen = [kernels[i] for i in sorted({*np.linspace(0, len(kernels) - 1, most).round().astype(int)})]
    for index, name in enumerate(chosen):
        colour = plt.get_cmap("viridis")(0.92 * index / max(len(chosen) - 1, 1))
        ratios.semilogy(steps, smooth(curves[name]), color=colour, label=name.removeprefix("update_ratio/"))
    ratios.axhline(1e-3, color="black", linewidth=0.8, linestyle="--", label="a thousandth a step")
    ratios.set(
        xlabel="step", ylabel="length of the step / length of the weights", title=f"{trial.model}: how far layers move"
    )
    ratios.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))  # beside the panel: lines go everywhere in it
    angle.plot(steps, smooth(curves["update_angle"]), color="C1")
    angle.axhline(90, color="black", linewidth=0.8, linestyle="--")
    angle.text(steps[-1], 90, "along the contour line", ha="right", va="bottom")
    angle.set(
        xlabel="step", ylabel="angle to steepest descent (degrees)", ylim=(0, 100),
        title="Where the step goes",
    )  # fmt: skip
    for panel in (ratios, angle):
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# ---------------------------------------------------------------------------------------------------------------------
# The command line.


def parse(name, doc, arguments, steps, short_steps, batch_size, data):
    parser = argparse.ArgumentParser(prog=f"{name}.py", description=doc.partition("\n")[0])
    parser.add_argument("--steps", type=int, help=f"of every side ({steps}; {short_steps} with --short)")
    parser.add_argument("--batch-size", type=int, default=batch_size, help=f"examples per step ({batch_size})")
    parser.add_argument("--seed", type=int, default=0, help="of the first parameters and the order")
    if data is not None:
        parser.add_argument("--data", type=Path, help=data)
    parser.add_argument("--out", type=Path, default=Path("runs/flax") / name, help="folder of the drawings")
    parser.add_argument("--json", type=Path, help="file for a row of numbers of each model")
    parser.add_argument("--short", action="store_true", help="a few steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.steps is None:
        options.steps = short_steps if options.short else steps
    for option in ("steps", "batch_size"):
        if getattr(options, option) < 1:
            parser.error(f"--{option.replace('_', '-')} must be at least 1")
    return options


def show(name, doc, make_trials, arguments, *, steps, short_steps, batch_size, data=None):
    """An example from its command line on; returns the exit status. ``make_trials(options)`` gives its trials."""
    options = parse(name, doc, arguments, steps, short_steps, batch_size, data)
    began = time.perf_counter()
    try:
        trials = make_trials(options)
        results = [run(trial, options.steps) for trial in trials]
    except (DataError, gradtx.errors.GradtxError) as error:
        print(f"{name}.py: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    drawings = [options.out / f"{name}.png"]
    draw_curves(drawings[0], trials, results)
    for trial, found in zip(trials, results, strict=True):
        if WATCHED in found.curves:
            drawings.append(options.out / f"{name}_watched.png")
            draw_watched(drawings[-1], trial, found)
    rows = list(itertools.starmap(row, zip(trials, results, strict=True)))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    print(f"{trials[0].data}, {time.perf_counter() - began:.1f} s, {', '.join(map(str, drawings))}")
    print(report(rows))
    return 0
