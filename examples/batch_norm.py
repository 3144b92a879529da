"""Shows what normalization does to the error surface and to training, with functional layers in plain JAX.

    python examples/batch_norm.py                      569 tumours, 30 measurements each, that scikit-learn ships

The measurements are of very different scale: areas in the hundreds beside concavities of a tenth. The drawing in
runs/batch_norm/batch_norm.png (see --out) shows the loss over two weights before and after feature normalization, and
how a small network learns from raw and from normalized measurements, with batch normalization and without.
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import losses, norm, training

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
    import sklearn.model_selection
except ImportError as error:
    sys.exit(f"batch_norm.py: {error.name} is missing; write pip install gradtx[examples]")

CLASSES, WIDTHS = 2, (32,) * 8
SPLIT_SEED = 0  # which fifth is held out; --seed does not change it
BATCH_SIZE = 64
MOMENTUM = 0.9
RATES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
SHORT_RATES = (1e-3, 1e-1)
TWO = ("mean texture", "perimeter error")  # the features of the two weights
PATH_STEPS = 40

# What is drawn: are the features normalized, is there batch normalization.
VARIANTS = {
    "raw features": (False, False),
    "raw features, batch normalization": (False, True),
    "normalized features": (True, False),
    "normalized features, batch normalization": (True, True),
}
BATCH_NORM = norm.batch_norm()


def tumours():
    """Training and held-out measurements and labels, four fifths and one, each class in proportion; feature names."""
    bundle = sklearn.datasets.load_breast_cancer()
    data = {"features": np.float32(bundle.data), "label": np.int32(bundle.target)}
    for_training, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(bundle.target)), test_size=0.2, random_state=SPLIT_SEED, stratify=bundle.target
    )
    parts = [{name: values[rows] for name, values in data.items()} for rows in (for_training, held_out)]
    return *parts, list(bundle.feature_names)


# ---------------------------------------------------------------------------------------------------------------------
# A network of dense layers, each with batch normalization before it or not.


def init_network(key, features, normalized):
    """Parameters, and the running statistics of the batch normalizations."""
    params, states = [], []
    widths = [features, *WIDTHS, CLASSES]
    for inside, outside in itertools.pairwise(widths):
        key, own = jax.random.split(key)
        layer = {"kernel": jax.random.normal(own, (inside, outside)) * np.sqrt(2 / inside), "bias": jnp.zeros(outside)}
        if normalized:
            layer["norm"], state = BATCH_NORM.init((BATCH_SIZE, inside))
            states.append(state)
        params.append(layer)
    return params, states


def network(params, states, x, train):
    """Logits, and the new running statistics."""
    changed = []
    for depth, layer in enumerate(params):
        if "norm" in layer:
            x, state = BATCH_NORM.apply(layer["norm"], states[depth], x, train)
            changed.append(state)
        if depth:
            x = jax.nn.relu(x)
        x = x @ layer["kernel"] + layer["bias"]
    return x, changed


def make_loss(train):
    def loss(params, states, batch, key):
        logits, states = network(params, states, batch["features"], train)
        value = jnp.mean(losses.softmax_cross_entropy(logits, batch["label"]))
        return value, (states, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"])})

    return loss


def train(data, test, normalized, options):
    """The training loss of every epoch and the held-out accuracy at the end, for every learning rate."""
    tx = gradtx.tunable(gradtx.sgd, learning_rate=0.0, momentum=MOMENTUM)  # the rate is data: one compilation for all
    step, evaluate = training.make_train_step(make_loss(True), tx), training.make_eval_step(make_loss(False))
    runs = {}
    for rate in options.rates:
        for_params, for_state, for_order = jax.random.split(jax.random.key(options.seed), 3)
        params, states = init_network(for_params, data["features"].shape[1], normalized)
        state = training.create_train_state(params, tx, key=for_state, model_state=states)
        state = state._replace(opt_state=gradtx.set_hyperparameters(state.opt_state, learning_rate=rate))
        history = []
        for batch in training.batches(data, BATCH_SIZE, key=for_order, epochs=options.epochs, drop_last=True):
            state, metrics = step(state, batch)
            history.append(metrics["loss"])
        per_epoch = np.asarray(jax.device_get(history)).reshape(options.epochs, -1).mean(1)
        held_out = training.mean_metrics(evaluate(state, part) for part in training.batches(test, len(test["label"])))
        runs[rate] = per_epoch, float(held_out["accuracy"])
    return runs


def best(runs):
    """The rate with the lowest loss in the last epoch; one that diverged has lost."""
    return min(runs, key=lambda rate: np.nan_to_num(runs[rate][0][-1], nan=np.inf))


# ---------------------------------------------------------------------------------------------------------------------
# The loss over two weights.


def two_weights(features, labels):
    """Logistic regression on two features: the loss over its weights, their best values, and the curvature there."""

    def loss_with_bias(weights):
        margins = (features @ weights[:2] + weights[2]) * (2 * labels - 1)
        return jnp.mean(jax.nn.softplus(-margins))

    newton = jax.jit(lambda w: w - jnp.linalg.solve(jax.hessian(loss_with_bias)(w), jax.grad(loss_with_bias)(w)))
    weights = jnp.zeros(3)
    for _ in range(20):
        weights = newton(weights)
    loss = lambda pair: loss_with_bias(jnp.append(pair, weights[2]))  # noqa: E731
    curvature = np.linalg.eigvalsh(jax.hessian(loss)(weights[:2]))
    return loss, np.asarray(weights[:2]), curvature


def descend(loss, start, rate):
    """The path of gradient descent."""
    path = [jnp.asarray(start)]
    gradient = jax.jit(jax.grad(loss))
    for _ in range(PATH_STEPS):
        path.append(path[-1] - rate * gradient(path[-1]))
    return np.stack(path)


def draw_surface(axes, features, labels, names, title):
    loss, lowest, curvature = two_weights(features, labels)
    reach = 1.3 / np.sqrt(curvature[0])  # the flat direction fills the panel
    start = lowest + reach * np.array([-0.62, 0.62])
    path = descend(loss, start, 1.7 / curvature[-1])
    grid = np.linspace(-reach, reach, 161)
    across, up = np.meshgrid(lowest[0] + grid, lowest[1] + grid)
    heights = jax.jit(jax.vmap(jax.vmap(loss)))(jnp.stack([across, up], -1))
    levels = np.geomspace(1.02, 1.02 * float(np.max(heights)) / float(loss(lowest)), 16) * float(loss(lowest))
    axes.contourf(across, up, heights, levels=[0, *levels], cmap="viridis_r", extend="max")
    axes.contour(across, up, heights, levels=levels, colors="white", linewidths=0.4)
    axes.plot(*path.T, color="black", marker="o", markersize=3, linewidth=1, label=f"{PATH_STEPS} steps of descent")
    axes.plot(*lowest, color="red", marker="*", markersize=13, linestyle="none", label="lowest loss")
    axes.set(
        xlabel=f"weight of {names[0]}", ylabel=f"weight of {names[1]}", aspect="equal",
        xlim=(across.min(), across.max()), ylim=(up.min(), up.max()),
        title=f"{title}: curvatures 1 : {curvature[-1] / curvature[0]:.1f}",
    )  # fmt: skip
    axes.legend(loc="lower left", fontsize=8)


def draw(path, data, names, results):
    """Four panels: two error surfaces, the loss over epochs, and the last loss over learning rates."""
    figure, ((raw, round_), (curves, rates)) = plt.subplots(2, 2, figsize=(12, 10.5), layout="constrained")
    columns = [names.index(name) for name in TWO]
    features = data["features"][:, columns]
    normalized = norm.standardize(features, norm.feature_statistics(features))
    draw_surface(raw, features, data["label"], TWO, "Raw features")
    draw_surface(round_, normalized, data["label"], TWO, "Normalized features")
    for index, (name, runs) in enumerate(results.items()):
        style = {"color": f"C{index}", "linewidth": 1.8}
        rate = best(runs)
        curves.semilogy(np.arange(1, len(runs[rate][0]) + 1), runs[rate][0], label=f"{name}, rate {rate:g}", **style)
        last = [runs[rate][0][-1] for rate in runs]
        rates.loglog(list(runs), np.where(np.isfinite(last), last, np.nan), marker="o", label=name, **style)
    curves.set(xlabel="epoch", ylabel="training loss (nats per example)", title="Training, each at its best rate")
    rates.set(
        xlabel="learning rate (per step)", ylabel="training loss in the last epoch (nats per example)",
        title="Learning rates that work (no point: diverged)",
    )  # fmt: skip
    rates.axhline(np.log(2), color="gray", linewidth=0.8, linestyle="--", label="guessing")
    for axes in (curves, rates):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, help="passes over the training examples (30)")
    parser.add_argument("--seed", type=int, default=0, help="of the first parameters and the order")
    parser.add_argument("--out", type=Path, default=Path("runs/batch_norm"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="few epochs and rates, to see that all of it runs")
    options = parser.parse_args(arguments)
    options.rates = SHORT_RATES if options.short else RATES
    if options.epochs is None:
        options.epochs = 5 if options.short else 30
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    return options


def main(arguments=None):
    options = parse(arguments)
    began = time.perf_counter()
    data, test, names = tumours()
    statistics = norm.feature_statistics(data["features"])  # of the training set, for both
    scaled = [{**part, "features": norm.standardize(part["features"], statistics)} for part in (data, test)]
    results = {}
    for name, (standardized, normalized) in VARIANTS.items():
        results[name] = train(*(scaled if standardized else (data, test)), normalized, options)
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "batch_norm.png"
    draw(drawing, data, names, results)
    print(f"{len(options.rates)} rates, {options.epochs} epochs in {time.perf_counter() - began:.1f} s, {drawing}")
    print(f"{'':42}{'best rate':>10}{'loss':>10}{'held-out accuracy':>20}")
    for name, runs in results.items():
        rate = best(runs)
        print(f"{name:42}{rate:10g}{runs[rate][0][-1]:10.4f}{runs[rate][1]:20.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
