"""Every name of Optax stands on ``docs/optax_names.md``, and what the page says of it is so."""

import ast
import functools
import importlib
import inspect
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import curvature, linalg, losses, projections, schedules
from tests.laws.trees import types

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "optax_names.md").read_text("utf-8")

STEPS = 6
TOLERANCE = 2e-5  # in float32, 1 - b**t of Optax's corrections is off by up to 162 units in the last place


class Row(NamedTuple):
    section: str
    names: list[str]
    address: str | None
    arguments: str
    does: str

    @property
    def name(self) -> str:
        return self.names[0].removeprefix("optax.")

    @property
    def theirs(self) -> Any:
        return functools.reduce(getattr, self.name.split("."), optax)

    @property
    def ours(self) -> Any:
        assert self.address is not None
        module, name = self.address.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)


def table(section: str) -> list[list[str]]:
    """The cells of the lines of a section's table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]]  # fmt: skip


def rows() -> list[Row]:
    found = []
    for section in PAGE.split("\n## ")[2:]:
        for names, address, arguments, does in table(section):
            address = None if address == "none" else quoted(address)[0]
            found.append(Row(section.splitlines()[0], quoted(names), address, arguments, does))
    return found


EVERYWHERE = [quoted(line[0]) for line in table(PAGE.split("\n## ")[1])]
LAYOUTS = set(EVERYWHERE[0])
NOWHERE = {name for line in EVERYWHERE[:3] for name in line}  # of Optax's parameters
ROWS = rows()
BY_NAME = {row.name: row for row in ROWS}
TYPES = "Types and states"


def public_names(room: Any, path: str) -> dict[str, Any]:
    found = {}
    for name in dir(room):
        value = getattr(room, name)
        if inspect.ismodule(value) or name.startswith("_"):
            continue
        if getattr(value, "__module__", "optax").partition(".")[0] in ("optax", "functools", "typing", "collections"):
            found[f"{path}.{name}"] = value
    return found


def names_of_optax() -> dict[str, Any]:
    found = public_names(optax, "optax")
    for name in dir(optax):
        if inspect.ismodule(getattr(optax, name)) and name not in ("_src", "experimental"):
            found |= public_names(getattr(optax, name), f"optax.{name}")
    return found


def test_every_name_of_optax_stands_on_the_page_once():
    there = names_of_optax()
    written = [name for row in ROWS for name in row.names]
    assert sorted(written) == sorted(set(written))
    assert not set(written) - set(there)
    listed = {id(there[name]): name for name in written}
    # A submodule's name that is also at the top, or an alias in another room under the same last part.
    def is_written(name: str) -> bool:
        last = name.rsplit(".", 1)[1]
        same = listed.get(id(there[name]))
        return name in written or (same is not None and last in {n.rsplit(".", 1)[1] for n in written
                                                                 if there[n] is there[name]})  # fmt: skip

    assert not [name for name in there if not is_written(name)]


def is_public(address: str) -> bool:
    module, name = address.rsplit(".", 1)
    room = importlib.import_module(module)
    return "._" not in address and hasattr(room, name) and name in getattr(room, "__all__", [name])


def test_every_address_is_public():
    assert not [row.address for row in ROWS if row.address and not is_public(row.address)]


def test_what_has_no_counterpart_says_why():
    assert not [row.name for row in ROWS if row.address is None and (row.arguments or not row.does)]
    assert "TODO" not in PAGE


# Signatures.


class Parameter(NamedTuple):
    keyword_only: bool
    default: Any


def parameters(function: Any) -> dict[str, Parameter]:
    found = inspect.signature(function).parameters.values()
    return {parameter.name: Parameter(parameter.kind is parameter.KEYWORD_ONLY, parameter.default)
            for parameter in found if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)}  # fmt: skip


def same_default(ours: Any, theirs: Any) -> bool:
    """Functions and transformations are compared by what they do, with the values."""
    if callable(ours) and callable(theirs) and inspect.Parameter.empty not in (ours, theirs):
        return True
    if isinstance(ours, gradtx.GradientTransformation):
        return isinstance(theirs, optax.GradientTransformation)
    return ours is theirs or (type(ours) is type(theirs) and ours == theirs)


def changes(row: Row) -> set[str]:
    """The parameters that one has and the other has not, or that have another place or default."""
    ours, theirs = parameters(row.ours), parameters(row.theirs)
    found = set(theirs) ^ set(ours)
    found -= NOWHERE | ({"where"} if row.section == "Losses" and "where" not in theirs else set())
    common, after_layout = [name for name in theirs if name in ours], False
    for name, parameter in theirs.items():
        after_layout |= name in LAYOUTS
        if name in common:
            moved = ours[name].keyword_only != (parameter.keyword_only or after_layout)
            if moved or not same_default(ours[name].default, parameter.default):
                found.add(name)
    places = [name for name in ours if not ours[name].keyword_only]
    return found.union(*({here, there} for here, there in zip(places, common, strict=False) if here != there))


COMPARED = [row for row in ROWS if row.address and row.section != TYPES and (
    not row.does or row.address.rsplit(".", 1)[1] in {row.name.rsplit(".", 1)[-1]})]  # fmt: skip


def test_parameters_are_those_of_optax_but_for_what_the_page_says():
    written = {row.name: {name for name in quoted(row.arguments) if name in {*parameters(row.ours),
               *parameters(row.theirs)}} for row in COMPARED}  # fmt: skip
    assert {row.name: changes(row) for row in COMPARED} == written


# Values.

RANDOM = np.random.default_rng(0)


def tree() -> dict[str, jax.Array]:
    return {name: jnp.asarray(RANDOM.normal(size=shape), jnp.float32) for name, shape in (("b", 3), ("w", (4, 3)))}


PARAMS = tree()
GRADS = [tree() for _ in range(STEPS)]
RATE = 0.1


def loss(params: Any, **_: Any) -> jax.Array:
    return sum(jnp.sum(jnp.cosh(leaf) + 0.1 * leaf) for leaf in jax.tree.leaves(params))  # pyright: ignore


def run(tx: Any, start: Any = PARAMS, *, of_loss: bool = False) -> list[Any]:
    """The updates of some steps, of gradients of ``loss`` or of any, with every signal that there is."""

    @jax.jit
    def step(grads: Any, state: Any, params: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(params)
        grads, function = (slope if of_loss else grads), {"value_fn": loss}
        if "obj_fn" in names:
            function = {"obj_fn": loss}
        if takes_signals:
            return tx.update(grads, state, params, value=value, grad=grads, **function)
        return tx.update(grads, state, params)

    names = set(inspect.signature(tx.update).parameters)
    takes_signals = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(tx.update).parameters.values())
    params, state, found = start, tx.init(start), []
    for grads in GRADS:
        updates, state = step(jax.tree.map(lambda g, p: g[tuple(map(slice, p.shape))], grads, start), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        found.append(updates)
    return found


def distance(one: Any, other: Any) -> float:
    """The largest difference in units of the largest element."""
    pairs = list(zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (one, other)), strict=True))
    largest = max(np.max(np.abs(a), initial=0.0) for pair in pairs for a in pair)
    return float(max(np.max(np.abs(a - b), initial=0.0) for a, b in pairs) / max(largest, 1e-30))


def odd(step: Any) -> Any:
    return step % 2 == 1


# Positional arguments where a learning rate, or nothing, is not enough.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "adadelta": (1.0,),
    "adaptive_grad_clip": (0.1,),
    "add_decayed_weights": (0.1,),
    "clip": (0.5,),
    "clip_by_block_rms": (0.5,),
    "clip_by_global_norm": (0.5,),
    "scale": (0.5,),
    "scale_by_schedule": (lambda step: 0.1 * (step + 1),),
    "trace": (0.9,),
    "freeze": ({"b": True, "w": False},),
    "sgd": (RATE, 0.9, True),
}
AROUND: dict[str, tuple[Any, ...]] = {
    "conditionally_mask": (odd,),
    "conditionally_transform": (odd,),
    "flatten": (),
    "masked": ({"b": True, "w": False},),
}
QUICK = {"adamw", "sgd", "lamb", "clip_by_global_norm"}


def made(row: Row, of: Any, base: Any) -> Any:
    """The transformation of a row, by Optax or by us, with the same positional arguments."""
    if row.name in AROUND:
        return of(base.adam(RATE), *AROUND[row.name])
    if row.name == "partition":
        return of({"b": base.adam(RATE), "w": base.sgd(RATE)}, {"b": "b", "w": "w"})
    if row.name == "stateless":
        return of(lambda updates, params: jax.tree.map(lambda u, p: u + 0.1 * p, updates, params))
    first = next(iter(parameters(of)), "")
    return of(*ARGUMENTS.get(row.name, (RATE,) * (first == "learning_rate")))


TRANSFORMATIONS = [row for row in ROWS if row.address and not row.does
                   and row.section in ("Optimizers", "Parts", "Around transformations", "Contributed")
                   and row.name != "value_and_grad_from_state"]  # fmt: skip


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=row.name, marks=[pytest.mark.slow] * (row.name not in QUICK))
            for row in TRANSFORMATIONS],
)  # fmt: skip
def test_steps_are_those_of_optax(row):
    of_loss = "lbfgs" in row.name
    ours, theirs = (run(made(row, of, base), of_loss=of_loss) for of, base in
                    ((row.ours, gradtx), (row.theirs, optax)))  # fmt: skip
    assert max(map(distance, ours, theirs)) < TOLERANCE

