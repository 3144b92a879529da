"""Trains one network with small and with large batches, and shows what the batch size decides.

    python examples/batch_size.py                      the 1,797 images of 8x8 pixels that scikit-learn ships

Every run makes as many passes over the images, with the same learning rate. Prints time, gradient noise and losses for
each batch size and draws them into runs/batch_size/batch_size.png (see --out).
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import losses, training

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
    import sklearn.model_selection
    from matplotlib import ticker
except ImportError as error:
    sys.exit(f"batch_size.py: {error.name} is missing; write pip install gradtx[examples]")

BATCH_SIZES, SHORT_BATCH_SIZES = (4, 16, 64, 256, 1000), (16, 128, 1000)
TRAINING = 1000  # images to learn from; the rest is held out
WIDTH = 64
RATE = 0.1


def init(key):
    """The parameters of a network with two hidden layers, and no state."""
    widths = [64, WIDTH, WIDTH, 10]
    keys = jax.random.split(key, len(widths) - 1)
    layers = [
        {"kernel": jax.random.normal(key, (inside, outside)) * np.sqrt(2 / inside), "bias": jnp.zeros(outside)}
        for key, inside, outside in zip(keys, widths, widths[1:], strict=False)
    ]
    return layers, None


def loss(params, batch):
    x = batch["image"]
    for depth, layer in enumerate(params):
        x = jax.nn.relu(x) if depth else x
        x = x @ layer["kernel"] + layer["bias"]
    return jnp.mean(losses.softmax_cross_entropy(x, batch["label"]))


def digits():
    """Training and held-out images and labels."""
    bundle = sklearn.datasets.load_digits()
    data = {"image": np.float32(bundle.data / 16), "label": np.int32(bundle.target)}
    for_training, held_out = sklearn.model_selection.train_test_split(
        np.arange(len(bundle.target)), train_size=TRAINING, random_state=0, stratify=bundle.target
    )
    return tuple({name: values[rows] for name, values in data.items()} for rows in (for_training, held_out))


def draw(path, rows, epochs):
    figure, ((seconds, noise), (final, gap)) = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    sizes = np.array([row.batch_size for row in rows])
    seconds.loglog(sizes, [1000 * row.seconds_per_update for row in rows], marker="o", label="one update")
    seconds.loglog(sizes, [1000 * row.seconds_per_epoch for row in rows], marker="s", label="one epoch")
    seconds.set(ylabel="time (milliseconds)", title="An update costs more, an epoch less")
    seconds.legend()

    measured = np.array([row.gradient_variance for row in rows])
    noise.loglog(sizes[measured > 1e-9], measured[measured > 1e-9], "o", markersize=8, label="measured")
    line = np.geomspace(sizes[0], 0.98 * TRAINING, 200)
    one = measured[0] * sizes[0] * (TRAINING - 1) / (TRAINING - sizes[0])
    noise.loglog(line, one / line, color="black", linewidth=0.8, linestyle="--", label="one over the batch size")
    expected = one / line * (TRAINING - line) / (TRAINING - 1)
    noise.loglog(line, expected, color="C0", linewidth=1, label=f"out of {TRAINING:,}, without putting back")
    noise.set(ylabel="variance of the batch's gradient", title="The gradient gets quieter")
    noise.legend()

    for values, spreads, name in (
        ([row.training_loss for row in rows], [row.training_spread for row in rows], "training"),
        ([row.test_loss for row in rows], [row.test_spread for row in rows], "held out"),
    ):
        final.errorbar(sizes, values, spreads, marker="o", capsize=3, label=name)
    final.set(xscale="log", yscale="log", ylabel="loss (nats per image)")
    final.set_title(f"After {epochs} epochs: fewer updates, less learned")
    final.legend()
    gap.plot(sizes, [row.gap for row in rows], marker="o", color="C3")
    gap.set(xscale="log", ylabel="held-out minus training loss (nats per image)", title="The gap")
    for axes in (seconds, noise, final, gap):
        axes.set_xlabel("batch size (examples per update)")
        axes.xaxis.set_major_locator(ticker.FixedLocator(sizes))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training images (20)")
    parser.add_argument("--seed", type=int, default=0, help="the first of three seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/batch_size"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="one seed and few epochs, to see that all of it runs")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    epochs, seeds = (min(options.epochs, 4), 1) if options.short else (options.epochs, 3)
    began = time.perf_counter()
    data, held_out = digits()
    rows = training.compare_batch_sizes(
        training.from_plain(loss),
        gradtx.sgd(RATE),
        init,
        data,
        held_out,
        batch_sizes=SHORT_BATCH_SIZES if options.short else BATCH_SIZES,
        epochs=epochs,
        seeds=range(options.seed, options.seed + seeds),
    )
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "batch_size.png"
    draw(drawing, rows, epochs)
    print(f"{len(rows) * seeds} runs of {epochs} epochs in {time.perf_counter() - began:.1f} s, {drawing}")
    print(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
