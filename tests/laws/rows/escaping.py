"""Escape from saddles.

The loss bends down equally in all directions, so that a Krylov subspace is closed after one step, the first step of a
search is far enough whatever the gradients are, and no rounding decides; ``tests/curvature`` has losses of all kinds.
"""

import jax
import jax.numpy as jnp

from gradtx import curvature, errors
from tests.laws.trees import SHAPES
from tests.laws.unit import Bad, Unit

KEY = (
    Bad({"key": None}, errors.ArgumentTypeError, "write key=0"),
    Bad({"key": 0.5}, errors.ArgumentTypeError, "whole number or a key"),
)
FLAT = {name: jnp.zeros(shape) for name, shape in SHAPES.items()}


def hill(params):
    return -4 * sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


ROWS = (
    Unit("perturb_at_saddles", curvature.perturb_at_saddles,
         {"threshold": 1e-3, "radius": 0.5, "wait": 1, "key": 0}, signals={"grad": FLAT},
         bad=KEY),
    Unit("escape_saddles", curvature.escape_saddles, {"key": 0, "patience": 1}, real=True,
         signals={"value": 1.0, "grad": FLAT, "value_fn": hill},
         bad=KEY),
    Unit("scale_by_saddle_free_newton", curvature.scale_by_saddle_free_newton, {"krylov_dim": 3}, real=True,
         signals={"value_fn": hill}),
    Unit("scale_by_newton_cg", curvature.scale_by_newton_cg, {"key": 0, "krylov_dim": 3}, real=True,
         signals={"value_fn": hill},
         bad=KEY),
)  # fmt: skip
