"""Steps made of orthogonal matrices; singular values and the steps are in ``tests/preconditioners``."""

import gradtx
from gradtx import errors
from tests.laws.unit import EPS, LEARNING_RATE, Bad, Unit, out_of_range

COEFFICIENTS = (
    out_of_range(ns_coeffs="nine"),
    out_of_range(ns_coeffs=(1.0, 2.0)),
    Bad({"ns_coeffs": ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))}, errors.ArgumentRangeError, "each of 5 steps"),
    out_of_range(ns_steps=0),
    out_of_range(beta=1.0),
)

ROWS = (
    Unit("scale_by_muon", gradtx.scale_by_muon, bad=(*COEFFICIENTS, *EPS)),
    Unit("scale_by_shape", gradtx.scale_by_shape, {"consistent_rms": 0.2}, bad=(out_of_range(consistent_rms=0.0),)),
    Unit("muon", gradtx.muon, {"learning_rate": 0.02, "weight_decay": 0.1},
         bad=(*LEARNING_RATE, *EPS, *COEFFICIENTS, out_of_range(adam_b1=1.0), out_of_range(adam_learning_rate=-1.0))),
    Unit("galore", gradtx.galore, {"learning_rate": 0.01, "rank": 1, "update_proj_gap": 2},
         bad=(*LEARNING_RATE, out_of_range(rank=0), out_of_range(update_proj_gap=0), out_of_range(scale=-1.0))),
)  # fmt: skip
