"""Two convolutional networks on handwritten digits, in linen: the one of Flax's MNIST example, and a small ResNet.

    python examples/flax/convnet.py                    the 1,797 images of 8x8 pixels that scikit-learn ships
    python examples/flax/convnet.py --data FOLDER      MNIST, or any four IDX files named like it, gzip or not

Each is trained by ``gradtx.training`` and by Flax's train state with Optax. The ResNet normalizes batches with a layer
of ``gradtx.norm``; its running statistics go through both steps.
"""

import sys

import jax
import jax.numpy as jnp

import gradtx
from gradtx import losses, norm, schedules

try:
    import flax.linen as nn
    import optax
    import side_by_side
except ImportError as error:
    sys.exit(f"convnet.py: {error.name} is missing; write pip install gradtx[examples]")

CLASSES = 10
WIDTHS = (16, 32)  # channels of the ResNet's stages
RATE, MOMENTUM = 0.1, 0.9  # of the ConvNet, as in Flax's example
HIGHEST, DECAY = 3e-3, 1e-2  # learning rate and weight decay of the ResNet
WARM_UP = 0.1  # fraction of all steps in which the ResNet's rate rises; then a half cosine down to 0


class ConvNet(nn.Module):
    """Two convolutions and two dense layers; images [n, side, side, 1] to logits [n, 10]."""

    @nn.compact
    def __call__(self, x, train):
        for width in (32, 64):
            x = nn.avg_pool(nn.relu(nn.Conv(width, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES)(x)


class Block(nn.Module):
    """Two convolutions, each with batch normalization, and a way around them."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x, train):
        def normalized(y):
            return norm.linen_module(norm.batch_norm(decay=0.9))(y, train)

        y = nn.relu(normalized(nn.Conv(self.width, (3, 3), self.stride, use_bias=False)(x)))
        y = normalized(nn.Conv(self.width, (3, 3), use_bias=False)(y))
        if x.shape != y.shape:
            x = normalized(nn.Conv(self.width, (1, 1), self.stride, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A convolution, two residual blocks, the mean over all places; images [n, side, side, 1] to logits [n, 10]."""

    @nn.compact
    def __call__(self, x, train):
        stride = 2 if x.shape[1] > 16 else 1  # all of 28x28 would take four times as long
        x = nn.Conv(WIDTHS[0], (3, 3), stride, use_bias=False)(x)
        x = nn.relu(norm.linen_module(norm.batch_norm(decay=0.9))(x, train))
        for depth, width in enumerate(WIDTHS):
            x = Block(width, 2 if depth else 1)(x, train)
        return nn.Dense(CLASSES)(jnp.mean(x, (1, 2)))


def make_loss(model, train):
    def loss(params, model_state, batch, key):
        variables = {"params": params, **model_state}
        logits, changed = model.apply(variables, batch["image"], train=train, mutable=list(model_state))
        value = jnp.mean(losses.softmax_cross_entropy(logits, batch["label"]))
        return value, (changed, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == batch["label"])})

    return loss


def optimizers(steps):
    """For each model: the method in words, gradtx's, Optax's."""
    warm_up = int(WARM_UP * steps)
    ours = schedules.warmup_cosine_decay_schedule(0.0, HIGHEST, warm_up, steps)
    theirs = optax.warmup_cosine_decay_schedule(0.0, HIGHEST, warm_up, steps)
    return {
        ConvNet: (
            "SGD with momentum",
            gradtx.sgd(RATE, momentum=MOMENTUM),
            optax.sgd(RATE, momentum=MOMENTUM),
        ),
        ResNet: (
            "AdamW, warm-up, cosine",
            gradtx.adamw(ours, weight_decay=DECAY),
            optax.adamw(theirs, weight_decay=DECAY),
        ),
    }


def make_trials(options):
    name, data, held_out = side_by_side.digits(options.data)
    trials = []
    for kind, (method, ours, theirs) in optimizers(options.steps).items():
        model = kind()
        initialize = jax.jit(lambda key, model=model: model.init(key, data["image"][:1], train=False))
        model_state = dict(initialize(jax.random.key(options.seed)))
        params = model_state.pop("params")
        watched = kind is ConvNet
        trials.append(
            side_by_side.Trial(
                kind.__name__, "linen", method, name, "image",
                side_by_side.linen_sides(make_loss(model, True), params, model_state, ours, theirs, watched=watched),
                side_by_side.shuffled(data, options), options.batch_size, side_by_side.size(params),
                side_by_side.linen_evaluation(make_loss(model, False), held_out),
            )
        )  # fmt: skip
    return trials


def main(arguments=None):
    return side_by_side.show(
        "convnet", __doc__, make_trials, arguments, steps=500, short_steps=40, batch_size=64,
        data="folder with four IDX files, instead of the bundled digits",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
