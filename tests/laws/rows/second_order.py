"""Line searches and methods with an estimate of the Hessian.

The loss of the searches is linear, with a slope along every direction that no rounding turns, so that no decision of a
search is near; ``tests/transforms/test_line_search.py`` has losses of all kinds.
"""

import jax
import jax.numpy as jnp

import gradtx
from tests.laws.unit import LikeUpdates, Unit, of_wrong_kind
from tests.papers import second_order_oracles as oracles


def slope(params):
    return sum((0.5 * jnp.sum(leaf) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


def bowl(params):
    return sum((0.5 * oracles.CURVATURE * jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


SEARCHED = {"value": 1.0, "grad": LikeUpdates(0.5), "value_fn": slope}

ROWS = (
    Unit("scale_by_backtracking_linesearch", gradtx.scale_by_backtracking_linesearch,
         {"max_backtracking_steps": 5, "increase_factor": 4.0}, real=True, signals=SEARCHED),
    Unit("scale_by_zoom_linesearch", gradtx.scale_by_zoom_linesearch,
         {"max_linesearch_steps": 5, "increase_factor": 4.0}, real=True, signals=SEARCHED),
    Unit("scale_by_lbfgs", gradtx.scale_by_lbfgs, {"memory_size": 3}, real=True),
    Unit("lbfgs", gradtx.lbfgs, {"learning_rate": 0.5, "memory_size": 2}, real=True, signals=SEARCHED),
    Unit("hutchinson_estimator_diag_hessian", gradtx.hutchinson_estimator_diag_hessian, real=True,
         signals={"value_fn": bowl}, bad=(of_wrong_kind(random_seed=0.5),)),
    Unit("scale_by_sophia", gradtx.scale_by_sophia, {"gamma": 1.0, "b2": 0.5, "update_interval": 2}, real=True,
         oracle=oracles.scale_by_sophia, sign=True, signals={"value_fn": bowl}),
    Unit("sophia", gradtx.sophia, {"learning_rate": 0.1, "gamma": 1.0, "b2": 0.5}, real=True, oracle=oracles.sophia,
         sign=True, signals={"value_fn": bowl}),
)  # fmt: skip
