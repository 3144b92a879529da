"""Carries what a Flax network learned on clear images over to a worse camera, with few images from that.

    python examples/transfer_to_flax.py                the 1,797 images of 8x8 pixels that scikit-learn ships

The network is any ``flax.nnx.Module`` and the trainer is ``flax.nnx.Optimizer``: neither knows of this library. What a
transfer needs is said by the optimizer alone: which layers are frozen, which learn slowly. Draws accuracy against the
number of examples into runs/transfer_to_flax/transfer_to_flax.png (see --out).
"""

import argparse
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import losses

try:
    import matplotlib.pyplot as plt
    import sklearn.datasets
    from flax import nnx
    from matplotlib import ticker
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f"transfer_to_flax.py: {error.name} is missing; write pip install gradtx[examples]")

CLASSES = 10
SHOTS = (10, 20, 50, 100, 200)  # images from the worse camera
SHORT_SHOTS = (10, 50)
TAUGHT, HELD_OUT = 1000, 500  # images to learn from first, and to measure with
CONTRAST, LIGHT, NOISE = 0.5, 0.4, 0.15  # of the worse camera; the clear images are from 0 to 1
RATE = 1e-3
SLOWER = 0.5  # of the layer behind it, is the rate of a layer
STEPS = 150


class Network(nnx.Module):
    """Two convolutions and a dense layer, ``body``; and a dense ``head``. Images [n, 8, 8] to logits [n, 10]."""

    def __init__(self, rngs):
        self.body = nnx.List([
            nnx.Conv(1, 16, (3, 3), rngs=rngs),
            nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs),
            nnx.Linear(32 * 4 * 4, 64, rngs=rngs),
        ])  # fmt: skip
        self.head = nnx.Linear(64, CLASSES, rngs=rngs)

    def __call__(self, images):
        first, second, dense = self.body
        x = nnx.relu(second(nnx.relu(first(images[..., None]))))
        return self.head(nnx.relu(dense(x.reshape(len(x), -1))))


def slower_towards_the_input(params):
    """Adam, with a rate for each layer that falls with its distance from the head."""
    layers = ["body/0/*", "body/1/*", "body/2/*", "head/*"]
    rates = gradtx.by_depth(params, lambda depth, count: SLOWER ** (count - 1 - depth), layers)
    return gradtx.chain(gradtx.adam(RATE), gradtx.per_layer(gradtx.scale, rates))


# Whether to begin with what was learned, and the optimizer for parameters.
WAYS = {
    "from scratch": (False, lambda params: gradtx.adam(RATE)),
    "frozen body": (True, lambda params: gradtx.only(gradtx.adam(10 * RATE), "head/*")),
    "slower towards the input": (True, slower_towards_the_input),
    "all layers alike": (True, lambda params: gradtx.adam(RATE)),
}


@nnx.jit
def train_step(model, optimizer, images, labels):
    def loss(model):
        return jnp.mean(losses.softmax_cross_entropy(model(images), labels))

    optimizer.update(model, nnx.grad(loss)(model))


@nnx.jit
def accuracy(model, images, labels):
    return jnp.mean(jnp.argmax(model(images), -1) == labels)


def shuffled_digits():
    """Images and the digits on them, in a fixed random order."""
    digits = sklearn.datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    return np.float32(digits.images[order] / 16), np.int32(digits.target[order])


def seen_by_the_worse_camera(images):
    noise = np.random.default_rng(1).normal(size=images.shape)
    return np.float32(CONTRAST * images + LIGHT + NOISE * noise)


def learn(model, tx, images, labels, steps, seed, batch_size=64):
    """Trains ``model`` for ``steps`` on batches drawn at random."""
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    random = np.random.default_rng(seed)
    for _ in range(steps):
        rows = random.integers(len(labels), size=batch_size)
        train_step(model, optimizer, images[rows], labels[rows])
    return model


def study(shots, seeds, steps):
    """The accuracy on the worse camera's images, ``{way: [seed, number of images]}``, and with none of them."""
    clear, labels = shuffled_digits()
    worse = seen_by_the_worse_camera(clear)
    taught, new, held_out = slice(TAUGHT), slice(TAUGHT, -HELD_OUT), slice(-HELD_OUT, None)
    found = {way: np.zeros((len(seeds), len(shots))) for way in WAYS}
    before = []
    with tqdm(total=len(seeds) * len(shots) * len(WAYS), unit="run", dynamic_ncols=True) as bar:
        for row, seed in enumerate(seeds):
            fresh = Network(nnx.Rngs(seed))
            able = learn(nnx.clone(fresh), gradtx.adam(RATE), clear[taught], labels[taught], 3 * steps, seed)
            before.append(float(accuracy(able, worse[held_out], labels[held_out])))
            for column, count in enumerate(shots):
                for way, (keeps, make) in WAYS.items():
                    model = nnx.clone(able if keeps else fresh)
                    tx = make(nnx.state(model, nnx.Param))
                    learn(model, tx, worse[new][:count], labels[new][:count], steps, seed)
                    found[way][row, column] = float(accuracy(model, worse[held_out], labels[held_out]))
                    bar.update()
    return found, float(np.mean(before))


def draw(path, shots, found, before):
    figure, axes = plt.subplots(figsize=(8, 5.5), layout="constrained")
    for way, marker in zip(found, "osD^", strict=True):
        mean = found[way].mean(0)
        (line,) = axes.plot(shots, mean, marker=marker, label=way)
        axes.fill_between(shots, found[way].min(0), found[way].max(0), color=line.get_color(), alpha=0.15, linewidth=0)
    axes.axhline(before, color="black", linewidth=0.8, linestyle="--", label="learned on clear images alone")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.FixedLocator(shots))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(
        xlabel="images from the worse camera to learn from",
        ylabel="accuracy on its held-out images (fraction correct)",
        title="Ten digits seen by a worse camera: mean and range over seeds",
        ylim=(0, 1.02),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--out", type=Path, default=Path("runs/transfer_to_flax"), help="folder of the drawing")
    parser.add_argument("--short", action="store_true", help="one seed and few steps, to see that all of it runs")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    shots, seeds, steps = (SHORT_SHOTS, 1, 60) if options.short else (SHOTS, 3, STEPS)
    found, before = study(shots, range(options.seed, options.seed + seeds), steps)
    options.out.mkdir(parents=True, exist_ok=True)
    drawing = options.out / "transfer_to_flax.png"
    draw(drawing, shots, found, before)
    print(f"{len(shots) * len(WAYS) * seeds} runs in {time.perf_counter() - began:.1f} s, {drawing}")
    print(f"accuracy without learning from the worse camera {before:.4f}; by number of its images:")
    print(f"{'':26}" + "".join(f"{count:8}" for count in shots))
    for way, values in found.items():
        print(f"{way:26}" + "".join(f"{value:8.4f}" for value in values.mean(0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
