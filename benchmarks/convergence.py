"""How many steps every optimizer needs, and how wide its choice of learning rates is, on problems with known answers.

    python -m benchmarks.convergence [--short] [--only NAME ...] [--json FILE] [--picture FILE]

Every recipe of ``gradtx.optimizers`` runs on every problem with every learning rate of one grid, 1e-5 to 1e3 by a
quarter of a decade, over eight seeds; for the methods that find their rate themselves the grid is that of their factor.
A seed draws start, optimum, axes and noise anew, so that no optimum lies where a fixed step would land by chance. All
rates and seeds are one ``vmap``, all problems one compiled program.

A run is there at the first step from which its gap stays below the target for the problem's number of steps. A run
whose gap was ever above a thousand times that of its start, or not finite, has diverged, and stays so.

*Steps*: for every seed, those with the learning rate with which the slowest of the other seven seeds is quickest; the
median over seeds, and the range, which holds the true median with a probability of 1 - 2^-7 = 0.992. *Decades*: the
learning rates with which more than half of the seeds get there.

Optax's optimizers of the same names run beside, on the same problems, draws and learning rates. The rates of gradient
descent, heavy ball and Nesterov on a quadratic are printed beside what the theory says.
"""

import argparse
import concurrent.futures
import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import gradtx
from benchmarks.reporting import environment, table, write_json

PER_DECADE = 4
RATES = 10.0 ** (np.arange(-5 * PER_DECADE, 3 * PER_DECADE + 1) / PER_DECADE)
SEEDS = 8
STEPS = 1000
TOO_FAR = 1e3  # of the gap at the start

# The parameters of every problem: two matrices and a vector, for the methods that see matrices or layers.
SHAPES = {"first": {"kernel": (4, 4)}, "second": {"bias": (3,), "kernel": (4, 3)}}
SIZES = [int(np.prod(shape)) for shape in jax.tree.leaves(SHAPES, is_leaf=lambda node: isinstance(node, tuple))]
SIZE = sum(SIZES)


def vector(params: Any) -> jax.Array:
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])


def parameters(x: jax.Array) -> Any:
    shapes, treedef = jax.tree.flatten(SHAPES, is_leaf=lambda node: isinstance(node, tuple))
    parts = jnp.split(x, np.cumsum(SIZES)[:-1])
    return treedef.unflatten([part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)])


# ---------------------------------------------------------------------------------------------------------------------
# Problems. A problem's numbers are arrays for one seed, among them ``start``.

Numbers = dict[str, Any]


class Problem(NamedTuple):
    """``draw(random) -> numbers``; the optimizer sees ``loss(x, numbers, t)``, judged is ``gap``, 1 at the start."""

    name: str
    draw: Callable[[np.random.Generator], Numbers]
    loss: Callable[[jax.Array, Numbers, jax.Array], jax.Array]
    gap: Callable[[jax.Array, Numbers], jax.Array]
    target: float
    steps: int = STEPS
    hold: int = 20
    project: Callable[[jax.Array], jax.Array] | None = None


def rotation(random: np.random.Generator, size: int = SIZE) -> np.ndarray:
    q, r = np.linalg.qr(random.normal(size=(size, size)))
    return q * np.sign(np.diag(r))


def spread(condition: float, size: int = SIZE) -> np.ndarray:
    """Eigenvalues from ``1 / condition`` to 1, evenly in logarithm."""
    return np.geomspace(1.0 / condition, 1.0, size)


Change = Callable[[np.random.Generator, Numbers], Numbers]


def bowl(condition: float, change: Change = lambda random, numbers: {}) -> Callable[[np.random.Generator], Numbers]:
    """Quadratics with turned axes, without noise, as high as they are, all in one piece, and what changes that.

    All problems made of one have the same arrays, and so the same compiled program.
    """

    def draw(random):
        optimum, far = random.normal(size=(2, SIZE))
        axes = rotation(random)
        numbers = {
            "start": optimum + far, "optimum": optimum, "hessian": axes * spread(condition) @ axes.T,
            "slopes": np.zeros((STEPS, SIZE)), "bend": 0.0, "pieces": np.ones((len(SIZES), SIZE)),
        }  # fmt: skip
        return {**numbers, **change(random, numbers)}

    return draw


def quadratic(x: jax.Array, numbers: Numbers, t: jax.Array) -> jax.Array:
    """``h / (1 + bend * h)``, ``h = f' H f / 2`` with the distance ``f`` to the optimum, and the slope of this step."""
    far = x - numbers["optimum"]
    height = 0.5 * far @ (numbers["hessian"] @ far)
    return height / (1.0 + numbers["bend"] * height) + numbers["slopes"][t] @ far


def quadratic_gap(x: jax.Array, numbers: Numbers) -> jax.Array:
    """Without the noise; the largest of the pieces, each over its own at the start."""

    def of_pieces(x):
        far = x - numbers["optimum"]
        height = 0.5 * numbers["pieces"] @ (far * (numbers["hessian"] @ far))
        return height / (1.0 + numbers["bend"] * height)

    return jnp.max(of_pieces(x) / of_pieces(numbers["start"]))


def on_the_axes(random: np.random.Generator, numbers: Numbers) -> Numbers:
    return {"hessian": np.diag(random.permutation(np.linalg.eigvalsh(numbers["hessian"])))}


def in_layers(random: np.random.Generator, numbers: Numbers) -> Numbers:
    """Within a layer well conditioned, but the layers' curvatures are 1, 1/100 and 1/10,000; each is a piece."""
    hessian, pieces, edges = np.zeros((SIZE, SIZE)), np.zeros((len(SIZES), SIZE)), np.cumsum([0, *SIZES])
    for layer, scale in enumerate(random.permutation([1.0, 1e-2, 1e-4])):
        inside = slice(edges[layer], edges[layer + 1])
        axes = rotation(random, SIZES[layer])
        hessian[inside, inside] = scale * (axes * spread(5.0, SIZES[layer])) @ axes.T
        pieces[layer, inside] = 1.0
    return {"hessian": hessian, "pieces": pieces}


def with_noise(random: np.random.Generator, numbers: Numbers) -> Numbers:
    """Every gradient has normal noise with a deviation of 0.5 in every entry."""
    return {"slopes": 0.5 * random.normal(size=(STEPS, SIZE))}


def on_a_plateau(random: np.random.Generator, numbers: Numbers) -> Numbers:
    """From where the bowl would be 50 high, and is all but flat."""
    far = numbers["start"] - numbers["optimum"]
    height = 0.5 * far @ numbers["hessian"] @ far
    return {"bend": 1.0, "start": numbers["optimum"] + far * np.sqrt(50.0 / height)}


def draw_rosenbrock(random: np.random.Generator) -> Numbers:
    """Fifteen valleys side by side, all turned together, from near the classical start of each."""
    axes, optimum = rotation(random), random.normal(size=SIZE)
    inside = np.append(np.tile([-1.2, 1.0], SIZE // 2), 2.0) + 0.1 * random.normal(size=SIZE)
    return {"start": optimum + axes @ (inside - 1.0), "optimum": optimum, "axes": axes}


def rosenbrock(x: jax.Array, numbers: Numbers, *_: Any) -> jax.Array:
    inside = 1.0 + (x - numbers["optimum"]) @ numbers["axes"]
    a, b = inside[:-1:2], inside[1::2]
    return jnp.sum(100.0 * (b - a**2) ** 2 + (1.0 - a) ** 2) + (inside[-1] - 1.0) ** 2


FREQUENCIES = np.geomspace(0.02, 1.0, SIZE)


def draw_sparse(random: np.random.Generator) -> Numbers:
    """Four examples a step; a feature is in an example with its frequency, 1 to 0.02."""
    optimum, far = random.normal(size=(2, SIZE))
    present = random.uniform(size=(STEPS, 4, SIZE)) < random.permutation(FREQUENCIES)
    features = np.where(present, random.normal(size=present.shape), 0.0)
    return {"start": optimum + far, "optimum": optimum, "features": features}


def sparse(x: jax.Array, numbers: Numbers, t: jax.Array) -> jax.Array:
    return 0.5 * jnp.mean((numbers["features"][t] @ (x - numbers["optimum"])) ** 2)


def squared_distance(x: jax.Array, numbers: Numbers) -> jax.Array:
    return jnp.sum((x - numbers["optimum"]) ** 2)


DECAY = 1e-3


def draw_logistic(random: np.random.Generator) -> Numbers:
    """A random half of the breast-cancer data, standardized, and the least loss by Newton's method in float64."""
    from sklearn.datasets import load_breast_cancer

    x, labels = load_breast_cancer(return_X_y=True)
    chosen = random.permutation(len(x))[: len(x) // 2]
    x = (x[chosen] - x[chosen].mean(0)) / x[chosen].std(0)
    signed = np.c_[x, np.ones(len(x))] * np.where(labels[chosen] == 1, 1.0, -1.0)[:, None]
    w = np.zeros(SIZE)
    for _ in range(50):
        missing = 1.0 / (1.0 + np.exp(signed @ w))
        gradient = DECAY * w - signed.T @ missing / len(x)
        hessian = DECAY * np.eye(SIZE) + (signed.T * (missing * (1.0 - missing))) @ signed / len(x)
        w = w - np.linalg.solve(hessian, gradient)
    assert np.abs(gradient).max() < 1e-12
    least = np.logaddexp(0.0, -signed @ w).mean() + 0.5 * DECAY * w @ w
    return {"start": 0.3 * random.normal(size=SIZE), "optimum": w, "signed": signed, "least": least}


def logistic(x: jax.Array, numbers: Numbers, *_: Any) -> jax.Array:
    return jnp.mean(jax.nn.softplus(-(numbers["signed"] @ x))) + 0.5 * DECAY * (x @ x)


PERIOD, LARGE = 400, 720.0


def draw_reddi(random: np.random.Generator) -> Numbers:
    return {"start": random.uniform(-0.9, 0.9, SIZE), "phase": random.integers(PERIOD)}


def reddi(x: jax.Array, numbers: Numbers, t: jax.Array) -> jax.Array:
    """Once in 400 steps the slope is 720, otherwise -1, on [-1, 1]: -1 is best, for every coordinate.

    With b2 = 0.99 Adam has forgotten the large gradient long before the next: it moves up by 1.78 times what it moves
    down. (A full period P is ``4 / (1 - b2)``; down ``C``, up ``2 / (1 - b2) (e^2 - 1)`` in the same unit.)
    """
    return jnp.where(t % PERIOD == numbers["phase"], LARGE, -1.0) * jnp.sum(x)


def over_the_start(gap: Callable[[jax.Array, Numbers], jax.Array]) -> Callable[[jax.Array, Numbers], jax.Array]:
    return lambda x, numbers: gap(x, numbers) / gap(numbers["start"], numbers)


PROBLEMS = (
    Problem("bowl", bowl(300.0, on_the_axes), quadratic, quadratic_gap, 1e-6),
    Problem("turned", bowl(300.0), quadratic, quadratic_gap, 1e-6),
    Problem("layers", bowl(5.0, in_layers), quadratic, quadratic_gap, 1e-3),
    Problem("noise", bowl(10.0, with_noise), quadratic, quadratic_gap, 3e-2),
    Problem("plateau", bowl(10.0, on_a_plateau), quadratic, quadratic_gap, 1e-3),
    Problem("valley", draw_rosenbrock, rosenbrock, over_the_start(rosenbrock), 1e-3, 2000),
    Problem("sparse", draw_sparse, sparse, over_the_start(squared_distance), 1e-2),
    Problem("logistic", draw_logistic, logistic, over_the_start(lambda x, n: logistic(x, n) - n["least"]), 1e-3, 400),
)
REDDI = Problem(
    "reddi", draw_reddi, reddi, lambda x, numbers: jnp.mean(x + 1.0) / 2.0, 0.25, 4000, PERIOD,
    lambda leaf: jnp.clip(leaf, -1.0, 1.0),
)  # fmt: skip


def numbers_of(problem: Problem) -> Numbers:
    """One row for each seed; float32."""
    rows = [problem.draw(np.random.default_rng([seed, *problem.name.encode()])) for seed in range(SEEDS)]
    stacked = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    return {name: value.astype(np.float32) if value.dtype == np.float64 else value for name, value in stacked.items()}


# ---------------------------------------------------------------------------------------------------------------------
# Optimizers. The first argument of every recipe is its learning rate, its largest one, or a factor on its own.


class Entry(NamedTuple):
    """A recipe with what it needs beyond the learning rate; ``averaged``: its average is what it offers."""

    recipe: str
    arguments: Mapping[str, Any] = {}
    averaged: bool = False
    part_of_steps: float = 1.0


GIVEN = {
    # Sizes that do something to matrices of 4 x 4 and 4 x 3.
    "adafactor": {"min_dim_size_to_factor": 2},
    "galore": {"rank": 2},
    "noisy_sgd": {"key": 0},
}
LEFT_OUT = {"dpsgd": "takes a gradient for each example, which these problems do not have"}
ENTRIES = {
    **{name: Entry(name, GIVEN.get(name, {})) for name in gradtx.optimizers.__all__ if name not in LEFT_OUT},
    "momentum": Entry("sgd", {"momentum": 0.9}),
    "nesterov": Entry("sgd", {"momentum": 0.9, "nesterov": True}),
    # A step is a line search of up to 20 evaluations.
    "lbfgs": Entry("lbfgs", part_of_steps=0.1),
    "schedule_free_sgd": Entry("schedule_free_sgd", averaged=True),
    "schedule_free_adamw": Entry("schedule_free_adamw", averaged=True),
    "mechanize": Entry("mechanize"),
}
SHORT = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "amsgrad", "muon", "prodigy")
PEERS = (
    "sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "nadam", "radam", "adabelief", "yogi", "lion",
    "amsgrad", "muon",
)  # fmt: skip

CLAIMS = (  # problem, who is quicker, than whom
    ("turned", "momentum", "sgd"),
    ("turned", "nesterov", "sgd"),
    ("turned", "lbfgs", "momentum"),
    ("bowl", "adam", "sgd"),
    ("turned", "momentum", "adam"),
    ("valley", "momentum", "sgd"),
    ("valley", "adam", "momentum"),
    ("layers", "adam", "momentum"),
    ("layers", "muon", "adam"),
    ("noise", "schedule_free_sgd", "sgd"),
    ("noise", "adam", "sign_sgd"),
    ("plateau", "adam", "momentum"),
    ("sparse", "adagrad", "sgd"),
    ("sparse", "adam", "sgd"),
    ("logistic", "adam", "sgd"),
    ("logistic", "momentum", "sgd"),
    ("reddi", "amsgrad", "adam"),
)


def maker(library: Any, entry: Entry, problem_given: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """``rate -> transformation``, or None where the library has no such recipe."""
    if entry.recipe == "mechanize":
        if library is gradtx:
            return lambda rate: gradtx.mechanize(gradtx.sgd(rate))
        return lambda rate: optax.contrib.mechanize(optax.sgd(rate))
    constructor = getattr(library, entry.recipe, None) or getattr(getattr(library, "contrib", None), entry.recipe, None)
    if constructor is None:
        return None
    takes = inspect.signature(constructor).parameters
    given = {**entry.arguments, **{name: value for name, value in problem_given.items() if name in takes}}
    if "max_learning_rate" in list(takes)[1:]:
        return lambda rate: constructor(rate, max_learning_rate=rate, **given)
    return lambda rate: constructor(rate, **given)


# ---------------------------------------------------------------------------------------------------------------------
# Runs.


class Run(NamedTuple):
    """What is known of a run after a step."""

    params: Any
    state: Any
    diverged: jax.Array
    below: jax.Array
    """Steps in a row below the target."""
    there: jax.Array
    """The first of the steps that held it, 0 before."""
    late: jax.Array
    """The sum of the gaps of the last steps."""


class Found(NamedTuple):
    """Arrays ``[rate, seed]``; ``steps`` is inf for a run that does not get there."""

    steps: np.ndarray
    diverged: np.ndarray
    late: np.ndarray


def kinds(problems: Sequence[Problem]) -> list[Problem]:
    """One problem of each loss: the others of it differ in their numbers only."""
    return list({problem.loss: problem for problem in problems}.values())


def program(
    make: Callable[[Any], Any], problems: Sequence[Problem], averaged: bool, library: Any
) -> Callable[..., Run]:
    """``(index of the kind, numbers of each kind, rates, steps, target, hold) -> runs``, compiled once for all."""
    of_each_kind = kinds(problems)

    def among(index, numbers, function):
        """``function(problem, numbers)`` of the kind in question, without computing the others."""
        pairs = zip(of_each_kind, numbers, strict=True)
        return jax.lax.switch(index, [lambda n=n, p=p: function(p, n) for p, n in pairs])

    def transformation(rate):
        tx = make(rate)
        return tx if library is gradtx else optax.with_extra_args_support(tx)

    def projected(params):
        for problem in problems:
            params = jax.tree.map(problem.project, params) if problem.project else params
        return params

    def start(index, numbers, rate):
        params = parameters(among(index, numbers, lambda problem, n: n["start"]))
        none = jnp.zeros((), jnp.int32)
        return Run(params, transformation(rate).init(params), none > 0, none, none, jnp.zeros(()))

    def step(index, numbers, rate, run, t, steps, target, hold):
        tx = transformation(rate)
        x = vector(run.params)

        def value_fn(params):
            return among(index, numbers, lambda problem, n: problem.loss(vector(params), n, t))

        value, grad = among(index, numbers, lambda problem, n: jax.value_and_grad(problem.loss)(x, n, t))
        grad = parameters(grad)
        signals = {"value": value, "grad": grad, "value_fn": value_fn}
        if library is optax:
            signals["obj_fn"] = value_fn  # Sophia's name for it there
        updates, state = tx.update(grad, run.state, run.params, **signals)
        params = projected(library.apply_updates(run.params, updates))
        offered = params
        if averaged and not any(problem.project for problem in problems):  # else they offer the point they visit,
            # since the average is found from it and from one that is not projected
            read = gradtx.averaged_params if library is gradtx else optax.contrib.schedule_free_eval_params
            offered = read(state, params)
        gap = among(index, numbers, lambda problem, n: problem.gap(vector(offered), n))
        finite = jnp.isfinite(jnp.sum(vector(offered)))  # a maximum on a CPU may drop a NaN
        diverged = run.diverged | ~(finite & (gap <= TOO_FAR))
        below = jnp.where((gap <= target) & ~diverged, run.below + 1, 0)
        there = jnp.where((below == hold) & (run.there == 0), t + 2 - hold, run.there)
        late = run.late + jnp.where(t >= steps - hold, gap, 0.0)
        return Run(params, state, diverged, below, there, late)

    def over_all(function, carried):
        seeds = jax.vmap(function, in_axes=(0, None, *[0] * carried))
        return jax.vmap(seeds, in_axes=(None, 0, *[0] * carried))

    def run_all(index, numbers, rates, steps, target, hold):
        runs = over_all(lambda n, rate: start(index, n, rate), 0)(numbers, rates)

        def body(t, runs):
            return over_all(lambda n, rate, run: step(index, n, rate, run, t, steps, target, hold), 1)(
                numbers, rates, runs
            )

        return jax.lax.fori_loop(0, steps, body, runs)

    return jax.jit(run_all)


def measured(
    make: Callable[[Any], Any],
    problems: Sequence[Problem],
    numbers: Mapping[str, Numbers],
    entry: Entry,
    library: Any,
    rates: np.ndarray = RATES,
) -> list[Found]:
    compiled = program(make, problems, entry.averaged, library)
    found = []
    for problem in problems:
        losses = [kind.loss for kind in kinds(problems)]
        given = [numbers[(problem if kind.loss is problem.loss else kind).name] for kind in kinds(problems)]
        steps = max(round(problem.steps * entry.part_of_steps), 2 * problem.hold)
        runs = compiled(
            jnp.int32(losses.index(problem.loss)), given, jnp.asarray(rates, jnp.float32), jnp.int32(steps),
            jnp.float32(problem.target), jnp.int32(problem.hold),
        )  # fmt: skip
        there, diverged = np.asarray(runs.there, np.float64), np.asarray(runs.diverged)
        steps_needed = np.where((there > 0) & ~diverged, there, np.inf)
        found.append(Found(steps_needed, diverged, np.asarray(runs.late) / problem.hold))
    return found


class Summary(NamedTuple):
    """Of one optimizer on one problem."""

    steps: np.ndarray
    """For each seed, with the learning rate that is best for the others."""
    rate: float
    decades: float
    cut: bool
    """The grid ends before the learning rates that get there do."""
    diverged: float

    @property
    def median(self) -> float:
        """With an even number of seeds the larger of the two in the middle: it is one that was measured."""
        return float(np.sort(self.steps)[len(self.steps) // 2])


def summary(found: Found) -> Summary:
    seeds = np.arange(found.steps.shape[1])
    chosen = [_best(found.steps[:, seeds != seed]) for seed in seeds]
    typical = _upper_median(found.steps)
    good = np.isfinite(typical)
    return Summary(
        found.steps[chosen, seeds], float(RATES[_best(found.steps)]) if good.any() else np.nan,
        float(good.sum() / PER_DECADE), bool(good[0] or good[-1]), float(found.diverged.mean()),
    )  # fmt: skip


def _best(steps: np.ndarray) -> int:
    """The learning rate with which the slowest seed is quickest; where one of them never gets there, the median."""
    return int(np.lexsort((_upper_median(steps), np.max(steps, axis=1)))[0])


def _upper_median(steps: np.ndarray) -> np.ndarray:
    return np.sort(steps, axis=1)[:, steps.shape[1] // 2]


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``a / b`` for each seed, where at least one of both got there; inf and 0 where the other did not."""
    some = np.isfinite(a) | np.isfinite(b)
    return np.divide(a[some], b[some])


def middle(values: np.ndarray) -> float:
    return float(np.sort(values)[len(values) // 2]) if len(values) else np.nan


def alike(a: Found, b: Found) -> float:
    """The share of runs, a rate and a seed each, that both need the same steps for, to 2 % or one step."""
    both = np.isfinite(a.steps) & np.isfinite(b.steps)
    near = np.zeros(both.shape, bool)
    near[both] = np.abs(a.steps[both] - b.steps[both]) <= np.maximum(1.0, 0.02 * b.steps[both])
    return float(np.mean(near | (np.isinf(a.steps) & np.isinf(b.steps))))


# ---------------------------------------------------------------------------------------------------------------------
# What the theory says of a quadratic with eigenvalues from 1 / condition to 1.


class Method(NamedTuple):
    """``factor``: what a step multiplies the error with in the end. ``edge``: the largest rate that converges."""

    title: str
    arguments: Mapping[str, Any]
    rate: float
    factor: float
    edge: float


def methods(condition: float) -> list[Method]:
    """Polyak 1964, and Lessard, Recht and Packard 2016 (arXiv:1408.3595), proposition 1."""
    low, root = 1.0 / condition, np.sqrt(condition)
    heavy, ahead = ((root - 1) / (root + 1)) ** 2, (root - 1) / (root + 1)
    return [
        Method("gradient descent", {}, 2 / (1 + low), (condition - 1) / (condition + 1), 2.0),
        Method("heavy ball", {"momentum": heavy}, 4 / (1 + np.sqrt(low)) ** 2, np.sqrt(heavy), 2 * (1 + heavy)),
        Method("Nesterov", {"momentum": ahead, "nesterov": True}, 1.0, 1 - 1 / root, 2 * (1 + ahead) / (1 + 2 * ahead)),
    ]


def theory(condition: float = 100.0, seeds: int = SEEDS) -> list[dict[str, Any]]:
    """The factor between steps 150 and 300, of the seed that is farthest off, and the largest rate that converges.

    At the best rate of the momentum methods two eigenvalues of the iteration meet, so that the error falls as
    ``t * factor^t``: the measured factor is larger by up to ``2^(1/150)``, 0.5 %. The optimum is at zero, where float32
    has the room for it. Rates around the edge are 0.25 % apart.
    """
    hessians, starts = [], []
    for seed in range(seeds):
        random = np.random.default_rng([seed, 1])
        axes = rotation(random)
        hessians.append(axes * spread(condition) @ axes.T)
        starts.append(random.normal(size=SIZE))
    given = jnp.asarray(np.stack(hessians), jnp.float32), jnp.asarray(np.stack(starts), jnp.float32)
    rows = []
    for method in methods(condition):

        def sizes(rate, hessian, x, lengths, method=method):
            def body(_, carry):
                x, state = carry
                updates, state = tx.update(hessian @ x, state, x)
                return gradtx.apply_updates(x, updates), state

            tx = gradtx.sgd(rate, **method.arguments)
            middle = jax.lax.fori_loop(0, lengths[0], body, (x, tx.init(x)))
            end = jax.lax.fori_loop(0, lengths[1], body, middle)
            return jnp.stack([jnp.sum(jnp.abs(point)) for point in (x, middle[0], end[0])])

        over = jax.jit(jax.vmap(jax.vmap(sizes, in_axes=(None, 0, 0, None)), in_axes=(0, None, None, None)))
        _, half, end = np.asarray(over(jnp.float32([method.rate]), *given, jnp.int32([150, 150])), np.float64)[0].T
        factors = (end / half) ** (1 / 150)
        tried = method.edge * np.linspace(0.9, 1.1, 81)
        lengths = np.asarray(over(jnp.asarray(tried, jnp.float32), *given, jnp.int32([2000, 2000])), np.float64)
        fell = np.all(lengths[:, :, 2] < lengths[:, :, 0], axis=1)
        farthest = factors[np.argmax(np.abs(factors - method.factor))]
        rows.append({
            "method": method.title, "rate": method.rate, "factor": float(farthest), "in theory": method.factor,
            "off": float(farthest / method.factor - 1), "largest rate": float(tried[fell].max(initial=0.0)),
            "its theory": method.edge,
        })  # fmt: skip
    return rows


# ---------------------------------------------------------------------------------------------------------------------
# Tables and a picture.


def draw(path: str, names: Sequence[str], problems: Sequence[str], found: Mapping[tuple[str, str], Summary]) -> None:
    """Steps over the fewest of the problem, and decades of learning rate: an optimizer a line, the best first."""
    import matplotlib.pyplot as plt
    from matplotlib import colors

    plt.switch_backend("Agg")
    steps = np.array([[found[name, problem].median for problem in problems] for name in names])
    over = np.where(np.isfinite(steps), steps, np.nan) / np.min(steps, axis=0)
    order = np.argsort(np.log(np.nan_to_num(over, nan=100.0)).mean(axis=1))

    figure, axes = plt.subplots(1, 2, figsize=(13, 0.21 * len(names) + 2.4), sharey=True, layout="constrained")

    def panel(axis, shade, texts, colours, scale, title, label, dark):
        axis.set_facecolor("0.92")
        image = axis.imshow(shade, cmap=colours, norm=scale, aspect="auto")
        for row, column in np.ndindex(*shade.shape):
            there = np.isfinite(shade[row, column])
            tone = "0.6" if not there else "white" if dark(scale(shade[row, column])) else "black"
            said = texts[row, column] if there else "never"
            axis.text(column, row, said, ha="center", va="center", fontsize=7.5, color=tone)
        axis.set_xticks(range(len(problems)), problems)
        axis.tick_params(length=0, labeltop=True, labelbottom=False)
        axis.set_title(title, fontsize=11, pad=8)
        axis.spines[:].set_visible(False)
        bar = figure.colorbar(image, ax=axis, location="bottom", shrink=0.7, aspect=50, pad=0.01, extend="max")
        bar.set_label(label)
        return bar

    bar = panel(
        axes[0], over[order], np.vectorize(lambda value: f"{value:.0f}")(steps[order]), "viridis_r",
        colors.LogNorm(1, 60), "steps to the target, at each method's best learning rate",
        "steps over the fewest that a method needs on the problem", lambda tone: tone > 0.45,
    )  # fmt: skip
    bar.set_ticks([1, 2, 5, 10, 20, 50], labels=["1", "2", "5", "10", "20", "50"])
    bar.minorticks_off()
    widths = np.array([[found[names[i], problem].decades for problem in problems] for i in order])
    panel(
        axes[1], np.where(widths > 0, widths, np.nan), np.vectorize(lambda value: f"{value:g}")(widths), "viridis",
        colors.Normalize(0, 4), "how wide the range of learning rates is that reach it",
        "decades of learning rate", lambda tone: tone < 0.55,
    )  # fmt: skip
    axes[0].set_yticks(range(len(names)), [names[i] for i in order], fontsize=8.5)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def spoken(value: float) -> str:
    """A ratio of steps; ``never`` where only the one below the line got there."""
    return "-" if np.isnan(value) else "never" if np.isinf(value) else f"{value:.2f}"


def _plain(value: Any) -> Any:
    """For JSON, which has no inf: None for a run that never gets there."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def cell(own: Summary) -> str:
    steps = f"{own.median:.0f}" if np.isfinite(own.median) else "-"
    return f"{steps} / {own.decades:g}{'+' if own.cut else ''}" if own.decades else "-"


def claims_of(summaries: Mapping[tuple[str, str], Summary]) -> list[dict[str, Any]]:
    rows = []
    for title, quick, slow in CLAIMS:
        if (quick, title) in summaries and (slow, title) in summaries:
            ratios = np.sort(ratio(summaries[slow, title].steps, summaries[quick, title].steps))
            low, high = (ratios[0], ratios[-1]) if len(ratios) == SEEDS else (0.0, np.inf)
            rows.append({
                "on": title, "quicker": quick, "than": slow, "ratio": spoken(middle(ratios)),
                "interval": f"{spoken(low)} to {spoken(high)}", "seeds": SEEDS,
                "verdict": "holds" if low > 1 else "the other way" if high < 1 else "undecided",
            })  # fmt: skip
    return rows


Results = Mapping[str, list[Found]]
TITLES = [problem.name for problem in (*PROBLEMS, REDDI)]


def rows_of(ours: Results, theirs: Results, summaries: Mapping[tuple[str, str], Summary]) -> list[dict[str, Any]]:
    """One for each optimizer and problem, with its peer's where it has one."""
    rows = []
    for (name, title), own in summaries.items():
        row: dict[str, Any] = {
            "optimizer": name, "problem": title, "steps": own.median, "fewest": float(own.steps.min()),
            "most": float(own.steps.max()), "rate": own.rate, "decades": own.decades, "cut": own.cut,
            "diverged": own.diverged, "steps of seeds": own.steps.tolist(),
        }  # fmt: skip
        if name in theirs:
            index = TITLES.index(title)
            peer = summary(theirs[name][index])
            row |= {
                "Optax steps": peer.median, "Optax decades": peer.decades,
                "steps/Optax": middle(ratio(own.steps, peer.steps)),
                "runs alike": alike(ours[name][index], theirs[name][index]),
            }  # fmt: skip
        rows.append(row)
    return rows


def measure_all(names: Sequence[str], every_peer: bool) -> dict[tuple[Any, str], list[Found] | str | None]:
    """For each library and name the runs on every problem, the reason why not, or None where it has no such recipe."""
    numbers = {problem.name: numbers_of(problem) for problem in (*PROBLEMS, REDDI)}

    def everything(library: Any, name: str) -> list[Found] | str | None:
        entry = ENTRIES[name]
        make, forgetful = (maker(library, entry, extra) for extra in ({}, {"b2": 0.99}))
        if make is None or forgetful is None:
            return None
        try:
            usual = measured(make, PROBLEMS, numbers, entry, library)
            return usual + measured(forgetful, [REDDI], numbers, entry, library)
        except Exception as error:  # a recipe that fails is a line of the report, not the end of it
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"

    wanted = [(gradtx, name) for name in names]
    wanted += [(optax, name) for name in names if name in PEERS or every_peer]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        tasks = {key: pool.submit(everything, *key) for key in wanted}
        return {key: task.result() for key, task in tasks.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT)}")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(ENTRIES), help="only these optimizers")
    parser.add_argument("--every-peer", action="store_true", help="all of Optax's of the same names, not the usual")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    parser.add_argument("--picture", metavar="FILE", help="draw steps and decades there")
    given = parser.parse_args()

    began = time.perf_counter()
    results = measure_all(given.only or (SHORT if given.short else sorted(ENTRIES)), given.every_peer)
    quadratics = theory()
    seconds = time.perf_counter() - began

    left_out = [f"{name}: {reason}" for name, reason in LEFT_OUT.items()]
    left_out += [
        f"{whose.__name__}.{name}: {found}" for (whose, name), found in results.items() if isinstance(found, str)
    ]
    ours, theirs = (
        {name: found for (whose, name), found in results.items() if whose is library and isinstance(found, list)}
        for library in (gradtx, optax)
    )
    summaries = {(name, title): summary(ours[name][index]) for name in ours for index, title in enumerate(TITLES)}
    rows, claims = rows_of(ours, theirs, summaries), claims_of(summaries)

    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("Steps to the target / decades of learning rate that reach it; + where the grid ends first, - for never\n")
    print(table(
        [{"optimizer": name, **{title: cell(summaries[name, title]) for title in TITLES}} for name in ours],
        ["optimizer", *TITLES],
    ))  # fmt: skip
    print("\nSteps over Optax's, and on the worst problem the share of runs that need the same steps, to 2 %\n")
    of = {name: [row for row in rows if row["optimizer"] == name] for name in theirs}
    print(table(
        [{"optimizer": name, **{row["problem"]: spoken(row["steps/Optax"]) for row in of[name]},
          "runs alike": min(row["runs alike"] for row in of[name])} for name in of],
        ["optimizer", *TITLES, "runs alike"],
    ))  # fmt: skip
    print(f"\nWho needs fewer steps: ratio, and the interval of its median with probability 0.992, {SEEDS} seeds\n")
    print(table(claims, ["on", "quicker", "than", "ratio", "interval", "seeds", "verdict"]))
    print("\nQuadratic, condition 100: factor of the error per step, and the largest rate that converges\n")
    print(table(quadratics, list(quadratics[0])))
    print(f"\nleft out: {'; '.join(left_out)}")
    print(f"{len(ours)} optimizers, {len(theirs)} peers, {len(TITLES)} problems, {seconds:.0f} s")

    if given.picture:
        draw(given.picture, list(ours), TITLES, summaries)
    if given.json:
        write_json(
            given.json, [{name: _plain(value) for name, value in row.items()} for row in rows], benchmark="convergence",
            arguments={"rates": RATES.tolist(), "seeds": SEEDS},
            problems={p.name: {"target": p.target, "steps": p.steps, "held for": p.hold} for p in (*PROBLEMS, REDDI)},
            claims=claims, theory=quadratics, left_out=left_out,
        )  # fmt: skip
    return int(any(found is None or isinstance(found, str) for (whose, _), found in results.items() if whose is gradtx))


if __name__ == "__main__":
    sys.exit(main())
