"""Steps made of orthogonal matrices; singular values and the steps are in ``tests/preconditioners``."""

import gradtx
from gradtx import errors
from tests.laws.unit import Bad, Unit, out_of_range

COEFFICIENTS = (
    out_of_range(ns_coeffs="nine"),
    out_of_range(ns_coeffs=(1.0, 2.0)),
    Bad({"ns_coeffs": ((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))}, errors.ArgumentRangeError, "each of 5 steps"),
    out_of_range(ns_steps=0),
    out_of_range(beta=1.0),
)

NEWTON_SCHULZ = 32.0  # five steps magnify a small singular value, with its rounding, by up to 3.4445^5 = 485

ROWS = (
    Unit("scale_by_muon", gradtx.scale_by_muon, magnifies=NEWTON_SCHULZ, bad=COEFFICIENTS),
    Unit("scale_by_shape", gradtx.scale_by_shape, {"consistent_rms": 0.2}),
    Unit("muon", gradtx.muon, {"learning_rate": 0.02, "weight_decay": 0.1}, magnifies=NEWTON_SCHULZ, bad=COEFFICIENTS),
    Unit("galore", gradtx.galore, {"learning_rate": 0.01, "rank": 1, "update_proj_gap": 2}),
)  # fmt: skip
