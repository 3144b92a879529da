"""Compares four ways to keep weights small on handwritten digits: what they cost in accuracy, and what becomes zero.

    python examples/regularization.py                  the 1,797 images of 8x8 pixels that scikit-learn ships

A small network is trained with every way at every strength, all networks at once: the strength is a number in the state
of the optimizer, over which ``vmap`` runs. Writes a table, and into runs/regularization/regularization.png (see --out)
the weights that are exactly zero and the accuracy on held-out images against the strength, and the pixels that the
network with L1 looks at. Then removes the units of that network that nothing reads, and trains what is left further.
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
    from matplotlib import ticker
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"regularization.py: {error.name} is missing; write pip install gradtx[examples]")

CLASSES, SIDE, HIDDEN = 10, 8, 64
IMAGES = 300  # for training: with all 1,437 a network of this size has little to gain
BATCH_SIZE = 100
RATE = 1e-2  # at the start; a half cosine takes it to 0
TINY = 1e-3  # weights below it are near zero, which is not zero
KEPT = 0.98  # of the best accuracy: the strongest L1 that keeps it is looked at closer
SPLIT_SEED = 0  # which fifth is held out and which images train; --seed does not change it

# Each is a chain around Adam. Biases are left alone: a leaf that no pattern matches has strength 0.
METHODS = {
    "L2, coupled": lambda strength, rate: gradtx.chain(gradtx.l2_decay({"*/kernel": strength}), gradtx.adam(rate)),
    "decoupled decay": lambda strength, rate: gradtx.adamw(rate, weight_decay={"*/kernel": strength}),
    "L1, coupled": lambda strength, rate: gradtx.chain(gradtx.l1_decay({"*/kernel": strength}), gradtx.adam(rate)),
    "L1, proximal": lambda strength, rate: gradtx.chain(
        gradtx.adam(rate), gradtx.proximal_l1({"*/kernel": strength}, rate)
    ),
}
PROXIMAL = "L1, proximal"


def digits():
    """A few images for training, and the held-out fifth; each class in proportion."""
    bundle = sklearn.datasets.load_digits()
    data = {"image": np.float32(bundle.data / 16), "label": np.int32(bundle.target)}
    for_training, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(bundle.target)), train_size=IMAGES, test_size=0.2, random_state=SPLIT_SEED, stratify=bundle.target
    )
    return [{name: values[rows] for name, values in data.items()} for rows in (for_training, held_out)]


def first_params(key):
    for_hidden, for_output = jax.random.split(key)
    draw = jax.nn.initializers.he_normal()
    return {
        "hidden": {"kernel": draw(for_hidden, (SIDE * SIDE, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "output": {"kernel": draw(for_output, (HIDDEN, CLASSES)), "bias": jnp.zeros(CLASSES)},
    }


def logits_of(params, images):
    hidden = jax.nn.relu(images @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["output"]["kernel"] + params["output"]["bias"]


def loss(params, model_state, batch, key):
    """Without any penalty: the regularizers are parts of the optimizer."""
    del key
    logits = logits_of(params, batch["image"])
    value = jnp.mean(losses.softmax_cross_entropy(logits, jax.nn.one_hot(batch["label"], CLASSES)))
    return value, (model_state, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"])})


def make_optimizer(method, epochs):
    """One whose strength is a number in its state."""
    rate = schedules.cosine_decay_schedule(RATE, epochs * IMAGES // BATCH_SIZE)
    return gradtx.tunable(lambda strength: METHODS[method](strength, rate), strength=0.0)


def train(method, strengths, data, test, options, bar):
    """A network for each strength and seed, all at once: their parameters, and accuracies ``[strengths, seeds]``."""
    tx = make_optimizer(method, options.epochs)
    step = jax.jit(jax.vmap(training.make_train_step(loss, tx), in_axes=(0, None)), donate_argnums=0)

    def start(strength, key):
        for_params, for_state = jax.random.split(key)
        state = training.create_train_state(first_params(for_params), tx, key=for_state)
        return state._replace(opt_state=gradtx.set_hyperparameters(state.opt_state, strength=strength))

    key = jax.random.key(options.seed)
    keys = jnp.tile(jax.random.split(key, options.networks), len(strengths))
    states = jax.vmap(start)(jnp.repeat(jnp.asarray(strengths, jnp.float32), options.networks), keys)
    for batch in training.batches(data, BATCH_SIZE, key=key, epochs=options.epochs):
        states, _ = step(states, batch)
        bar.update()
    evaluate = training.make_eval_step(loss)
    accuracy = jax.vmap(evaluate, in_axes=(0, None))(states, test)["accuracy"]
    by_strength = (len(strengths), options.networks)
    params = jax.tree.map(lambda leaf: np.asarray(leaf).reshape(*by_strength, *leaf.shape[1:]), states.params)
    return params, np.asarray(accuracy).reshape(by_strength)


def kernels_of(params):
    return {name: layer["kernel"] for name, layer in params.items()}


def shares(params, strengths, networks):
    """The shares of the kernel weights that are zero, and that are below ``TINY``, for each strength."""
    found = np.zeros((2, len(strengths), networks))
    for index in np.ndindex(found.shape[1:]):
        kernels = kernels_of(jax.tree.map(lambda leaf, at=index: leaf[at], params))
        weights = np.concatenate([kernel.ravel() for kernel in kernels.values()])
        found[:, *index] = training.sparsity(kernels).total.fraction, np.mean(np.abs(weights) < TINY)
    return found.mean(axis=2)


def prune(params, data, test, options):
    """Without the units that nothing reads, the zeros held: accuracy before, after the cut, after some more epochs."""
    small = training.remove_units(params, written={"hidden/*": -1}, read={"output/kernel": -2})
    tx = gradtx.chain(gradtx.adam(RATE / 10), gradtx.masked(gradtx.keep_zeros(), "*/kernel"))
    step, evaluate = training.make_train_step(loss, tx), training.make_eval_step(loss)
    state = training.create_train_state(small, tx, key=jax.random.key(options.seed))
    cut = evaluate(state, test)["accuracy"]
    order = training.batches(data, BATCH_SIZE, key=jax.random.key(options.seed), epochs=max(options.epochs // 10, 1))
    for batch in order:
        state, _ = step(state, batch)
    return state.params, float(cut), float(evaluate(state, test)["accuracy"])


def draw(path, strengths, results, chosen, pixels):
    """Three panels: zeros and accuracy against the strength, and how many weights each pixel has left."""
    figure, (zero, accuracy, image) = plt.subplots(
        1, 3, figsize=(15, 4.6), layout="constrained", width_ratios=(4, 4, 3)
    )
    for number, (method, (zeros, near, correct)) in enumerate(results.items()):
        style = {"color": f"C{number}", "marker": "osv^"[number], "markersize": 5}
        zero.plot(strengths, 100 * zeros, **style)
        if method == "L1, coupled":
            zero.plot(strengths, 100 * near, color=style["color"], linestyle="--", label=f"{method}: below {TINY:g}")
        accuracy.plot(strengths, 100 * correct.mean(axis=1), **style, label=method)
        accuracy.fill_between(
            strengths, 100 * correct.min(axis=1), 100 * correct.max(axis=1), color=f"C{number}", alpha=0.12, linewidth=0
        )
    for axes in (zero, accuracy):
        axes.set_xscale("log")
        axes.set_xlabel("strength")
        axes.axvline(strengths[chosen], color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(ticker.LogLocator(numticks=20))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    zero.set(title="Weights that are exactly zero", ylabel="share of kernel weights (%)", ylim=(-3, 103))
    zero.legend(loc="center left", bbox_to_anchor=(0.02, 0.35))
    zero.annotate(
        "the strongest\nthat keeps 98 %\nof the best\naccuracy", (strengths[chosen], 50), (5, 0),
        textcoords="offset points", va="center", fontsize=9,
    )  # fmt: skip
    best = max(100 * correct.mean(axis=1).max() for _, _, correct in results.values())
    accuracy.set(
        title="Accuracy on images never trained on", ylabel="correct (%), mean and range", ylim=(best - 20, best + 2)
    )
    accuracy.legend(loc="lower left")
    colors = plt.get_cmap("viridis").with_extremes(bad="lightgray")
    shown = image.imshow(np.ma.masked_equal(pixels, 0), cmap=colors, vmin=0)
    image.set(
        title=f"What {PROXIMAL}, strength {strengths[chosen]:.2g}, looks at",
        xlabel="column of pixels (gray: not read at all)", ylabel="row of pixels",
    )  # fmt: skip
    figure.colorbar(shown, ax=image, label=f"weights of a pixel, of {HIDDEN}, that are not zero", shrink=0.85)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def print_table(strengths, results):
    print(f"{'':9}" + "".join(f"{method:>19}" for method in results))
    print(f"{'strength':9}" + f"{'zero':>11}{'correct':>8}" * len(results))
    for index, strength in enumerate(strengths):
        cells = (f"{zeros[index]:11.1%}{correct[index].mean():8.1%}" for zeros, _, correct in results.values())
        print(f"{strength:<9.2g}" + "".join(cells))


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, help=f"passes over {IMAGES} training images (200)")
    parser.add_argument("--networks", type=int, help="networks for each point, from different first parameters (3)")
    parser.add_argument("--seed", type=int, default=0, help="of the first parameters and the order of the images")
    parser.add_argument("--out", type=Path, default=Path("runs/regularization"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="few strengths and epochs, to see that all of it runs")
    options = parser.parse_args(arguments)
    options.epochs = options.epochs or (30 if options.short else 200)
    options.networks = options.networks or (1 if options.short else 3)
    for name in ("epochs", "networks"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(options, name)}")
    return options


def main(arguments=None):
    options = parse(arguments)
    began = time.perf_counter()
    strengths = np.logspace(-4, 1, 6 if options.short else 16)
    try:
        data, test = digits()
        steps = len(METHODS) * options.epochs * IMAGES // BATCH_SIZE
        results, params = {}, {}
        with tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
            for method in METHODS:
                bar.set_postfix_str(method)
                params[method], correct = train(method, strengths, data, test, options, bar)
                results[method] = (*shares(params[method], strengths, options.networks), correct)
        means = results[PROXIMAL][2].mean(axis=1)
        chosen = int(np.flatnonzero(means >= KEPT * means.max())[-1])
        sparse = jax.tree.map(lambda leaf: jnp.asarray(leaf[chosen, 0]), params[PROXIMAL])
        rows = training.sparsity(kernels_of(sparse))
        small, cut, trained = prune(sparse, data, test, options)
        options.out.mkdir(parents=True, exist_ok=True)
        drawing = options.out / "regularization.png"
        pixels = np.count_nonzero(np.asarray(sparse["hidden"]["kernel"]), axis=1).reshape(SIDE, SIDE)
        draw(drawing, strengths, results, chosen, pixels)
    except (OSError, gradtx.errors.GradtxError) as error:
        print(f"regularization.py: {error}", file=sys.stderr)
        return 2
    networks = len(METHODS) * len(strengths) * options.networks
    print(f"{networks} networks, {options.epochs} epochs each, in {time.perf_counter() - began:.1f} s, {drawing}")
    print_table(strengths, results)
    print(f"\n{PROXIMAL}, strength {strengths[chosen]:.2g}, the first network:\n{rows}")
    left = training.sparsity(kernels_of(small)).total
    print(f"units that nothing reads removed: {left.weights:,} of {rows.total.weights:,} weights, accuracy {cut:.4f}")
    print(f"trained on with its {left.zeros:,} zeros held: accuracy {trained:.4f}")
    print(f"test accuracy {trained:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
