"""What modifies an optimizer, or averages its parameters: around parts of every locality and around foreign ones."""

import functools
import operator

import jax
import jax.numpy as jnp

import gradtx
from tests.laws.rows.combined import foreign
from tests.laws.unit import Unit
from tests.papers import adaptive_oracles
from tests.papers import modifier_oracles as oracles

MOMENTUM = {"learning_rate": 0.1, "momentum": 0.9}
SGD = gradtx.sgd(**MOMENTUM)


def around(oracle):
    """The oracle of a modifier around ``SGD``."""
    return functools.partial(oracle, base=functools.partial(adaptive_oracles.sgd, **MOMENTUM))


def loss(params):
    """``sum |p|^2``, for any tree."""
    squares = [jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(params)]
    return functools.reduce(operator.add, squares) if squares else jnp.zeros(())


WHOLE_TREE = gradtx.chain(gradtx.clip_by_global_norm(1.0), foreign(), gradtx.sgd(0.1))

ROWS = (
    Unit("cautious", gradtx.cautious, {}, (SGD,), oracle=around(oracles.cautious), sign=True),
    Unit("cautious, before the learning rate, a whole tree", gradtx.cautious, {"before_learning_rate": True},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.ema(0.9)),)),
    Unit("add_cautiously_decayed_weights", gradtx.add_cautiously_decayed_weights, {"weight_decay": 0.1},
         oracle=oracles.add_cautiously_decayed_weights),
    Unit("correct_by_last", gradtx.correct_by_last, oracle=oracles.correct_by_last),
    Unit("mars", gradtx.mars, {"max_norm": None}, (SGD,), oracle=around(oracles.mars)),
    Unit("mars, a whole tree", gradtx.mars, {}, (gradtx.adam(1e-3),)),
    Unit("amplify_slow", gradtx.amplify_slow, oracle=oracles.amplify_slow),
    Unit("grokfast", gradtx.grokfast, {}, (SGD,), oracle=around(oracles.grokfast)),
    # Eight: its difference cancels whatever the signs of gradient and weights are.
    Unit("orthogonal_gradient", gradtx.orthogonal_gradient, oracle=oracles.orthogonal_gradient, ulps=8.0),
    Unit("sam", gradtx.sam, {"rho": 0.05}, (SGD,), oracle=around(oracles.sam), signals={"value_fn": loss}),
    Unit("asam", gradtx.asam, {"rho": 0.5}, (SGD,), oracle=around(oracles.asam), signals={"value_fn": loss}),
    Unit("exponential_average", gradtx.exponential_average, {"decay": 0.99}, (SGD,),
         oracle=around(oracles.exponential_average)),
    Unit("exponential_average, a whole tree", gradtx.exponential_average, {}, (WHOLE_TREE,)),
    Unit("uniform_average", gradtx.uniform_average, {"start": 2, "every": 3}, (SGD,),
         oracle=around(oracles.uniform_average)),
    Unit("lookahead", gradtx.lookahead, {"sync_period": 3, "slow_step_size": 0.5}, (SGD,),
         oracle=around(oracles.lookahead)),
    Unit("lookahead, reset, a whole tree", gradtx.lookahead,
         {"sync_period": 2, "slow_step_size": 0.5, "reset_state": True},
         (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(1e-3)),)),
    Unit("schedule_free", gradtx.schedule_free, {"learning_rate": 0.1}, (SGD,), oracle=around(oracles.schedule_free)),
    Unit("schedule_free, a whole tree", gradtx.schedule_free, {"learning_rate": 0.1}, (WHOLE_TREE,)),
    Unit("primal_average", gradtx.primal_average, {}, (gradtx.sgd(0.1),), oracle=functools.partial(
             oracles.primal_average, base=functools.partial(adaptive_oracles.sgd, learning_rate=0.1))),
)  # fmt: skip
