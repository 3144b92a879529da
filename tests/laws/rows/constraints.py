"""What keeps parameters in a set, leaves NaN out, or makes one vector of all leaves."""

import gradtx
from gradtx import projections
from tests.laws.unit import Unit
from tests.papers import adaptive_oracles
from tests.papers import constraint_oracles as oracles

SGD = {"learning_rate": 0.1, "momentum": 0.9}


def box(params):
    return projections.projection_box(params, -3e38, 3e38)  # law 5 asks for steps: of size 1e30, too


def sgd(state, g, p, t):
    return adaptive_oracles.sgd(state, g, p, t, **SGD)


ROWS = (
    Unit("keep_params_nonnegative", gradtx.keep_params_nonnegative, oracle=oracles.keep_params_nonnegative, real=True),
    Unit("project", gradtx.project, {}, (box,), oracle=oracles.project_on_box, real=True),
    Unit("zero_nans", gradtx.zero_nans, oracle=oracles.zero_nans),
    Unit("flatten", gradtx.flatten, {}, (gradtx.sgd(**SGD),), oracle=sgd),
)  # fmt: skip
