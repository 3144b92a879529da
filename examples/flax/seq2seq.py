"""Sequence to sequence, in linen: reads "12+345=" letter by letter and writes "357", with gradtx and with Optax.

    python examples/flax/seq2seq.py

Source: Sutskever, Vinyals and Le 2014 (arXiv:1409.3215): one LSTM reads, another begins with what the first one
remembers and writes. Problems are made as they are needed. Those of one fifth of all pairs of numbers are held out; a
held-out answer counts as right if every one of its letters is, written by the decoder from its own letters.
"""

import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np

import gradtx
from gradtx import losses

try:
    import flax.linen as nn
    import optax
    import side_by_side
except ImportError as error:
    sys.exit(f"seq2seq.py: {error.name} is missing; write pip install gradtx[examples]")

LETTERS = " 0123456789+="  # a space fills up, and ends an answer
CODE = {letter: index for index, letter in enumerate(LETTERS)}
LARGEST = 99  # of the two numbers
READ = len(f"{LARGEST}+{LARGEST}=")
WRITTEN = len(str(2 * LARGEST)) + 1
HELD_OUT, TESTED = 5, 1000  # one pair in five is held out, and so many of them are asked
HIDDEN = 128
RATE, MAX_NORM = 3e-3, 1.0


def encoded(texts, length):
    return np.array([[CODE[letter] for letter in text.ljust(length)] for text in texts], np.int32)


def is_held_out(first, second):
    return (first * (LARGEST + 1) + second) * 2654435761 % 2**32 // 2**16 % HELD_OUT == 0


def problems(random, count, held_out=False):
    """Questions [count, READ], filled up, and answers [count, WRITTEN], as letters' numbers."""
    pairs = random.integers(LARGEST + 1, size=(4 * HELD_OUT * count, 2))
    pairs = pairs[is_held_out(*pairs.T) == held_out][:count]
    return {
        "question": encoded([f"{a}+{b}=".rjust(READ) for a, b in pairs], READ),
        "answer": encoded([str(a + b) for a, b in pairs], WRITTEN),
    }


class Seq2Seq(nn.Module):
    """Questions [n, read] and the letters before each of the answer [n, written] to logits [n, written, letters]."""

    @nn.compact
    def __call__(self, question, before):
        question, before = (jax.nn.one_hot(letters, len(LETTERS)) for letters in (question, before))
        remembered, _ = nn.RNN(nn.OptimizedLSTMCell(HIDDEN, name="reader"), return_carry=True)(question)
        written = nn.RNN(nn.OptimizedLSTMCell(HIDDEN, name="writer"))(before, initial_carry=remembered)
        return nn.Dense(len(LETTERS), name="letters")(written)


MODEL = Seq2Seq()


def shifted(answer):
    """The letter before each; ``=`` before the first."""
    return jnp.concatenate([jnp.full_like(answer[:, :1], CODE["="]), answer[:, :-1]], 1)


def loss(params, model_state, batch, key):
    logits = MODEL.apply({"params": params}, batch["question"], shifted(batch["answer"]))
    value = jnp.mean(losses.softmax_cross_entropy(logits, batch["answer"]))
    right = jnp.all(jnp.argmax(logits, -1) == batch["answer"], 1)
    return value, (model_state, {"accuracy": jnp.mean(right)})


def write(params, question):
    """Answers, each letter the likeliest after those already written."""
    answer = jnp.zeros((len(question), WRITTEN), jnp.int32)
    for place in range(WRITTEN):
        logits = MODEL.apply({"params": params}, question, shifted(answer))
        answer = answer.at[:, place].set(jnp.argmax(logits[:, place], -1))
    return answer


def written_loss(params, model_state, batch, key):
    """The loss, and in place of its accuracy that of answers which nobody helps to write."""
    value, (model_state, _) = loss(params, model_state, batch, key)
    right = jnp.all(write(params, batch["question"]) == batch["answer"], 1)
    return value, (model_state, {"accuracy": jnp.mean(right)})


def make_trials(options):
    test = problems(np.random.default_rng(0), TESTED, held_out=True)
    start = test["question"][:1], test["answer"][:1]
    params = jax.jit(MODEL.init)(jax.random.key(options.seed), *start)["params"]
    random = np.random.default_rng([options.seed, 1])
    ours = gradtx.chain(gradtx.clip_by_global_norm(MAX_NORM), gradtx.adam(RATE))
    theirs = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.adam(RATE))
    return [
        side_by_side.Trial(
            "Seq2Seq", "linen", "Adam, clipped", f"sums to {2 * LARGEST}", "letter",
            side_by_side.linen_sides(loss, params, {}, ours, theirs, watched=True),
            (problems(random, options.batch_size) for _ in itertools.count()), options.batch_size,
            side_by_side.size(params), side_by_side.linen_evaluation(written_loss, test),
        )
    ]  # fmt: skip


def main(arguments=None):
    return side_by_side.show(
        "seq2seq", __doc__, make_trials, arguments, steps=2500, short_steps=100, batch_size=128
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
