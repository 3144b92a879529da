"""Line searches and methods with an estimate of the Hessian.

The loss of the searches is linear, with a slope along every direction that no rounding turns, so that no decision of a
search is near; ``tests/transforms/test_line_search.py`` has losses of all kinds.
"""

import jax
import jax.numpy as jnp

import gradtx
from tests.laws.unit import BETAS, EPS, LEARNING_RATE, LikeUpdates, Unit, of_wrong_kind, out_of_range
from tests.papers import second_order_oracles as oracles


def slope(params):
    return sum((0.5 * jnp.sum(leaf) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


def bowl(params):
    return sum((0.5 * oracles.CURVATURE * jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


SEARCHED = {"value": 1.0, "grad": LikeUpdates(0.5), "value_fn": slope}

ROWS = (
    Unit("scale_by_backtracking_linesearch", gradtx.scale_by_backtracking_linesearch,
         {"max_backtracking_steps": 5, "increase_factor": 4.0}, real=True, signals=SEARCHED,
         bad=(out_of_range(max_backtracking_steps=0), of_wrong_kind(max_backtracking_steps=2.5),
              out_of_range(slope_rtol=1.0), out_of_range(decrease_factor=1.0), out_of_range(increase_factor=0.5),
              out_of_range(max_learning_rate=0.0), out_of_range(atol=-1.0), out_of_range(rtol=-1.0),
              of_wrong_kind(store_grad=1))),
    Unit("scale_by_zoom_linesearch", gradtx.scale_by_zoom_linesearch,
         {"max_linesearch_steps": 5, "increase_factor": 4.0}, real=True, signals=SEARCHED,
         bad=(out_of_range(max_linesearch_steps=0), out_of_range(max_learning_rate=0.0), out_of_range(tol=-1.0),
              out_of_range(increase_factor=0.5), out_of_range(slope_rtol=1.0), out_of_range(curv_rtol=1.0),
              out_of_range(approx_dec_rtol=-1.0), out_of_range(stepsize_precision=-1.0),
              out_of_range(initial_guess_strategy="two"))),
    Unit("scale_by_lbfgs", gradtx.scale_by_lbfgs, {"memory_size": 3}, real=True,
         bad=(out_of_range(memory_size=0), of_wrong_kind(memory_size=2.5), of_wrong_kind(scale_init_precond=1))),
    Unit("lbfgs", gradtx.lbfgs, {"learning_rate": 0.5, "memory_size": 2}, real=True, signals=SEARCHED,
         bad=(*[bad for bad in LEARNING_RATE if bad.arguments != {"learning_rate": None}],
              out_of_range(memory_size=0))),
    Unit("hutchinson_estimator_diag_hessian", gradtx.hutchinson_estimator_diag_hessian, real=True,
         signals={"value_fn": bowl}, bad=(of_wrong_kind(random_seed=0.5),)),
    Unit("scale_by_sophia", gradtx.scale_by_sophia, {"gamma": 1.0, "b2": 0.5, "update_interval": 2}, real=True,
         oracle=oracles.scale_by_sophia, sign=True, signals={"value_fn": bowl},
         bad=(*BETAS, *EPS, out_of_range(gamma=0.0), out_of_range(clip_threshold=0.0),
              out_of_range(update_interval=0))),
    Unit("sophia", gradtx.sophia, {"learning_rate": 0.1, "gamma": 1.0, "b2": 0.5}, real=True, oracle=oracles.sophia,
         sign=True, signals={"value_fn": bowl}, bad=(*LEARNING_RATE, out_of_range(weight_decay=-0.1))),
)  # fmt: skip
