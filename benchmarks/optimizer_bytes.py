"""Bytes that one compiled step of every optimizer moves, beside Optax's optimizer of the same name and arguments.

    python -m benchmarks.optimizer_bytes [--json FILE] [--rows 500 --columns 200] [--only adam,lion]

A step is ``step(params, state, grads) -> (params, state)``, update and ``apply_updates``, with parameters and state
donated. The compiler counts the bytes that are read and written; they are shown over the bytes of the parameters, with
the state's bytes over those of the parameters beside them. Nothing is run. The body of a loop is counted once, and
of two branches the larger one. ``not taken`` is what of ``gradtx`` belongs to branches for sums that overflow or
vanish; ``usual`` is the rest, the bytes of a step for all other numbers, and ``ratio`` is that over Optax's.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

import gradtx
from benchmarks.reporting import environment, table, write_json
from benchmarks.steps import Peer, bytes_moved, bytes_not_taken, fusions, lowered, transforming

RATE = {"learning_rate": 1e-3}
DECAYED = {**RATE, "weight_decay": 0.1}
DEFAULTS: Mapping[str, Any] = {}
VALUE = {"value": 1.0}


def loss(params: Any) -> jax.Array:
    return sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), start=jnp.zeros(()))


SAME_NAMES: dict[str, Mapping[str, Any]] = {
    "sgd": RATE,
    "sgd, momentum": {**RATE, "momentum": 0.9},
    "sgd, Nesterov": {**RATE, "momentum": 0.9, "nesterov": True},
    "adagrad": RATE,
    "rmsprop": RATE,
    "rmsprop, momentum": {**RATE, "momentum": 0.9},
    "rmsprop, centered": {**RATE, "centered": True},
    **dict.fromkeys(("adam", "amsgrad", "nadam", "adamax", "radam", "adabelief", "yogi", "adopt"), RATE),
    **dict.fromkeys(("adamw", "nadamw", "adamaxw", "lion", "lars", "lamb", "adan", "novograd", "acprop"), DECAYED),
    **dict.fromkeys(("ademamix", "simplified_ademamix", "adadelta", "madgrad"), DECAYED),
    **dict.fromkeys(("sign_sgd", "fromage", "rprop", "sm3", "optimistic_gradient_descent"), RATE),
    "signum": RATE,
    "noisy_sgd": {**RATE, "key": 0},
    "optimistic_adam": {**RATE, "optimism": 1e-3},
    "optimistic_adam_v2": RATE,
    "adafactor": RATE,
    "adafactor, momentum": {**RATE, "momentum": 0.9, "weight_decay_rate": 0.1},
    "schedule_free_sgd": RATE,
    "schedule_free_adamw": DECAYED,
    **dict.fromkeys(("polyak_sgd", "dog", "dowg", "cocob", "prodigy", "dadapt_adamw", "momo", "momo_adam"), DEFAULTS),
    "muon": DECAYED,
    "galore": {**RATE, "rank": 4},
    "sophia": RATE,
    "lbfgs": DEFAULTS,
}
SIGNALS: dict[str, Mapping[str, Any]] = {
    **dict.fromkeys(("polyak_sgd", "momo", "momo_adam"), VALUE),
}
ADAMW = (gradtx.adamw(1e-3, weight_decay=0.1), optax.adamw(1e-3, weight_decay=0.1))


def _room(lib: Any, name: str) -> Any:
    """Where a name of Optax is: some are in its room for contributions."""
    if lib is gradtx:
        return getattr(gradtx, name)
    return getattr(optax.contrib, name, None) or getattr(optax, name)


def named(value: Callable[[int], Any]) -> dict[str, Any]:
    """A tree beside the parameters, with a value for each of the four leaves."""
    return {f"leaf_{index}": value(index) for index in range(4)}


def of_both(make: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """A transformation made of ours and of Optax's functions, around AdamW."""
    return make(gradtx, ADAMW[0]), make(optax, ADAMW[1])


AROUND_ADAMW: dict[str, tuple[Any, Any]] = {
    "clip_by_global_norm": of_both(lambda lib, tx: lib.chain(lib.clip_by_global_norm(1.0), tx)),
    "adaptive_grad_clip": of_both(lambda lib, tx: lib.chain(lib.adaptive_grad_clip(0.1), tx)),
    "masked": of_both(lambda lib, tx: lib.masked(tx, named(lambda index: index % 2 == 0))),
    "partition": of_both(lambda lib, tx: lib.partition({"a": tx, "b": lib.sgd(0.1)}, named(lambda i: "ab"[i % 2]))),
    "flatten": of_both(lambda lib, tx: lib.flatten(tx)),
    "accumulate": (gradtx.accumulate(ADAMW[0], 4), optax.MultiSteps(ADAMW[1], 4)),
    "skip_nonfinite": (gradtx.skip_nonfinite(ADAMW[0]), optax.apply_if_finite(ADAMW[1], 5)),
    "tunable": (gradtx.tunable(gradtx.adamw, learning_rate=1e-3), optax.inject_hyperparams(optax.adamw)(1e-3)),
    "conditionally_mask": of_both(lambda lib, tx: lib.conditionally_mask(tx, lambda step: step % 2 == 0)),
    "schedule_free": (gradtx.schedule_free(ADAMW[0], 1e-3), optax.contrib.schedule_free(ADAMW[1], 1e-3)),
    "mechanize": (gradtx.mechanize(ADAMW[0]), optax.contrib.mechanize(ADAMW[1])),
    "add_noise": of_both(lambda lib, tx: lib.chain(tx, lib.add_noise(0.1, 0.55, 0))),
    "reduce_on_plateau": of_both(lambda lib, tx: lib.chain(tx, _room(lib, "reduce_on_plateau")())),
}  # fmt: skip
SIGNALS["reduce_on_plateau"] = VALUE


def lookahead_of_optax() -> Peer:
    """With the slow parameters in the state, as ours keeps them."""
    tx = optax.lookahead(ADAMW[1], 6, 0.5)

    def init(params):
        return params, tx.init(optax.LookaheadParams(params, params))

    def step(params, state, grads):
        both = optax.LookaheadParams(params, state[0])
        updates, inner = tx.update(grads, state[1], both)
        fast, slow = optax.apply_updates(both, updates)
        return fast, (slow, inner)

    return Peer(init, step)


def sam_of_optax() -> Peer:
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.05))
    tx = optax.contrib.sam(ADAMW[1], ascent, opaque_mode=True)

    def step(params, state, grads):
        del grads
        gradient = jax.grad(loss)
        updates, state = tx.update(gradient(params), state, params, grad_fn=lambda moved, _: gradient(moved))
        return optax.apply_updates(params, updates), state

    return Peer(tx.init, step)


def peers() -> Iterator[tuple[str, Peer, Peer]]:
    """Names, our step, Optax's step."""
    for what, arguments in SAME_NAMES.items():
        name = what.partition(",")[0]
        ours = getattr(gradtx, name)(**arguments)
        theirs = _room(optax, name)(**arguments)
        signals = SIGNALS.get(name, {})
        if name in ("lbfgs", "sophia"):
            called = "obj_fn" if name == "sophia" else "value_fn"
            yield what, searching(ours, gradtx.apply_updates), searching(theirs, optax.apply_updates, called)
            continue
        yield what, transforming(_given(ours, signals), gradtx.apply_updates), _optax_peer(theirs, signals)
    for what, (ours, theirs) in AROUND_ADAMW.items():
        signals = SIGNALS.get(what, {})
        yield f"{what}, adamw", transforming(_given(ours, signals), gradtx.apply_updates), _optax_peer(theirs, signals)
    yield "sam, adamw", searching(gradtx.sam(ADAMW[0], 0.05), gradtx.apply_updates), sam_of_optax()
    slow = gradtx.lookahead(ADAMW[0], 6, 0.5)
    yield "lookahead, adamw", transforming(slow, gradtx.apply_updates), lookahead_of_optax()


def _given(tx: Any, signals: Mapping[str, Any]) -> Any:
    return optax.GradientTransformation(tx.init, lambda g, s, p: tx.update(g, s, p, **signals)) if signals else tx


def _optax_peer(tx: Any, signals: Mapping[str, Any]) -> Peer:
    return transforming(_given(tx, signals), optax.apply_updates)


def searching(tx: Any, apply_updates: Callable[[Any, Any], Any], called: str = "value_fn") -> Peer:
    """With the loss, ``called`` so, and its gradient, which searches and estimates of the Hessian ask for again."""

    def step(params, state, grads):
        del grads
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, **{called: loss})
        return apply_updates(params, updates), state

    return Peer(tx.init, step)


def matrices(rows: int, columns: int) -> dict[str, jax.Array]:
    return named(lambda index: jnp.full((rows, columns), 0.01 * (index + 1), jnp.float32))


def state_bytes(peer: Peer, params: Any) -> float:
    state = jax.eval_shape(peer.init, params)
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if hasattr(leaf, "dtype")]
    return sum(sizes) / sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def measure(params: Any, only: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A row for each optimizer, the largest ratio first."""
    rows = []
    for what, ours, theirs in peers():
        if only and not any(name in what for name in only):
            continue
        row: dict[str, Any] = {"optimizer": what}
        for name, peer in (("gradtx", ours), ("Optax", theirs)):
            compiled = lowered(peer, params).compile()
            row[name] = bytes_moved(compiled, params)
            row[f"{name} state"] = state_bytes(peer, params)
            row[f"{name} fusions"] = fusions(compiled)
        row["not taken"] = bytes_not_taken(ours, params)
        row["usual"] = row["gradtx"] - row["not taken"]
        row["ratio"] = row["usual"] / row["Optax"]
        rows.append(row)
    return sorted(rows, key=lambda row: -row["ratio"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--columns", type=int, default=200)
    parser.add_argument("--only", default="", help="names, with commas")
    parser.add_argument("--json", metavar="FILE", help="write all numbers there")
    given = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    rows = measure(matrices(given.rows, given.columns), tuple(filter(None, given.only.split(","))))
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print("bytes that a compiled step moves, and bytes of the state, over bytes of the parameters\n")
    print(table(rows, ["optimizer", "gradtx", "not taken", "usual", "Optax", "ratio", "gradtx state", "Optax state"]))
    if given.json:
        sizes = {name: getattr(given, name) for name in ("rows", "columns")}
        write_json(given.json, rows, benchmark="optimizer_bytes", arguments=sizes)


if __name__ == "__main__":
    main()
