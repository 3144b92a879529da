"""Combinators and storage: what they are made of is what the other rows test."""

import jax.numpy as jnp

import gradtx
from gradtx import errors
from tests.laws.unit import Unit, of_wrong_kind, out_of_range


def half_life(decay: errors.Decay = 0.5) -> gradtx.GradientTransformation:
    """A user's own composition, without the decorator."""
    return gradtx.chain(gradtx.ema(decay), gradtx.scale(0.5))


def foreign() -> gradtx.GradientTransformation:
    """A user's own pair of functions, without a record."""
    return gradtx.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))


ROWS = (
    # The two averages of "s", a leaf of one element, end at a fortieth of what they are sums of.
    Unit("chain", gradtx.chain, {}, (gradtx.clip_by_global_norm(1.0), gradtx.ema(0.5), gradtx.ema(0.5)), magnifies=40),
    Unit("chain with a foreign part", gradtx.chain, positional=(gradtx.ema(0.5), foreign(), gradtx.scale(2.0))),
    Unit("chain of nothing", gradtx.chain),
    Unit("named_chain", gradtx.named_chain, positional=(("mean", gradtx.ema(0.5)), ("step", gradtx.sgd(0.1)))),
    Unit("ratio", gradtx.ratio, {"eps": 1e-6},
         (gradtx.ema(0.5), gradtx.chain(gradtx.mean_square(), gradtx.square_root()))),
    Unit("ratio over a whole tree", gradtx.ratio, {"eps": 1e-6},
         (gradtx.clip_by_global_norm(1.0), gradtx.chain(gradtx.mean_square(), gradtx.square_root()))),
    Unit("partition", gradtx.partition, {},
         ({"a": gradtx.adam(1e-3), "b": gradtx.sgd(0.1, 0.9)}, lambda path, leaf: "a" if path == "w" else "b")),
    Unit("partition of whole trees", gradtx.partition, {},
         ({"a": gradtx.clip_by_global_norm(1.0), "b": gradtx.ema(0.9)}, lambda path, leaf: "ba"[path == "w"])),
    Unit("only", gradtx.only, {"where": "[!s]*"}, (gradtx.adam(1e-3),)),
    Unit("only, a whole tree", gradtx.only, {"where": lambda path, leaf: path != "s"},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9)),)),
    Unit("freeze", gradtx.freeze, {"where": lambda path, leaf: path == "s"}),
    Unit("masked", gradtx.masked, {"mask": lambda path, leaf: path == "w"}, (gradtx.ema(0.9),)),
    Unit("tunable", gradtx.tunable, {"learning_rate": 1e-3, "weight_decay": lambda step: 0.1}, (gradtx.adamw,)),
    Unit("tunable over a whole tree", gradtx.tunable, {"max_norm": 1.0}, (gradtx.clip_by_global_norm,)),
    Unit("tunable, a user's own", gradtx.tunable, {"decay": 0.5}, (half_life,)),
    Unit("a schedule", gradtx.adam, {"learning_rate": lambda step: 1e-3 / (1.0 + step), "b1": lambda step: 0.9}),
    Unit("stored in bfloat16", gradtx.storage.stored, {}, (gradtx.adamw(1e-3), gradtx.storage.cast(jnp.bfloat16)),
         real=True, kept=jnp.bfloat16),
    Unit("stored, stochastic", gradtx.storage.stored, {},
         (gradtx.adam(1e-3), gradtx.storage.cast(jnp.bfloat16, rounding="stochastic")), real=True, kept=jnp.bfloat16),
    Unit("stored, a whole tree", gradtx.storage.stored, {},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9)), gradtx.storage.cast("float16")),
         real=True, kept=jnp.float16),
    Unit("stored in 8 bits", gradtx.storage.stored, {}, (gradtx.adamw(1e-3), gradtx.storage.quantized()), real=True,
         kept=(jnp.int8, jnp.float32)),
    Unit("master weights", gradtx.storage.master_weights, {}, (gradtx.adamw(1e-3),),
         kept=(jnp.float16, jnp.float32)),
    Unit("master weights of 8 bits more", gradtx.storage.master_weights, {"bits": 8}, (gradtx.sgd(0.1, 0.9),),
         kept=(jnp.float16, jnp.float32)),
    Unit("offloaded", gradtx.storage.offloaded, {}, (gradtx.adamw(1e-3),)),
    Unit("packed", gradtx.storage.packed, {}, (gradtx.adamw(1e-3),),
         bad=(out_of_range(below=0), of_wrong_kind(below=1.5))),
)  # fmt: skip
