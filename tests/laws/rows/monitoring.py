"""Measures of one's own: functions, and ones with a memory, of ours and foreign; complex leaves as pairs of real."""

import math

import jax.numpy as jnp

import gradtx
from gradtx import errors
from tests.laws.unit import Bad, Unit

LARGEST = (
    lambda params: jnp.zeros((), jnp.float32),
    lambda updates, state, params=None: 2 * (jnp.maximum(state, gradtx.global_norm(updates, ord=math.inf)),),
)
AVERAGE = gradtx.measure_with_ema(gradtx.global_norm, 0.9)

ROWS = (
    Unit("monitor", gradtx.monitor,
         {"measures": {"norm": gradtx.global_norm, "average": AVERAGE, "largest": LARGEST}},
         bad=(Bad({"measures": [gradtx.global_norm]}, errors.ArgumentTypeError, "a measure has no name"),
              Bad({"measures": {"norm": 1.0}}, errors.ArgumentTypeError, "'norm': float 1.0"),
              Bad({"measures": {0: gradtx.global_norm}}, errors.ArgumentTypeError, "names"),
              Bad({"measures": {"loss": gradtx.global_norm}}, errors.SelectionError, "'loss_here'"))),
    Unit("snapshot", gradtx.snapshot, {"measure_name": "norm", "measure": gradtx.global_norm},
         bad=(Bad({"measure_name": "examples"}, errors.SelectionError, "'examples_here'"),)),
    Unit("split_real_and_imaginary", gradtx.split_real_and_imaginary, {"inner": gradtx.rprop(0.1)}, sign=True),
)  # fmt: skip
