"""Trains a small convolutional network on handwritten digits, with clipping, a schedule and an optimizer composed.

    python examples/digits.py                          the 1,797 images of 8x8 pixels that scikit-learn ships
    python examples/digits.py --data FOLDER            MNIST, or any four IDX files named like it, gzip or not

Draws loss, accuracy, learning rate and gradient norm into runs/digits/digits.png (see --out) and prints the accuracy on
images that it never trained on. They are looked at, epoch by epoch, but nothing in the run is chosen by them.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from idx import DataError, idx_digits

import gradtx
from gradtx import losses, schedules, training

try:
    import flax.linen as nn
    import matplotlib.pyplot as plt
    import sklearn.datasets
    import sklearn.model_selection
    from matplotlib import ticker
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"digits.py: {error.name} is missing; write pip install gradtx[examples]")

CLASSES = 10
WIDTHS = (32, 64, 128)  # channels of the three convolutions
DROPOUT = 0.3
SMOOTHING = 0.1  # label smoothing: weight given evenly to all classes, so that no logit has to grow for ever
STRETCH = 0.15  # entries of the random linear map of an image: rotates by up to 9 degrees, scales by up to 15 %
SHIFT = 1 / 8  # random shift, in image sides: one pixel of eight
SPLIT_SEED = 0  # which fifth of the bundled digits is held out; --seed does not change it
WARM_UP = 0.1  # fraction of all steps in which the learning rate rises; then a half cosine down to 0
MAX_NORM = 1.0  # gradients longer than this are shortened to it

# A recipe, and the highest learning rate of its schedule.
OPTIMIZERS = {
    "sgd": (gradtx.sgd, 0.1),
    "momentum": (lambda rate: gradtx.sgd(rate, momentum=0.9, nesterov=True), 0.03),
    "adagrad": (gradtx.adagrad, 0.03),
    "rmsprop": (gradtx.rmsprop, 1e-3),
    "adam": (gradtx.adam, 3e-3),
    "adamw": (lambda rate: gradtx.adamw(rate, weight_decay=0.05, mask="*/kernel"), 3e-3),  # biases do not decay
    "amsgrad": (gradtx.amsgrad, 3e-3),
}


class ConvNet(nn.Module):
    """Three convolutions with batch normalization, then one dense layer; images [n, side, side] to logits [n, 10].

    ``axis_name`` is the axis of devices over which statistics of the batch are taken together.
    """

    dropout: float = DROPOUT
    axis_name: str | None = None
    activation: Callable = nn.relu

    @nn.compact
    def __call__(self, images, train):
        x = images[..., None]
        for depth, width in enumerate(WIDTHS):
            # All of 28x28 would take four times as long as every second row and column.
            stride = 2 if depth == 0 and x.shape[1] > 16 else 1
            x = nn.Conv(width, (3, 3), strides=stride, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9, axis_name=self.axis_name)(x)
            x = self.activation(x)
            if depth == 1:
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(len(x), -1)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(CLASSES)(x)


def make_loss(model, train):
    """The loss in the form of ``gradtx.training``: the model state is the batch normalization's running statistics."""

    def loss(params, batch_stats, batch, key):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, changed = model.apply(variables, batch["image"], train, mutable=["batch_stats"], rngs={"dropout": key})
        labels = (1 - SMOOTHING) * jax.nn.one_hot(batch["label"], CLASSES) + SMOOTHING / CLASSES
        value = jnp.mean(losses.softmax_cross_entropy(logits, labels))
        accuracy = jnp.mean(jnp.argmax(logits, -1) == batch["label"])
        return value, (changed["batch_stats"], {"accuracy": accuracy})

    return loss


@jax.jit
def distort(key, batch):
    """Moves, turns and stretches every image a little, at random, with bilinear interpolation."""
    images = batch["image"]
    count, side, _ = images.shape
    for_map, for_shift = jax.random.split(key)
    maps = jnp.eye(2) + jax.random.uniform(for_map, (count, 2, 2), minval=-STRETCH, maxval=STRETCH)
    shifts = side * jax.random.uniform(for_shift, (count, 2, 1, 1), minval=-SHIFT, maxval=SHIFT)
    middle = (side - 1) / 2
    sources = jnp.einsum("nij,jyx->niyx", maps, jnp.indices((side, side)) - middle) + shifts + middle
    moved = jax.vmap(lambda image, at: jax.scipy.ndimage.map_coordinates(image, list(at), order=1))(images, sources)
    return {**batch, "image": moved}


def bundled_digits():
    """Training and test images and labels: scikit-learn's digits in four fifths and one, each class in proportion."""
    digits = sklearn.datasets.load_digits()
    data = {"image": np.float32(digits.images / 16), "label": np.int32(digits.target)}
    for_training, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(digits.target)), test_size=0.2, random_state=SPLIT_SEED, stratify=digits.target
    )
    return {k: v[for_training] for k, v in data.items()}, {k: v[held_out] for k, v in data.items()}


def train(data, test, options):
    """Trains for ``options.epochs``; returns a row of curves per step, one per epoch, and the number of parameters."""
    model = ConvNet()
    for_params, for_state, for_order = jax.random.split(jax.random.key(options.seed), 3)
    variables = jax.jit(model.init, static_argnums=2)(for_params, data["image"][:1], False)

    # A last short batch would compile the step a second time; another epoch leaves out other images.
    per_epoch = training.batches_per_epoch(data, options.batch_size, drop_last=True)
    steps = options.epochs * per_epoch
    recipe, usual_rate = OPTIMIZERS[options.optimizer]
    rate = usual_rate if options.learning_rate is None else options.learning_rate
    schedule = schedules.warmup_cosine_decay_schedule(0.0, rate, int(WARM_UP * steps), steps)
    tx = gradtx.chain(gradtx.clip_by_global_norm(MAX_NORM), recipe(schedule))

    state = training.create_train_state(variables["params"], tx, key=for_state, model_state=variables["batch_stats"])
    step = training.make_train_step(make_loss(model, train=True), tx, gradient_norm=True)
    eval_step = training.make_eval_step(make_loss(model, train=False))

    history, epochs = [], []
    order = training.batches(
        data, options.batch_size, key=for_order, epochs=options.epochs, drop_last=True, transform=distort
    )
    with tqdm(order, total=steps, unit="step", dynamic_ncols=True) as bar:
        for batch in bar:
            state, metrics = step(state, batch)
            history.append(metrics)
            if len(history) % per_epoch == 0:
                seen = training.mean_metrics(history[-per_epoch:])
                held_out = training.mean_metrics(eval_step(state, part) for part in training.batches(test, 360))
                epochs.append((seen, held_out))
                bar.set_postfix(
                    loss=f"{seen['loss']:.3f}", accuracy=f"{seen['accuracy']:.4f}", rate=f"{schedule(len(history)):.1e}"
                )
    rates = np.asarray(schedule(np.arange(steps)))
    norms = np.asarray(jax.device_get([metrics["gradient_norm"] for metrics in history]))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    return epochs, rates, norms, parameters


def draw(path, epochs, rates, norms):
    """Four panels: loss and accuracy over epochs, learning rate and gradient norm over steps."""
    figure, ((loss, accuracy), (rate, norm)) = plt.subplots(2, 2, figsize=(11, 7.5), layout="constrained")
    numbers = np.arange(1, len(epochs) + 1)
    for axes, name, unit in ((loss, "loss", "nats per image"), (accuracy, "accuracy", "fraction correct")):
        axes.plot(numbers, [seen[name] for seen, _ in epochs], label="training, distorted images")
        axes.plot(numbers, [held_out[name] for _, held_out in epochs], label="held out")
        axes.set(xlabel="epoch", ylabel=f"{name} ({unit})")
        axes.legend()
    rate.plot(rates)
    rate.set(xlabel="step", ylabel="learning rate (per step)")
    norm.semilogy(norms, linewidth=0.8)
    norm.axhline(MAX_NORM, color="black", linewidth=0.8, linestyle="--", label="longer ones are clipped to this")
    norm.set(xlabel="step", ylabel="gradient norm (nats per unit)")
    norm.legend()
    norm.yaxis.set_major_formatter("{x:g}")
    norm.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    norm.minorticks_off()
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy"), (rate, "Learning rate"), (norm, "Gradient norm")):
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--epochs", type=int, help="passes over the training images (40; 3 with --data)")
    parser.add_argument("--batch-size", type=int, help="images per step (64; 128 with --data)")
    parser.add_argument("--learning-rate", type=float, help="at its highest (by default the optimizer's usual one)")
    parser.add_argument("--seed", type=int, default=0, help="of the first parameters, the order and the distortions")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder of the drawing (runs/digits)")
    parser.add_argument("--data", type=Path, help="folder with four IDX files, instead of the bundled digits")
    parser.add_argument("--short", action="store_true", help="a few epochs, to see that all of it runs")
    options = parser.parse_args(arguments)
    epochs, short_epochs, batch_size = (40, 5, 64) if options.data is None else (3, 1, 128)
    if options.epochs is None:
        options.epochs = short_epochs if options.short else epochs
    if options.batch_size is None:
        options.batch_size = batch_size
    return options


def main(arguments=None):
    options = parse(arguments)
    began = time.perf_counter()
    try:
        data, test = bundled_digits() if options.data is None else idx_digits(options.data)
        epochs, rates, norms, parameters = train(data, test, options)
    except (DataError, gradtx.errors.GradtxError) as error:
        print(f"digits.py: {error}", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "digits.png"
    draw(drawing, epochs, rates, norms)
    seen, held_out = epochs[-1]
    seconds = time.perf_counter() - began
    print(f"{options.optimizer}, {parameters:,} parameters, {len(epochs)} epochs in {seconds:.1f} s, {drawing}")
    print(f"{'':10}{'images':>8}{'loss':>8}{'accuracy':>10}")
    for name, images, metrics in (("training", data, seen), ("held out", test, held_out)):
        print(f"{name:10}{len(images['label']):8,}{metrics['loss']:8.4f}{metrics['accuracy']:10.4f}")
    print(f"test accuracy {held_out['accuracy']:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
