"""Escape from saddles.

The loss bends down equally in all directions, so that a Krylov subspace is closed after one step, the first step of a
search is far enough whatever the gradients are, and no rounding decides; ``tests/curvature`` has losses of all kinds.
"""

import jax
import jax.numpy as jnp

from gradtx import curvature, errors
from tests.laws.trees import SHAPES
from tests.laws.unit import Bad, Unit, of_wrong_kind, out_of_range

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
         bad=(*KEY, out_of_range(threshold=-1.0), out_of_range(radius=-0.5), out_of_range(wait=-1),
              of_wrong_kind(wait=1.5))),
    Unit("escape_saddles", curvature.escape_saddles, {"key": 0, "patience": 1}, real=True,
         signals={"value": 1.0, "grad": FLAT, "value_fn": hill},
         bad=(*KEY, out_of_range(patience=0), out_of_range(krylov_dim=0), out_of_range(step_size=0.0),
              out_of_range(curvature_threshold=-1.0), out_of_range(gradient_threshold=-1.0), out_of_range(rtol=-1.0))),
    Unit("scale_by_saddle_free_newton", curvature.scale_by_saddle_free_newton, {"krylov_dim": 3}, real=True,
         signals={"value_fn": hill},
         bad=(out_of_range(krylov_dim=0), out_of_range(damping=0.0), of_wrong_kind(damping="0.1"))),
    Unit("scale_by_newton_cg", curvature.scale_by_newton_cg, {"key": 0, "krylov_dim": 3}, real=True,
         signals={"value_fn": hill},
         bad=(*KEY, out_of_range(krylov_dim=0), out_of_range(curvature_threshold=0.0),
              out_of_range(gradient_threshold=-1.0))),
)  # fmt: skip
