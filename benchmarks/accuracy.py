"""How exact each elementwise unit is, beside Optax's and PyTorch's formulas, in one run.

    python -m benchmarks.accuracy [--quick] [--json FILE]

One step: from the same float32 state and gradient, over gradients of both signs and magnitudes from 1e-25 to 1e15 and
steps from the first to the hundred-thousandth, the largest error of the update and of the new state, in units in the
last place (ULP). Where a unit adds, the unit is that of the largest value the same step takes under any choice of
signs, in which no sum cancels; what is off by at most two smallest normal numbers, which arithmetic on this device may
flush to zero, counts as exact.

Many steps: 10,000 random gradients, for every element the largest error over its largest update, in eps = 2^-23.

The truth are the oracles of ``tests/papers`` in float64. PyTorch is optional; it is asked at parameters of zero, where
its new parameters are the update.
"""

import argparse
import importlib.util
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradtx
from benchmarks.reporting import environment, table, write_json
from tests.papers import adaptive_oracles, oracles

ORACLES = {**oracles.ORACLES, **adaptive_oracles.ORACLES}
EPS, TINY = float(np.finfo(np.float32).eps), float(np.finfo(np.float32).tiny)
RATE = 1e-2
ULP_BOUND, EPS_BOUND = 4.0, 64.0
STEPS = (1, 2, 3, 10, 100, 1_000, 100_000)

# What our peers call the fields of our states.
OPTAX_NAMES = {
    "mu": "mean",
    "ema": "mean",
    "nu": "mean_square",
    "trace": "momentum",
    "sum_of_squares": "sum_of_squares",
}
PYTORCH_NAMES = {
    "SGD": {"momentum": "momentum_buffer"},
    "Adagrad": {"sum_of_squares": "sum"},
    "RMSprop": {"mean_square": "square_avg"},
    "Adam": {"mean": "exp_avg", "mean_square": "exp_avg_sq", "maximum": "max_exp_avg_sq"},
    "AdamW": {"mean": "exp_avg", "mean_square": "exp_avg_sq"},
    "Adamax": {"mean": "exp_avg", "maximum": "exp_inf"},
}


class Unit(NamedTuple):
    """A unit with its oracle's arguments; ``optax`` and ``pytorch`` make the peers of the same formula, if any.

    ``kept`` names the state's arrays, ``smallest`` is the smallest gradient for which the unit is meant to be exact.
    """

    oracle: str
    arguments: Mapping[str, Any] = {}
    kept: tuple[str, ...] = ()
    optax: Callable[[], Any] | None = None
    pytorch: tuple[str, Mapping[str, Any]] | None = None
    non_negative: bool = False
    smallest: float = 1e-25

    @property
    def title(self) -> str:
        return f"{self.oracle}({', '.join(f'{name}={value}' for name, value in self.arguments.items())})"

    def ours(self) -> Any:
        return getattr(gradtx, self.oracle)(**self.arguments)

    def exact(self, state: Mapping[str, Any], g: Any, p: Any, t: int) -> tuple[Any, dict[str, Any]]:
        return ORACLES[self.oracle](state, g, p, t, **self.arguments)


def _plain(update: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    return optax.stateless_with_tree_map(lambda g, p: update(g))


class _Kept(NamedTuple):
    count: jax.Array
    nu: jax.Array


def _optax_mean_square(decay: float) -> optax.GradientTransformation:
    """Optax has this moment only inside its optimizers: the functions that they call."""

    def update(g, state, params=None):
        nu = optax.tree.update_moment_per_elem_norm(g, state.nu, decay, 2)
        return nu, _Kept(state.count + 1, nu)

    return optax.GradientTransformation(lambda p: _Kept(jnp.zeros((), jnp.int32), jnp.zeros_like(p)), update)


def _optax_bias_correction(decay: float) -> optax.GradientTransformation:
    def update(g, state, params=None):
        return optax.tree.bias_correction(g, decay, state + 1), state + 1

    return optax.GradientTransformation(lambda p: jnp.zeros((), jnp.int32), update)


MOMENTS = ("mean", "mean_square")
SPREAD = ("mean", "variance")
UNITS = (
    Unit("identity", optax=optax.identity),
    Unit("set_to_zero", optax=optax.set_to_zero),
    Unit("scale", {"step_size": -0.3}, optax=lambda: optax.scale(-0.3)),
    Unit("scale_by_sign", optax=optax.scale_by_sign),
    Unit("scale_by_learning_rate", {"learning_rate": RATE}, optax=lambda: optax.scale_by_learning_rate(RATE)),
    Unit("ema", {"decay": 0.9}, ("mean",), lambda: optax.ema(0.9, debias=False)),
    Unit("ema", {"decay": 0.999}, ("mean",), lambda: optax.ema(0.999, debias=False)),
    Unit("mean_square", {"decay": 0.999}, ("mean_square",), lambda: _optax_mean_square(0.999)),
    Unit("mean_square", {}, ("mean_square",)),
    Unit("sum_of_squares", {"initial_value": 0.1}, ("sum_of_squares",)),
    Unit("running_max", {}, ("maximum",), non_negative=True),
    Unit("square_root", {"eps": 1e-8}, optax=lambda: _plain(lambda g: jnp.sqrt(g + 1e-8)), non_negative=True),
    Unit("bias_correction", {"decay": 0.9}, optax=lambda: _optax_bias_correction(0.9)),
    Unit("bias_correction", {"decay": 0.999}, optax=lambda: _optax_bias_correction(0.999)),
    Unit("scale_by_momentum", {"decay": 0.9}, ("momentum",), lambda: optax.trace(0.9)),
    Unit("scale_by_momentum", {"decay": 0.9, "nesterov": True}, ("momentum",), lambda: optax.trace(0.9, nesterov=True)),
    Unit("scale_by_rms", {}, ("mean_square",), optax.scale_by_rms),
    Unit(
        "scale_by_rms", {"eps_in_sqrt": False, "bias_correction": True}, ("mean_square",),
        lambda: optax.scale_by_rms(eps_in_sqrt=False, bias_correction=True),
    ),
    Unit("scale_by_adam", {}, MOMENTS, optax.scale_by_adam),
    Unit("scale_by_adam", {"eps_root": 1e-12}, MOMENTS, lambda: optax.scale_by_adam(eps_root=1e-12)),
    Unit("clip", {"max_delta": 0.5}, optax=lambda: optax.clip(0.5)),
    Unit("add_decayed_weights", {"weight_decay": 0.1}, optax=lambda: optax.add_decayed_weights(0.1)),
    Unit("sgd", {"learning_rate": RATE}, optax=lambda: optax.sgd(RATE), pytorch=("SGD", {})),
    Unit(
        "sgd", {"learning_rate": RATE, "momentum": 0.9}, ("momentum",),
        lambda: optax.sgd(RATE, 0.9), ("SGD", {"momentum": 0.9}),
    ),
    Unit(
        "sgd", {"learning_rate": RATE, "momentum": 0.9, "nesterov": True}, ("momentum",),
        lambda: optax.sgd(RATE, 0.9, True), ("SGD", {"momentum": 0.9, "nesterov": True}),
    ),
    Unit("adagrad", {"learning_rate": RATE}, ("sum_of_squares",), lambda: optax.adagrad(RATE)),
    Unit(
        "adagrad", {"learning_rate": RATE, "eps": 0.0}, ("sum_of_squares",), lambda: optax.adagrad(RATE, eps=0.0),
        ("Adagrad", {"initial_accumulator_value": 0.1, "eps": 0.0}),
    ),
    Unit("rmsprop", {"learning_rate": RATE}, ("mean_square",), lambda: optax.rmsprop(RATE)),
    Unit(
        "rmsprop", {"learning_rate": RATE, "eps_in_sqrt": False}, ("mean_square",),
        lambda: optax.rmsprop(RATE, eps_in_sqrt=False), ("RMSprop", {"alpha": 0.9}),
    ),
    Unit(
        "rmsprop", {"learning_rate": RATE, "momentum": 0.9}, ("mean_square", "momentum"),
        lambda: optax.rmsprop(RATE, momentum=0.9),
    ),
    Unit("adam", {"learning_rate": RATE}, MOMENTS, lambda: optax.adam(RATE), ("Adam", {})),
    Unit(
        "adam", {"learning_rate": RATE, "eps": 0.0}, MOMENTS, lambda: optax.adam(RATE, eps=0.0), ("Adam", {"eps": 0.0}),
        smallest=1e-10,
    ),
    Unit(
        "adamw", {"learning_rate": RATE, "weight_decay": 0.1}, MOMENTS, lambda: optax.adamw(RATE, weight_decay=0.1),
    ),
    Unit("adamw", {"learning_rate": RATE, "weight_decay": 0.0}, MOMENTS, pytorch=("AdamW", {"weight_decay": 0.0})),
    Unit("amsgrad", {"learning_rate": RATE}, (*MOMENTS, "maximum"), pytorch=("Adam", {"amsgrad": True})),
    Unit("ema", {"decay": 0.99, "output_decay": 0.9}, ("mean",)),
    Unit("absolute_value", {"eps": 1e-8}, optax=lambda: _plain(lambda g: jnp.abs(g) + 1e-8)),
    Unit("running_max", {"decay": 0.9}, ("maximum",), non_negative=True),
    Unit("bias_correction", {"decay": 0.9, "steps_ahead": 1}),
    Unit("variance", {"decay": 0.9}, SPREAD),
    Unit("variance", {"decay": 0.9, "corrected": True}, SPREAD),
    Unit("variance", {}, SPREAD),
    Unit("scale_by_rss", {}, ("sum_of_squares",), optax.scale_by_rss),
    Unit("scale_by_stddev", {}, SPREAD),
    Unit("scale_by_adam", {"nesterov": True}, MOMENTS, lambda: optax.scale_by_adam(nesterov=True)),
    Unit("scale_by_adamax", {}, ("mean", "maximum")),
    Unit(
        "sgd", {"learning_rate": RATE, "momentum": 0.9, "movement": True}, ("momentum",),
        lambda: optax.chain(optax.scale_by_learning_rate(RATE), optax.trace(0.9)),
    ),
    Unit(
        "adagrad", {"learning_rate": RATE, "eps_in_sqrt": False}, ("sum_of_squares",),
        pytorch=("Adagrad", {"initial_accumulator_value": 0.1, "eps": 1e-7}),
    ),
    Unit("rmsprop", {"learning_rate": RATE, "decay": None}, ("mean_square",)),
    Unit("rmsprop", {"learning_rate": RATE, "centered": True, "momentum": 0.9}, (*SPREAD, "momentum")),
    Unit("adam", {"learning_rate": RATE, "bias_correction": False}, MOMENTS),
    Unit("nadam", {"learning_rate": RATE}, MOMENTS, lambda: optax.nadam(RATE)),
    Unit(
        "nadamw", {"learning_rate": RATE, "weight_decay": 0.1}, MOMENTS, lambda: optax.nadamw(RATE, weight_decay=0.1),
    ),
    Unit("adamax", {"learning_rate": RATE}, ("mean", "maximum"), pytorch=("Adamax", {})),
    Unit("adamaxw", {"learning_rate": RATE, "weight_decay": 0.1}, ("mean", "maximum")),
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# One step.


class Start(NamedTuple):
    """From where a step is taken: the arrays of the state by our names, gradient, parameter, number of the step."""

    state: dict[str, np.ndarray]
    g: np.ndarray
    p: np.ndarray
    t: int


def draw(unit: Unit, t: int, size: int) -> Start:
    """A start in float32: a state as gradients within three orders of magnitude of this one may have left it."""
    random = np.random.default_rng(t)
    magnitude = 10.0 ** random.uniform(np.log10(unit.smallest), 15.0, size)

    def around() -> np.ndarray:
        return random.normal(size=size) * magnitude * 10.0 ** random.uniform(-1.5, 1.5, size)

    values: dict[str, np.ndarray] = {"mean": around(), "momentum": around()}
    values["mean_square"] = around() ** 2
    values["sum_of_squares"] = 0.1 + around() ** 2
    values["maximum"] = (
        values["mean_square"] * random.uniform(0.5, 4.0, size) if "mean_square" in unit.kept else np.abs(around())
    )
    values["variance"] = around() ** 2
    start = {"sum_of_squares": 0.1}
    state = {name: values[name] if t > 1 else np.full(size, start.get(name, 0.0)) for name in unit.kept}
    g = random.normal(size=size) * magnitude
    return Start(
        {name: np.where(np.abs(value) < TINY, 0.0, value).astype(np.float32) for name, value in state.items()},
        (np.abs(g) if unit.non_negative else g).astype(np.float32),
        (np.zeros(size) if unit.pytorch else around()).astype(np.float32),
        t,
    )


class Peer(NamedTuple):
    """``step(start) -> (update, arrays of the new state by our names)``, and ``run(gradients, param) -> updates``."""

    step: Callable[[Start], tuple[np.ndarray, dict[str, np.ndarray]]]
    run: Callable[[np.ndarray, np.ndarray], np.ndarray]


def peers_of(unit: Unit) -> dict[str, Peer]:
    found = {"gradtx": transforming(unit.ours(), {})}
    if unit.optax:
        found["Optax"] = transforming(unit.optax(), OPTAX_NAMES)
    if unit.pytorch and importlib.util.find_spec("torch"):
        found["PyTorch"] = pytorch(*unit.pytorch)
    return found


def transforming(tx: Any, names: Mapping[str, str]) -> Peer:
    """A pair ``(init, update)``; the counters of its state come from ``t - 1`` steps on one element."""
    one = jnp.ones(1)

    @jax.jit
    def counters_before(t):
        return jax.lax.fori_loop(1, t, lambda _, state: tx.update(one, state, one)[1], tx.init(one))

    update = jax.jit(tx.update)

    def step(start: Start):
        def fill(path, leaf, counter):
            return jnp.asarray(start.state[_name(path, names)]) if leaf.shape else counter

        state = jax.tree_util.tree_map_with_path(fill, tx.init(jnp.asarray(start.p)), counters_before(start.t))
        updates, state = update(jnp.asarray(start.g), state, jnp.asarray(start.p))
        leaves = jax.tree_util.tree_leaves_with_path(state)
        return np.asarray(updates), {_name(path, names): np.asarray(leaf) for path, leaf in leaves if leaf.shape}

    @jax.jit
    def run(gradients, param):
        def body(state, g):
            updates, state = tx.update(g, state, param)
            return state, updates

        return jax.lax.scan(body, tx.init(param), gradients)[1]

    return Peer(step, lambda gradients, param: np.asarray(run(gradients, param)))


def _name(path: Any, names: Mapping[str, str]) -> str:
    """Our name of the field at the end of a key path."""
    last = jax.tree_util.keystr(path[-1:], simple=True)
    return names.get(last, last)


def pytorch(name: str, arguments: Mapping[str, Any]) -> Peer:
    import torch

    names = PYTORCH_NAMES[name]

    def made(param: np.ndarray) -> tuple[Any, Any]:
        weight = torch.tensor(param, requires_grad=True)
        return weight, getattr(torch.optim, name)([weight], lr=RATE, **arguments)

    def step(start: Start):
        weight, optimizer = made(start.p)
        if start.state and not (name == "SGD" and start.t == 1):  # SGD starts from the gradient, not from zero
            optimizer.state[weight] = {names[field]: torch.tensor(value) for field, value in start.state.items()}
            optimizer.state[weight]["step"] = torch.tensor(float(start.t - 1))
        weight.grad = torch.from_numpy(start.g)
        optimizer.step()
        kept = optimizer.state[weight]
        return weight.detach().numpy(), {field: kept[names[field]].numpy() for field in start.state}

    def run(gradients: np.ndarray, param: np.ndarray) -> np.ndarray:
        weight, optimizer = made(param)
        updates = np.empty_like(gradients)
        for t, g in enumerate(gradients):
            weight.data.zero_()
            weight.grad = torch.from_numpy(g)
            optimizer.step()
            updates[t] = weight.detach().numpy()
        return updates

    return Peer(step, run)


def ulps(actual: np.ndarray, exact: np.ndarray, scale: np.ndarray) -> float:
    """The largest error in units in the last place of ``scale``."""
    error = np.abs(np.asarray(actual, np.float64) - exact)
    spacing = np.spacing(np.maximum(scale, TINY).astype(np.float32)).astype(np.float64)
    return float(np.max(np.where(error <= 2 * TINY, 0.0, error / spacing)))


def one_step(unit: Unit, peers: Mapping[str, Peer], steps: tuple[int, ...], size: int) -> dict[str, float]:
    """The largest errors in ULP of each peer's update and new state."""
    worst: dict[str, float] = {}
    for t in steps:
        start = draw(unit, t, size)
        given = {name: value.astype(np.float64) for name, value in start.state.items()}
        g, p = start.g.astype(np.float64), start.p.astype(np.float64)
        exact, exact_state = unit.exact(given, g, p, t)
        scale, scales = np.abs(exact), {name: np.abs(exact_state[name]) for name in unit.kept}
        for memory, weight in itertools.product((-1.0, 1.0), repeat=2):
            signed = {
                name: np.abs(value) * (memory if name in ("mean", "momentum") else 1.0) for name, value in given.items()
            }
            value, state = unit.exact(signed, np.abs(g), weight * np.abs(p), t)
            scale = np.maximum(scale, np.abs(value))
            scales = {name: np.maximum(scales[name], np.abs(state[name])) for name in scales}
        for name, peer in peers.items():
            update, state = peer.step(start)
            errors = {"update": ulps(update, exact, scale)}
            if unit.kept:
                errors["state"] = max(ulps(state[field], exact_state[field], scales[field]) for field in unit.kept)
            for what, error in errors.items():
                worst[f"{name} {what}"] = max(worst.get(f"{name} {what}", 0.0), error)
    return worst


# ---------------------------------------------------------------------------------------------------------------------
# Many steps.


def many_steps(unit: Unit, peers: Mapping[str, Peer], count: int, size: int = 64) -> dict[str, float]:
    """The largest error of each peer's ``count`` updates over the element's largest update, in eps."""
    random = np.random.default_rng(0)
    magnitude = np.logspace(-6.0, 1.0, size)
    gradients = (random.normal(size=(count, size)) * magnitude).astype(np.float32)
    gradients = np.abs(gradients) if unit.non_negative else gradients
    param = np.zeros(size, np.float32) if unit.pytorch else random.normal(size=size).astype(np.float32)

    runs = {name: peer.run(gradients, param) for name, peer in peers.items()}
    state: dict[str, Any] = {}
    largest, errors = np.zeros(size), {peer: np.zeros(size) for peer in runs}
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        exact, state = unit.exact(state, g, param.astype(np.float64), t)
        largest = np.maximum(largest, np.abs(exact))
        for peer, updates in runs.items():
            errors[peer] = np.maximum(errors[peer], np.abs(updates[t - 1].astype(np.float64) - exact))
    return {
        peer: float(np.max(np.divide(error, EPS * largest, out=np.zeros(size), where=largest > 0)))
        for peer, error in errors.items()
    }


def verdict(row: Mapping[str, Any]) -> str:
    """Which bound does not hold, or ``holds``; over a run, peers within 1 eps of each other are equal."""
    broken = []
    if max(row["gradtx update"], row.get("gradtx state", 0.0)) > ULP_BOUND:
        broken.append(f"above {ULP_BOUND:g} ULP")
    if row["gradtx steps"] > EPS_BOUND:
        broken.append(f"above {EPS_BOUND:g} eps")
    peers = ("Optax", "PyTorch")
    broken += [f"above {peer}" for peer in peers if row["gradtx steps"] > row.get(f"{peer} steps", np.inf) + 1.0]
    return ", ".join(broken) or "holds"


def _side_by_side(row: Mapping[str, Any], what: str) -> str:
    errors = (row.get(f"{peer} {what}") for peer in ("gradtx", "Optax", "PyTorch"))
    return " / ".join(f"{error:6.2f}" if error is not None else "     -" for error in errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=65_536, help="random gradients for each number of the step")
    parser.add_argument("--steps", type=int, default=10_000, help="length of the run")
    parser.add_argument("--quick", action="store_true", help="2,048 gradients and 500 steps")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    if given.quick:
        given.size, given.steps = min(given.size, 2_048), min(given.steps, 500)

    rows = []
    for unit in UNITS:
        peers = peers_of(unit)
        row: dict[str, Any] = {"unit": unit.title, **one_step(unit, peers, STEPS, given.size)}
        row |= {f"{name} steps": error for name, error in many_steps(unit, peers, given.steps).items()}
        row["verdict"] = verdict(row)
        rows.append(row)

    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("gradtx / Optax / PyTorch: largest errors of one update and of the new state in ULP,")
    print(f"and of {given.steps:,} updates in eps of the element's largest update\n")
    headings = {"update": "one update", "state": "new state", "steps": f"{given.steps:,} updates"}
    shown = [{**row, **{title: _side_by_side(row, what) for what, title in headings.items()}} for row in rows]
    print(table(shown, ["unit", *headings.values(), "verdict"]))
    if given.json:
        write_json(given.json, rows, benchmark="accuracy", arguments={"size": given.size, "steps": given.steps})


if __name__ == "__main__":
    main()
