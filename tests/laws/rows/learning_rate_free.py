"""Methods that find their learning rate. Norms are of the whole tree: their steps are in ``tests/papers``."""

import gradtx
from gradtx import errors
from tests.laws.unit import BETAS, EPS, LEARNING_RATE, Bad, Unit, of_wrong_kind, out_of_range
from tests.papers import learning_rate_free_oracles as oracles

VALUE = {"value": 1.0}
ESTIMATE = (*LEARNING_RATE, *EPS, out_of_range(estim_lr0=0.0), out_of_range(weight_decay=-0.1),
            Bad({"betas": (1.0, 0.9)}, errors.ArgumentRangeError, "b1"))  # fmt: skip
MODEL = (*LEARNING_RATE, out_of_range(weight_decay=-0.1), of_wrong_kind(lower_bound="0"),
         of_wrong_kind(adapt_lower_bound=1))  # fmt: skip

ROWS = (
    Unit("polyak_sgd", gradtx.polyak_sgd, {"f_min": 0.5}, signals=VALUE,
         bad=(*EPS, out_of_range(max_learning_rate=-1.0), out_of_range(scaling=-1.0), of_wrong_kind(f_min="0"),
              out_of_range(variant="sps-"))),
    Unit("dog", gradtx.dog, {"weight_decay": 0.1},
         bad=(*LEARNING_RATE, *EPS, out_of_range(init_step=("distance", 0.0)), out_of_range(init_step=("far", 1.0)),
              out_of_range(init_step=1e-3), out_of_range(weight_decay=-0.1))),
    Unit("dowg", gradtx.dowg, bad=(*LEARNING_RATE, *EPS, out_of_range(init_estim_sq_dist=0.0))),
    Unit("cocob", gradtx.cocob, oracle=oracles.cocob, real=True, ulps=6.0,
         bad=(*LEARNING_RATE, *EPS, out_of_range(alpha=0.0))),
    Unit("prodigy", gradtx.prodigy, {"betas": (0.5, 0.999)}, real=True,
         bad=(*ESTIMATE, out_of_range(beta3=1.0), out_of_range(estim_lr_coef=0.0), of_wrong_kind(safeguard_warmup=1))),
    Unit("dadapt_adamw", gradtx.dadapt_adamw, {"bias_correction": True}, real=True, bad=ESTIMATE),
    Unit("momo", gradtx.momo, {"adapt_lower_bound": True}, real=True, signals=VALUE,
         bad=(*MODEL, out_of_range(beta=1.0))),
    Unit("momo_adam", gradtx.momo_adam, {"weight_decay": 0.1}, real=True, signals=VALUE, bad=(*MODEL, *BETAS, *EPS)),
    Unit("mechanize", gradtx.mechanize, {}, (gradtx.adam(1.0),), real=True,
         bad=(*EPS, out_of_range(weight_decay=-0.1), out_of_range(s_init=0.0), out_of_range(num_betas=0))),
)  # fmt: skip
