"""A small decoder-only transformer that writes text letter by letter, in nnx, with gradtx and with Optax.

    python examples/flax/transformer.py                the help texts that Python itself ships
    python examples/flax/transformer.py --data FILE    any text in UTF-8, such as the works of Shakespeare

Source: Vaswani et al. 2017 (arXiv:1706.03762), with normalization before each part (Xiong et al. 2020,
arXiv:2002.04745), by layers of ``gradtx.norm``. The last tenth of the text is held out; accuracy is the fraction of its
letters that the model finds likeliest.
"""

import itertools
import sys

import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import losses, norm, schedules

try:
    import optax
    import side_by_side
    from flax import nnx
except ImportError as error:
    sys.exit(f"transformer.py: {error.name} is missing; write pip install gradtx[examples]")

WIDTH, HEADS, BLOCKS = 96, 4, 2
CONTEXT = 64  # letters that the model sees
TESTED = 250  # held-out windows
RATE, DECAY, MAX_NORM = 3e-3, 0.1, 1.0
WARM_UP = 0.1  # fraction of all steps in which the learning rate rises; then a half cosine down to 0


def normalization():
    return norm.nnx_module(norm.layer_norm(), (1, CONTEXT, WIDTH))


class Block(nnx.Module):
    """Each letter looks at those before it, then two dense layers think about it."""

    def __init__(self, rngs):
        self.before_attention, self.before_dense = normalization(), normalization()
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.widen = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x, mask):
        x = x + self.attention(self.before_attention(x), mask=mask)
        return x + self.narrow(nnx.gelu(self.widen(self.before_dense(x))))


class Transformer(nnx.Module):
    """Letters' numbers [n, context] to logits of the next ones [n, context, letters]."""

    def __init__(self, letters, rngs):
        self.letters = nnx.Embed(letters, WIDTH, rngs=rngs)
        self.places = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
        self.normalization = normalization()
        self.head = nnx.Linear(WIDTH, letters, rngs=rngs)

    def __call__(self, letters):
        x = self.letters(letters) + self.places(jnp.arange(letters.shape[1]))
        mask = nnx.make_causal_mask(letters)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.normalization(x))


def loss(model, batch):
    logits, following = model(batch[:, :-1]), batch[:, 1:]
    value = jnp.mean(losses.softmax_cross_entropy(logits, following))
    return value, {"accuracy": jnp.mean(jnp.argmax(logits, -1) == following)}


def python_help():
    from pydoc_data import topics

    return "\n\n".join(topics.topics.values())


def text(path):
    """What is read, and its name."""
    if path is None:
        return "Python's help texts", python_help()
    try:
        return path.name, path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise side_by_side.DataError(f"{path}: cannot be read as text in UTF-8 ({error})") from None


def numbered(path):
    """The name of a text, its letters as numbers, for training and held out, and how many different ones there are."""
    name, content = text(path)
    codes = np.frombuffer(content.encode("utf-32-le"), np.uint32)
    letters, numbers = np.unique(codes, return_inverse=True)
    cut = len(numbers) * 9 // 10
    if len(numbers) - cut <= CONTEXT:
        raise side_by_side.DataError(f"{name}: expected at least {10 * (CONTEXT + 1)} letters, got {len(numbers)}")
    return name, np.int32(numbers[:cut]), np.int32(numbers[cut:]), len(letters)


def windows(letters, starts):
    """``CONTEXT`` letters and the one after, from each start."""
    return letters[starts[:, None] + np.arange(CONTEXT + 1)]


def make_trials(options):
    name, data, held_out, different = numbered(options.data)
    test = windows(held_out, np.linspace(0, len(held_out) - CONTEXT - 1, TESTED).astype(int))
    random = np.random.default_rng([options.seed, 1])
    starts = (random.integers(len(data) - CONTEXT, size=options.batch_size) for _ in itertools.count())

    warm_up = int(WARM_UP * options.steps)
    ours = gradtx.chain(
        gradtx.clip_by_global_norm(MAX_NORM),
        gradtx.adamw(schedules.warmup_cosine_decay_schedule(0.0, RATE, warm_up, options.steps), weight_decay=DECAY),
    )
    theirs = optax.chain(
        optax.clip_by_global_norm(MAX_NORM),
        optax.adamw(optax.warmup_cosine_decay_schedule(0.0, RATE, warm_up, options.steps), weight_decay=DECAY),
    )
    model = Transformer(different, nnx.Rngs(options.seed))
    return [
        side_by_side.Trial(
            "Transformer", "nnx", "AdamW, clipped, warm-up, cosine", name, "letter",
            side_by_side.nnx_sides(loss, model, ours, theirs, watched=True),
            (windows(data, chosen) for chosen in starts), options.batch_size,
            side_by_side.size(nnx.state(model, nnx.Param)), side_by_side.nnx_evaluation(loss, test),
        )
    ]  # fmt: skip


def main(arguments=None):
    return side_by_side.show(
        "transformer", __doc__, make_trials, arguments, steps=400, short_steps=20, batch_size=32,
        data="file with a text, instead of Python's help",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
