"""Methods that are another method at some argument: a table of pairs that take the same steps."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from tests.laws.trees import assert_close, gradients, params

STEPS = 5


def loss(params: Any) -> jax.Array:
    """One whose gradient at ``params`` is not that elsewhere."""
    return sum(jnp.sum(jnp.cosh(leaf)) for leaf in jax.tree.leaves(params))


@dataclasses.dataclass(frozen=True, eq=False)
class Identity:
    """``one`` and ``other`` take the same steps, within ``units`` eps of each leaf's largest element; 0 is bit for bit.

    ``one`` sees the gradients after ``change``, and its updates are compared after ``back``. Gradients are those of
    ``loss`` where a ``value_fn`` is given, random ones otherwise.
    """

    name: str
    one: gradtx.GradientTransformation
    other: gradtx.GradientTransformation
    units: float = 4.0
    change: Callable[[Any], Any] = lambda grads: grads
    back: Callable[[Any], Any] = lambda updates: updates
    signals: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def times(factor: float) -> Callable[[Any], Any]:
    return lambda tree: jax.tree.map(lambda leaf: factor * leaf, tree)


def unchanged_by_scale(name: str, tx: gradtx.GradientTransformation) -> Identity:
    """A power of two, so that nothing is rounded."""
    return Identity(f"{name} at another scale of the loss", tx, tx, units=0.0, change=times(2.0**-20))


ADAMW = gradtx.adamw(1e-2, weight_decay=0.1)
RULES = {"a": ADAMW, "b": ADAMW}

IDENTITIES = (
    Identity("Adam with zero decays and eps is the sign", gradtx.adam(0.1, b1=0.0, b2=0.0, eps=0.0),
             gradtx.sign_sgd(0.1)),
    Identity("MARS at gamma 0 is its base", gradtx.mars(ADAMW, gamma=0.0, max_norm=None), ADAMW, units=0.0),
    Identity("Grokfast at lamb 0 is its base", gradtx.grokfast(ADAMW, lamb=0.0), ADAMW, units=0.0),
    Identity("SAM at rho 0 is its base", gradtx.sam(ADAMW, rho=0.0), ADAMW, units=0.0, signals={"value_fn": loss}),
    Identity("ASAM at rho 0 is its base", gradtx.asam(ADAMW, rho=0.0), ADAMW, units=0.0, signals={"value_fn": loss}),
    Identity("Lookahead at alpha 1 is its base", gradtx.lookahead(ADAMW, 1, 1.0), ADAMW, units=0.0),
    Identity("an average changes no step", gradtx.uniform_average(gradtx.exponential_average(ADAMW)), ADAMW, units=0.0),
    Identity("schedule-free at b1 near 0 is its base", gradtx.schedule_free(ADAMW, 1e-2, b1=1e-30), ADAMW),
    Identity("primal averaging without memory is its base", gradtx.primal_average(ADAMW, mu_x=0.0), ADAMW),
    Identity("Lion with equal decays is Signum", gradtx.lion(0.1, b1=0.9, b2=0.9, weight_decay=0.0),
             gradtx.signum(0.1, beta=0.9), units=0.0),
    Identity("Tiger without decay is Signum", gradtx.tiger(0.1, beta=0.9, weight_decay=0.0),
             gradtx.signum(0.1, beta=0.9), units=0.0),
    Identity("QHM at nu 1 is an average", gradtx.qhm(0.1, beta=0.9, nu=1.0),
             gradtx.chain(gradtx.ema(0.9), gradtx.scale_by_learning_rate(0.1)), units=0.0),
    Identity("QHM at nu 0 is gradient descent", gradtx.qhm(0.1, nu=0.0), gradtx.sgd(0.1), units=0.0),
    Identity("QHM at nu = beta is Nesterov's momentum", gradtx.qhm(1.0, beta=0.9, nu=0.9),
             gradtx.sgd(0.1, momentum=0.9, nesterov=True), units=8.0),
    Identity("AggMo of one decay is momentum", gradtx.aggmo(0.1, betas=(0.9,)), gradtx.sgd(0.1, 0.9), units=0),
    Identity("cautious where all signs agree is its base", gradtx.cautious(gradtx.sgd(0.1)), gradtx.sgd(0.1), units=0),
    Identity("LaProp without momentum is RMSProp", gradtx.laprop(0.1, b1=0.0, b2=0.99, eps=1e-8),
             gradtx.rmsprop(0.1, decay=0.99, eps_in_sqrt=False, bias_correction=True)),
    Identity("AdamC at the largest rate is AdamW", gradtx.adamc(1e-2, 1e-2, weight_decay=0.1), ADAMW),
    Identity("Adam-mini on blocks of one is AdamW", gradtx.masked(gradtx.adam_mini(1e-2, weight_decay=0.1), "s"),
             gradtx.masked(ADAMW, "s")),
    Identity("a partition of equal rules is the rule",
             gradtx.partition(RULES, lambda path, leaf: "ab"[path == "w"]), ADAMW, units=0.0),
    Identity("stable AdamW that is never surprised is AdamW", gradtx.stable_adamw(1e-2, b2=0.0, weight_decay=0.1),
             gradtx.adamw(1e-2, b2=0.0, weight_decay=0.1)),
    unchanged_by_scale("Adam without eps", gradtx.adam(0.1, eps=0.0)),
    unchanged_by_scale("Adam-atan2", gradtx.adam_atan2(0.1)),
    unchanged_by_scale("sign descent", gradtx.sign_sgd(0.1)),
    unchanged_by_scale("Lion", gradtx.lion(0.1)),
    unchanged_by_scale("normalized descent", gradtx.chain(gradtx.normalize_by_update_norm(eps=0.0), gradtx.sgd(0.1))),
    Identity("gradient descent grows with the loss", gradtx.sgd(0.1, 0.9), gradtx.sgd(0.1, 0.9), units=0.0,
             change=times(0.25), back=times(4.0)),
    Identity("orthogonal gradients grow with the loss", gradtx.orthogonal_gradient(), gradtx.orthogonal_gradient(),
             units=0.0, change=times(0.25), back=times(4.0)),
)  # fmt: skip


def run(tx: gradtx.GradientTransformation, identity: Identity, change: Callable[[Any], Any]) -> list[Any]:
    weights, found = params(), []
    state, update = tx.init(weights), jax.jit(lambda *given: tx.update(*given, **identity.signals))
    for seed in range(STEPS):
        grads = jax.jit(jax.grad(loss))(weights) if identity.signals else gradients(seed=seed)
        updates, state = update(change(grads), state, weights)
        weights = gradtx.apply_updates(weights, updates)
        found.append(updates)
    return found


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda identity: identity.name)
def test_two_methods_take_the_same_steps(identity):
    if identity.back is not Identity.back:  # the parameters must stay where they are
        one = [identity.back(steps) for steps in stationary(identity.one, identity.change)]
        other = stationary(identity.other, lambda grads: grads)
    else:
        one, other = run(identity.one, identity, identity.change), run(identity.other, identity, lambda grads: grads)
    assert_close(one, other, units=identity.units)


def stationary(tx: gradtx.GradientTransformation, change: Callable[[Any], Any]) -> list[Any]:
    weights, found = params(), []
    state, update = tx.init(weights), jax.jit(tx.update)
    for seed in range(STEPS):
        updates, state = update(change(gradients(seed=seed)), state, weights)
        found.append(updates)
    return found


COMPLEX_AS_REAL = (
    gradtx.sgd(0.1, momentum=0.9, nesterov=True),
    gradtx.qhm(0.1),
    gradtx.aggmo(0.1),
    gradtx.grokfast(gradtx.sgd(0.1)),
    gradtx.mars(gradtx.sgd(0.1)),
    gradtx.orthogonal_gradient(),
    gradtx.schedule_free(gradtx.sgd(0.1), 0.1),
    gradtx.lookahead(gradtx.sgd(0.1), 2, 0.5),
)


@pytest.mark.parametrize("tx", COMPLEX_AS_REAL, ids=lambda tx: gradtx.core.record_of(tx).name)
def test_a_complex_number_is_a_pair_of_real_ones(tx):
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
    pairs = [jnp.asarray(rng.normal(size=(3, 2)), jnp.float32) for _ in range(STEPS)]
    one, other = tx.init(weights[:, 0] + 1j * weights[:, 1]), tx.init(weights)
    for pair in pairs:
        as_complex, one = tx.update(pair[:, 0] + 1j * pair[:, 1], one, weights[:, 0] + 1j * weights[:, 1])
        as_pair, other = tx.update(pair, other, weights)
        assert_close(jnp.stack([as_complex.real, as_complex.imag], axis=1), as_pair)
