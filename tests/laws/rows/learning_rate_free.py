"""Methods that find their learning rate. Norms are of the whole tree: their steps are in ``tests/papers``."""

import gradtx
from tests.laws.unit import Unit, out_of_range
from tests.papers import learning_rate_free_oracles as oracles

VALUE = {"value": 1.0}

ROWS = (
    Unit("polyak_sgd", gradtx.polyak_sgd, {"f_min": 0.5}, signals=VALUE),
    Unit("dog", gradtx.dog, {"weight_decay": 0.1},
         bad=(out_of_range(init_step=("distance", 0.0)), out_of_range(init_step=("far", 1.0)),
              out_of_range(init_step=1e-3))),
    Unit("dowg", gradtx.dowg),
    Unit("cocob", gradtx.cocob, oracle=oracles.cocob, real=True, ulps=6.0),
    Unit("prodigy", gradtx.prodigy, {"betas": (0.5, 0.999)}, real=True),
    Unit("dadapt_adamw", gradtx.dadapt_adamw, real=True),
    Unit("momo", gradtx.momo, {"adapt_lower_bound": True}, real=True, signals=VALUE),
    Unit("momo_adam", gradtx.momo_adam, {"weight_decay": 0.1}, real=True, signals=VALUE),
    Unit("mechanize", gradtx.mechanize, {}, (gradtx.adam(1.0),), real=True),
)  # fmt: skip
