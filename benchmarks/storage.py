"""Whether optimizers with stored state train as with state in float32: losses over seeds, and bytes for a parameter.

    python -m benchmarks.storage [--quick] [--only TASK ...] [--text FILE] [--data DIR] [--json FILE] [--picture FILE]
    python -m benchmarks.storage --read FILE [--page FILE] [--picture FILE]

AdamW with its state in every layout, and with parameters in bfloat16, on three problems of ``benchmarks.convergence``,
on a dense network for scikit-learn's digits (``--data``: a folder with four IDX files, as MNIST comes) and on a small
transformer that reads characters of the project's own documentation (``--text``: any file). All of a model is computed
in float32; only what is kept between steps differs. Nothing stays in float32 for being small: biases and norms are
stored as well. Learning rate and schedule are those that suit float32, for all.

A seed draws problem, first parameters and batches; every way of keeping sees the same seeds. The *loss* is the last
one: for the problems the decimal logarithm of the gap over that of the start, for the networks the mean on held-out
examples, in nats. *Difference* is loss minus float32's, paired by seed, with its 95 % interval (Student's t). *Within*
the seeds' spread is what ends, in the mean over seeds, at most one standard deviation of float32's losses over seeds
above float32, and is finite for every seed. Were storage of no effect but another draw of the same noise, 7 % of the
verdicts would be "no" by chance (Student's t with 5 degrees of freedom above 3^0.5).

*State* and *total* are bytes for a parameter; total has weights, gradients and state. The problems have 31 parameters,
and steps counted in the state stand out there. Master weights are judged as ``storage.master_params`` gives them.
``--page`` puts the table into a page of the documentation, between two comments; ``--read`` takes the results of an
earlier ``--json``.
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import gradtx
from benchmarks import convergence
from benchmarks.reporting import environment, table, write_json
from gradtx import losses, schedules, storage

ROOT = pathlib.Path(__file__).parents[1]
BEGIN, END = "<!-- measured -->\n", "\n<!-- end of what was measured -->"
EXACT = "float32"
SEEDS = 6
WARM_UP = 0.1  # of the steps; then a half cosine to 0

# ---------------------------------------------------------------------------------------------------------------------
# Ways of keeping. A learning rate, or a schedule of it, makes the transformation.


class Kept(NamedTuple):
    """``around(adamw)`` is the optimizer; parameters and gradients are in ``dtype``."""

    around: Callable[[gradtx.GradientTransformation], gradtx.GradientTransformation]
    dtype: Any = jnp.float32


def linear(block: int = 32) -> storage.Layout:
    """Second moments in plain codes of 8 bits, ``round(255 v / s)`` of the block's largest ``s``, zero among them.

    What is signed is kept as ``storage.quantized()`` does, so that this alone is what differs.
    """
    signed = storage.quantized(block=block)

    def scale(scales, shape):
        return jnp.repeat(scales, block, axis=-1)[..., : shape[-1]]

    def encode(array, role, draw):
        if role.kind != "non-negative":
            return signed.encode(array, role, draw)
        count = -(-array.shape[-1] // block)
        padded = jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, count * block - array.shape[-1])])
        scales = jnp.max(padded.reshape(*array.shape[:-1], count, block), axis=-1)
        share = array / jnp.maximum(scale(scales, array.shape), jnp.finfo(jnp.float32).tiny)
        return storage.Codes(jnp.round(255 * share).astype(jnp.uint8), scales)

    def decode(kept, role):
        if role.kind != "non-negative":
            return signed.decode(kept, role)
        return kept.codes.astype(jnp.float32) / 255 * scale(kept.scales, kept.codes.shape)

    return storage.Layout(encode, decode, signed.refuses, reads="leaf")


def in_layout(layout: storage.Layout) -> Callable[[gradtx.GradientTransformation], gradtx.GradientTransformation]:
    return lambda tx: storage.stored(tx, layout)


KEPT = {
    EXACT: Kept(lambda tx: tx),
    "bfloat16": Kept(in_layout(storage.cast(jnp.bfloat16))),
    "bfloat16, stochastic": Kept(in_layout(storage.cast(jnp.bfloat16, rounding="stochastic"))),
    "8 bits": Kept(in_layout(storage.quantized())),
    "8 bits, stochastic": Kept(in_layout(storage.quantized(rounding="stochastic"))),
    "4 bits": Kept(in_layout(storage.quantized(bits=4))),
    "bfloat16 weights, masters, 8 bits": Kept(
        lambda tx: storage.master_weights(storage.stored(tx, storage.quantized()), bits=8), jnp.bfloat16
    ),
    # What the weights cost that the model is computed with, whatever the state.
    "bfloat16 weights, masters": Kept(storage.master_weights, jnp.bfloat16),
    "bfloat16 weights alone": Kept(lambda tx: tx, jnp.bfloat16),
    "8 bits, linear second moment": Kept(in_layout(linear())),
}

# ---------------------------------------------------------------------------------------------------------------------
# Tasks.


class Task(NamedTuple):
    """``start`` and ``own`` have a row for each seed; ``shared`` are arrays that all seeds read.

    Trained is ``loss(params, own, shared, t)``, judged is ``last(params, own, shared)``.
    """

    name: str
    start: Any
    own: Any
    shared: Any
    loss: Callable[[Any, Any, Any, jax.Array], jax.Array]
    last: Callable[[Any, Any, Any], jax.Array]
    rate: float
    steps: int
    weight_decay: float = 0.0


STEPS = {"bowl": 200, "noise": 1000, "sparse": 400}  # float32 is below the suite's target then, but not at its floor
BLOCK = 32


def problem_task(name: str, quick: bool = False) -> Task:
    """A problem of the convergence suite, its parameters one vector of 32, one block of codes, of which 31 count.

    Its own matrices of 4 x 4 and 4 x 3 would have a scale for every 3 or 4 numbers, which says nothing about blocks.
    """
    problem = {entry.name: entry for entry in convergence.PROBLEMS}[name]
    rows = convergence.numbers_of(problem)
    numbers = {key: jnp.asarray(value[:SEEDS]) for key, value in rows.items()}
    start = {"x": jnp.pad(numbers["start"], ((0, 0), (0, BLOCK - convergence.SIZE)))}

    def loss(params, own, shared, t):
        return problem.loss(params["x"][: convergence.SIZE], own, t)

    def last(params, own, shared):
        return jnp.log10(jnp.maximum(problem.gap(params["x"][: convergence.SIZE], own), 1e-30))

    return Task(name, start, numbers, {}, loss, last, 0.1, STEPS[name] // 5 if quick else STEPS[name])


def keys_of(seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.arange(seeds))


def matrix(key: jax.Array, inputs: int, outputs: int, scale: float = 1.0) -> jax.Array:
    """Entries with a standard deviation of ``scale / sqrt(inputs)``."""
    return scale * jax.random.normal(key, (inputs, outputs)) / jnp.sqrt(inputs)


def dense(key: jax.Array, inputs: int, outputs: int, scale: float = 1.0) -> dict[str, jax.Array]:
    return {"kernel": matrix(key, inputs, outputs, scale), "bias": jnp.zeros(outputs)}


def applied(layer: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ layer["kernel"] + layer["bias"]


CLASSES = 10


class InputError(Exception):
    """A text or a folder that cannot be used; the message is one line."""


def digits_data(folder: pathlib.Path | None) -> dict[str, np.ndarray]:
    """Images in rows, and labels; scikit-learn's in four fifths for training and one held out."""
    if folder is not None:
        from examples.idx import DataError, idx_digits

        try:
            train, test = idx_digits(folder)
        except DataError as error:
            raise InputError(str(error)) from None
        return {
            "images": train["image"].reshape(len(train["image"]), -1), "labels": train["label"],
            "held images": test["image"].reshape(len(test["image"]), -1), "held labels": test["label"],
        }  # fmt: skip
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[: len(order) * 4 // 5], order[len(order) * 4 // 5 :]
    images, labels = np.float32(images / 16), np.int32(labels)
    return {"images": images[train], "labels": labels[train], "held images": images[test], "held labels": labels[test]}


def digits_task(folder: pathlib.Path | None = None, quick: bool = False, batch: int = 64) -> Task:
    """Three dense layers with 50,826 parameters for 8x8 pixels, and label smoothing of 0.1."""
    data = {name: jnp.asarray(array) for name, array in digits_data(folder).items()}

    def create(key):
        first, second, third = jax.random.split(key, 3)
        return {
            "first": dense(first, data["images"].shape[1], 256, 2**0.5),
            "second": dense(second, 256, 128, 2**0.5),
            "third": dense(third, 128, CLASSES),
        }

    def cross_entropy(params, images, labels):
        hidden = jax.nn.relu(applied(params["first"], images))
        logits = applied(params["third"], jax.nn.relu(applied(params["second"], hidden)))
        return jnp.mean(losses.softmax_cross_entropy(logits, 0.9 * jax.nn.one_hot(labels, CLASSES) + 0.1 / CLASSES))

    def loss(params, key, data, t):
        rows = jax.random.randint(jax.random.fold_in(key, t), (batch,), 0, len(data["labels"]))
        return cross_entropy(params, data["images"][rows], data["labels"][rows])

    def last(params, key, data):
        return cross_entropy(params, data["held images"], data["held labels"])

    keys = keys_of(SEEDS)
    return Task("digits", jax.vmap(create)(keys), keys, data, loss, last, 3e-3, 50 if quick else 400, 0.05)


ALPHABET, CONTEXT, WIDTH, HEADS, LAYERS = 96, 32, 64, 4, 2


def text_data(path: pathlib.Path | None) -> dict[str, np.ndarray]:
    """The text as numbers: the 95 most frequent characters, and one number for all others; a tenth is held out."""
    pages = [path] if path is not None else [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    try:
        text = "\n".join(page.read_text("utf-8") for page in pages)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 ({error})") from None
    if len(text) < 20 * CONTEXT:
        raise InputError(f"{path}: expected {20 * CONTEXT} characters or more, got {len(text)}")
    characters, counts = np.unique(np.array(list(text)), return_counts=True)
    frequent = characters[np.argsort(-counts, kind="stable")[: ALPHABET - 1]]
    number = {character: index for index, character in enumerate(frequent)}
    numbers = np.array([number.get(character, ALPHABET - 1) for character in text], np.int32)
    cut = len(numbers) * 9 // 10
    return {"text": numbers[:cut], "held": numbers[cut:]}


def create_block(key: jax.Array) -> dict[str, jax.Array]:
    keys = jax.random.split(key, 4)
    return {
        "norm": jnp.ones(WIDTH),
        "attention": matrix(keys[0], WIDTH, 3 * WIDTH),
        "output": matrix(keys[1], WIDTH, WIDTH, LAYERS**-0.5),
        "second_norm": jnp.ones(WIDTH),
        "hidden": matrix(keys[2], WIDTH, 4 * WIDTH),
        "down": matrix(keys[3], 4 * WIDTH, WIDTH, LAYERS**-0.5),
    }


def create_transformer(key: jax.Array) -> Any:
    """112,896 parameters: blocks of attention and a hidden layer, stacked, without biases, and a head of its own."""
    for_embed, for_place, for_blocks, for_head = jax.random.split(key, 4)
    return {
        "embed": 0.1 * jax.random.normal(for_embed, (ALPHABET, WIDTH)),
        "place": 0.1 * jax.random.normal(for_place, (CONTEXT, WIDTH)),
        "blocks": jax.vmap(create_block)(jax.random.split(for_blocks, LAYERS)),
        "head": matrix(for_head, WIDTH, ALPHABET, 0.1),
    }


def normalized(scale: jax.Array, x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def read(params: Any, characters: jax.Array) -> jax.Array:
    """``[n, CONTEXT]`` characters to logits of the next one."""

    def through(x, block):
        parts = (normalized(block["norm"], x) @ block["attention"]).reshape(*x.shape[:-1], HEADS, 3 * WIDTH // HEADS)
        seen = jax.nn.dot_product_attention(*jnp.split(parts, 3, axis=-1), is_causal=True)
        x = x + seen.reshape(x.shape) @ block["output"]
        return x + jax.nn.gelu(normalized(block["second_norm"], x) @ block["hidden"]) @ block["down"], None

    x, _ = jax.lax.scan(through, params["embed"][characters] + params["place"], params["blocks"])
    return x @ params["head"]


def text_task(path: pathlib.Path | None = None, quick: bool = False, batch: int = 8) -> Task:
    """Characters of real text, 32 at a time."""
    data = {name: jnp.asarray(array) for name, array in text_data(path).items()}

    def cross_entropy(params, text, starts):
        windows = text[starts[:, None] + jnp.arange(CONTEXT + 1)]
        logits = read(params, windows[:, :-1])
        return jnp.mean(losses.softmax_cross_entropy(logits, windows[:, 1:]))

    def loss(params, key, data, t):
        starts = jax.random.randint(jax.random.fold_in(key, t), (batch,), 0, len(data["text"]) - CONTEXT)
        return cross_entropy(params, data["text"], starts)

    def last(params, key, data):
        starts = jnp.asarray(np.linspace(0, len(data["held"]) - CONTEXT - 1, 128).astype(np.int32))
        return cross_entropy(params, data["held"], starts)

    keys = keys_of(SEEDS)
    return Task("text", jax.vmap(create_transformer)(keys), keys, data, loss, last, 5e-3, 20 if quick else 220, 0.1)


NAMES = (*STEPS, "digits", "text")


def task_of(name: str, options: argparse.Namespace) -> Task:
    if name == "digits":
        return digits_task(options.data, options.quick)
    return text_task(options.text, options.quick) if name == "text" else problem_task(name, options.quick)


# ---------------------------------------------------------------------------------------------------------------------
# Runs.


def optimizer(task: Task, kept: Kept) -> gradtx.GradientTransformation:
    rate = schedules.warmup_cosine_decay_schedule(0.0, task.rate, int(WARM_UP * task.steps), task.steps)
    return kept.around(gradtx.adamw(rate, weight_decay=task.weight_decay))


def in_dtype(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def trained(task: Task, kept: Kept) -> np.ndarray:
    """The last loss for each seed."""
    tx = optimizer(task, kept)

    def run(start, own, shared):
        params = in_dtype(start, kept.dtype)

        def step(t, carried):
            params, state = carried
            grads = jax.grad(lambda p: task.loss(in_dtype(p, jnp.float32), own, shared, t))(params)
            updates, state = tx.update(grads, state, params)
            return gradtx.apply_updates(params, updates), state

        params, state = jax.lax.fori_loop(0, task.steps, step, (params, tx.init(params)))
        if isinstance(state, storage.RemainderState):
            params = storage.master_params(state, params)
        return task.last(in_dtype(params, jnp.float32), own, shared)

    return np.asarray(jax.jit(jax.vmap(run, in_axes=(0, 0, None)))(task.start, task.own, task.shared), np.float64)


class Bytes(NamedTuple):
    """For a parameter."""

    state: float
    total: float


def bytes_of(task: Task, kept: Kept) -> Bytes:
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], kept.dtype), task.start)
    state = storage.state_bytes(optimizer(task, kept), params) / gradtx.tree.size(params)
    return Bytes(state, state + 2 * jnp.dtype(kept.dtype).itemsize)


def row_of(task: str, name: str, bytes_each: Bytes, last: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """What is said of one way of keeping on one task."""
    unit = float(np.std(exact, ddof=1))
    away = last - exact
    finite = bool(np.isfinite(last).all())
    mean, interval = float(np.mean(away)), [float("inf")] * 2
    if finite:
        half = stats.t.ppf(0.975, len(away) - 1) * np.std(away, ddof=1) / np.sqrt(len(away))
        interval = [float(mean - half), float(mean + half)]
    return {
        "task": task, "kept": name, "state": bytes_each.state, "total": bytes_each.total,
        "loss": float(np.mean(last)) if finite else float("inf"),
        "deviation": float(np.std(last, ddof=1)) if finite else float("inf"),
        "least": float(np.min(last)) if finite else float("nan"),
        "most": float(np.max(last)) if finite else float("inf"),
        "difference": mean if finite else float("inf"), "interval": interval, "float32 deviation": unit,
        "within": finite and mean <= unit, "not finite": int((~np.isfinite(last)).sum()),
        "losses of seeds": last.tolist(),
    }  # fmt: skip


def measured(task: Task, names: Sequence[str] = tuple(KEPT)) -> list[dict[str, Any]]:
    """A row for each way of keeping, float32 first."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(zip(names, pool.map(lambda name: trained(task, KEPT[name]), names), strict=True))
    return [row_of(task.name, name, bytes_of(task, KEPT[name]), found[name], found[EXACT]) for name in names]


# ---------------------------------------------------------------------------------------------------------------------
# Tables and a picture.

Row = Mapping[str, Any]


def printed(row: Row) -> dict[str, Any]:
    low, high = row["interval"]
    return {
        **row, "loss": f"{row['loss']:.4g}", "deviation": f"{row['deviation']:.2g}",
        "range": f"{row['not finite']} not finite" if row["not finite"] else f"{row['least']:.4g} to {row['most']:.4g}",
        "difference": f"{row['difference']:+.2g}",
        "95 % interval": f"{low:+.2g} to {high:+.2g}", "within": "yes" if row["within"] else "no",
    }  # fmt: skip


COLUMNS = ["task", "kept", "state", "total", "loss", "deviation", "range", "difference", "95 % interval", "within"]


def in_spreads(row: Row, value: float) -> float:
    return value / row["float32 deviation"]


def _grouped(rows: Sequence[Row]) -> tuple[list[str], list[str], dict[tuple[str, str], Row]]:
    """Tasks, ways of keeping, and the row of both."""
    tasks, names = (list(dict.fromkeys(row[column] for row in rows)) for column in ("task", "kept"))
    return tasks, names, {(row["task"], row["kept"]): row for row in rows}


def markdown(rows: Sequence[Row]) -> str:
    """A line for each way of keeping: bytes, and by task the difference in float32's deviations over seeds."""
    tasks, names, of = _grouped(rows)

    def cell(row: Row) -> str:
        if row["kept"] == EXACT:
            return f"{row['loss']:.3g} ± {row['deviation']:.2g}"
        if row["not finite"]:
            return f"**not finite** for {row['not finite']} seeds"
        mean, low, high = (in_spreads(row, value) for value in (row["difference"], *row["interval"]))
        shown = f"{mean:+.2g} ({low:+.2g} to {high:+.2g})"
        return shown if row["within"] else f"**{shown}**"

    lines = [f"| kept | state | in all | {' | '.join(f'`{task}`' for task in tasks)} |"]
    lines.append("|---" + "|--:" * (2 + len(tasks)) + "|")
    for name in names:
        largest = of[tasks[-1], name]
        cells = [name, f"{largest['state']:.2f}", f"{largest['total']:.2f}", *(cell(of[task, name]) for task in tasks)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_table(page: str, document: Mapping[str, Any]) -> str:
    """The page with the table of a ``--json`` between its comments."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    measured_in = document["environment"]
    said = f"{measured_in['device']}, Python {measured_in['python']}, jax {measured_in['jax']}."
    return f"{before}{BEGIN}\n{markdown(document['rows'])}\n\n{said}\n{END}{after}"


def draw(path: str, rows: Sequence[Row]) -> None:
    """A panel for each task, a line for each way of keeping: difference and interval, beside the seeds' spread."""
    import matplotlib.pyplot as plt

    plt.switch_backend("Agg")
    tasks, names, of = _grouped(rows)
    names = [name for name in names if name != EXACT]
    figure, panels = plt.subplots(
        1, len(tasks), figsize=(2.6 + 2.3 * len(tasks), 0.42 * len(names) + 1.6), sharey=True, layout="constrained",
        squeeze=False,
    )  # fmt: skip
    for task, axes in zip(tasks, panels[0], strict=True):
        axes.axvspan(-1, 1, color="#dfeee4")
        axes.axvline(0, color="0.5", linewidth=0.8)
        for place, name in enumerate(names):
            row = of[task, name]
            if not np.isfinite(row["difference"]):
                axes.text(0.98, place, "not finite", transform=axes.get_yaxis_transform(), ha="right", va="center")
                continue
            mean, low, high = (in_spreads(row, value) for value in (row["difference"], *row["interval"]))
            colour = "#1f6f4a" if row["within"] else "#b5341f"
            axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
            axes.plot(mean, place, "o" if row["within"] else "X", color=colour, markersize=7)
        axes.set_xscale("symlog", linthresh=2, linscale=1.2)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -2.5), max(high, 2.5))
        axes.tick_params(length=0, axis="y")
        exact = of[task, EXACT]
        axes.set_title(f"{task}\nfloat32: {exact['loss']:.3g} ± {exact['deviation']:.2g}", fontsize=10)
        far = [10.0**power for power in range(1, 10) if 10.0**power < axes.get_xlim()[1]]
        far = far[:: max(1, -(-len(far) // 2))]
        axes.set_xticks([-1, 0, 1, *far], ["-1", "0", "1", *(f"{value:g}" for value in far)], fontsize=8.5)
        axes.set_xticks([], minor=True)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
    of_last = {name: of[tasks[-1], name] for name in names}
    labels = [f"{name}\nstate {row['state']:.2f} B, in all {row['total']:.2f} B" for name, row in of_last.items()]
    panels[0][0].set_yticks(range(len(names)), labels, fontsize=8.5)
    panels[0][0].invert_yaxis()
    seeds = len(next(iter(of.values()))["losses of seeds"])
    figure.supxlabel(
        f"last loss minus that with float32 state, in standard deviations of float32 over {seeds} seeds; right: worse\n"
        "line: 95 % interval, paired by seed; band: the spread of float32's seeds; cross: beyond it", fontsize=9.5,
    )  # fmt: skip
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _plain(value: Any) -> Any:
    """For JSON, which has neither inf nor NaN: None."""
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def results_in(path: pathlib.Path) -> dict[str, Any]:
    """Results of ``--json``, where a number that was not finite is None."""
    document = json.loads(path.read_text("utf-8"))
    for row in document["rows"]:
        for name in ("loss", "deviation", "least", "most", "difference"):
            row[name] = float("inf") if row[name] is None else row[name]
        row["interval"] = [float("inf") if bound is None else bound for bound in row["interval"]]
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="a fifth of the steps or fewer, to see that all of it runs"
    )
    parser.add_argument("--only", nargs="+", metavar="TASK", choices=NAMES, default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--text", type=pathlib.Path, metavar="FILE", help="instead of the project's documentation")
    parser.add_argument(
        "--data", type=pathlib.Path, metavar="DIR", help="four IDX files, instead of the bundled digits"
    )
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    parser.add_argument("--picture", metavar="FILE", help="draw differences and intervals there")
    parser.add_argument("--read", type=pathlib.Path, metavar="FILE", help="what --json wrote, instead of a run")
    parser.add_argument("--page", type=pathlib.Path, metavar="FILE", help="page to put the table into")
    options = parser.parse_args(arguments)

    if options.read is not None:
        document = results_in(options.read)
        rows = document["rows"]
    else:
        rows, began = [], time.perf_counter()
        try:
            tasks = [task_of(name, options) for name in options.only]
        except InputError as error:
            print(f"storage: {error}", file=sys.stderr)
            return 2
        for task in tasks:
            since = time.perf_counter()
            rows += measured(task)
            print(f"{task.name}: {time.perf_counter() - since:.0f} s", file=sys.stderr)
        document = {"environment": environment(), "rows": rows}
        print(f"{len(rows)} rows, {SEEDS} seeds, {time.perf_counter() - began:.0f} s", file=sys.stderr)
        if options.json is not None:
            plain = [{name: _plain(value) for name, value in row.items()} for row in rows]
            write_json(options.json, plain, benchmark="storage", arguments={"seeds": SEEDS, "quick": options.quick})
    print(", ".join(f"{name} {value}" for name, value in document["environment"].items()))
    print(table([printed(row) for row in rows], COLUMNS))
    if options.picture is not None:
        draw(options.picture, rows)
    if options.page is not None:
        options.page.write_text(with_table(options.page.read_text("utf-8"), document), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
