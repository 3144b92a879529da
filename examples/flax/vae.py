"""A variational autoencoder of handwritten digits, written in linen and in nnx, each with gradtx and with Optax.

    python examples/flax/vae.py                        the 1,797 images of 8x8 pixels that scikit-learn ships
    python examples/flax/vae.py --data FOLDER          MNIST, or any four IDX files named like it, gzip or not

Source: Kingma and Welling 2014 (arXiv:1312.6114). The loss is minus the bound of its equation 10 with one draw, for
pixels that are Bernoulli variables. The normal noise comes with the batch and both models begin with the same numbers,
so the curves of linen and nnx are the same too.
"""

import sys

import jax
import jax.numpy as jnp

import gradtx
from gradtx import losses

try:
    import flax.linen as nn
    import optax
    import side_by_side
    from flax import nnx
except ImportError as error:
    sys.exit(f"vae.py: {error.name} is missing; write pip install gradtx[examples]")

HIDDEN, LATENTS = 256, 16
RATE = 1e-3


def bound(logits, mean, log_variance, image):
    """Minus the lower bound of the log-likelihood: reconstruction, and divergence from the prior; nats per image."""
    reconstruction = jnp.sum(losses.sigmoid_binary_cross_entropy(logits, image), -1)
    divergence = -0.5 * jnp.sum(1 + log_variance - mean**2 - jnp.exp(log_variance), -1)
    return jnp.mean(reconstruction + divergence), {"divergence": jnp.mean(divergence)}


class Linen(nn.Module):
    """Images [n, pixels] and noise [n, latents] to logits of the pixels, mean and log variance of the latents."""

    pixels: int

    def setup(self):
        self.look = nn.Dense(HIDDEN)
        self.mean = nn.Dense(LATENTS)
        self.log_variance = nn.Dense(LATENTS)
        self.imagine = nn.Dense(HIDDEN)
        self.paint = nn.Dense(self.pixels)

    def __call__(self, x, noise):
        seen = nn.relu(self.look(x))
        mean, log_variance = self.mean(seen), self.log_variance(seen)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        return self.paint(nn.relu(self.imagine(latents))), mean, log_variance


class NNX(nnx.Module):
    """The same, with the same names."""

    def __init__(self, pixels, rngs):
        self.look = nnx.Linear(pixels, HIDDEN, rngs=rngs)
        self.mean = nnx.Linear(HIDDEN, LATENTS, rngs=rngs)
        self.log_variance = nnx.Linear(HIDDEN, LATENTS, rngs=rngs)
        self.imagine = nnx.Linear(LATENTS, HIDDEN, rngs=rngs)
        self.paint = nnx.Linear(HIDDEN, pixels, rngs=rngs)

    def __call__(self, x, noise):
        seen = nnx.relu(self.look(x))
        mean, log_variance = self.mean(seen), self.log_variance(seen)
        latents = mean + jnp.exp(0.5 * log_variance) * noise
        return self.paint(nnx.relu(self.imagine(latents))), mean, log_variance


def with_noise(key, batch):
    return {**batch, "noise": jax.random.normal(key, (len(batch["image"]), LATENTS))}


def make_trials(options):
    name, *parts = side_by_side.digits(options.data)
    data, held_out = ({"image": part["image"].reshape(len(part["image"]), -1)} for part in parts)
    held_out = with_noise(jax.random.key(0), held_out)
    pixels = data["image"].shape[1]

    linen = Linen(pixels)
    start = (data["image"][:1], jnp.zeros((1, LATENTS)))
    params = jax.jit(linen.init)(jax.random.key(options.seed), *start)["params"]
    model = NNX(pixels, nnx.Rngs(0))
    nnx.update(model, params)

    def linen_loss(params, model_state, batch, key):
        value, metrics = bound(*linen.apply({"params": params}, batch["image"], batch["noise"]), batch["image"])
        return value, (model_state, metrics)

    def nnx_loss(model, batch):
        return bound(*model(batch["image"], batch["noise"]), batch["image"])

    ours, theirs = gradtx.adam(RATE), optax.adam(RATE)
    sides = {
        "linen": (
            side_by_side.linen_sides(linen_loss, params, {}, ours, theirs),
            side_by_side.linen_evaluation(linen_loss, held_out),
        ),
        "nnx": (
            side_by_side.nnx_sides(nnx_loss, model, ours, theirs, watched=True),
            side_by_side.nnx_evaluation(nnx_loss, held_out),
        ),
    }
    return [
        side_by_side.Trial(
            "VAE", api, "Adam", name, "image", of_api, side_by_side.shuffled(data, options, transform=with_noise),
            options.batch_size, side_by_side.size(params), evaluate,
        )
        for api, (of_api, evaluate) in sides.items()
    ]  # fmt: skip


def main(arguments=None):
    return side_by_side.show(
        "vae", __doc__, make_trials, arguments, steps=2000, short_steps=100, batch_size=64,
        data="folder with four IDX files, instead of the bundled digits",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
