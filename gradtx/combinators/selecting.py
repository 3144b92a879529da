"""Which leaves a transformation is for: by path pattern, predicate, tree of booleans, or label."""

import fnmatch
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gradtx import errors
from gradtx.core import (
    PASS,
    ZERO,
    GradientTransformation,
    Leaves,
    Pair,
    Record,
    advance_parts,
    join,
    leaf_by_leaf,
    record_of,
    transformation,
    widest,
)
from gradtx.tree import broadcast_prefix, leaf_paths

Where = str | re.Pattern[str] | Callable[..., Any] | Any
"""Which leaves: a glob on the path such as ``block/*/kernel`` (``*`` crosses ``/``), a compiled regular expression that
is searched in it, a predicate ``(path, leaf) -> bool``, a function from the tree to a tree of booleans, or that tree
(a prefix of the parameters' tree will do)."""


@transformation
def only(tx: GradientTransformation, where: Where) -> GradientTransformation:
    """Applies ``tx`` to the leaves that ``where`` selects; the others are frozen: zero update, no state.

    A leaf that is left out may have any dtype, an integer table for instance.

    >>> import gradtx, jax.numpy as jnp
    >>> params = {"head": jnp.ones(2), "body": jnp.ones(2)}
    >>> tx = gradtx.only(gradtx.sgd(0.5), "head*")
    >>> updates, _ = tx.update(params, tx.init(params))
    >>> updates["head"].tolist(), updates["body"].tolist()
    ([-0.5, -0.5], [0.0, 0.0])
    """
    call = f"only({record_of(tx).call}, {errors.show(where)})"
    return _routed({True: record_of(tx)}, ZERO, lambda tree: selected(where, tree, call))


@transformation
def freeze(where: Where) -> GradientTransformation:
    """Sets the updates of the leaves that ``where`` selects to zero and passes the others on.

    As the last part of a chain it stops these leaves, but the parts before it still keep state for them; to keep none,
    write ``only(tx, where)`` with the leaves that do train.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.sgd(0.5), gradtx.freeze("body*"))
    >>> params = {"head": jnp.ones(2), "body": jnp.ones(2)}
    >>> updates, _ = tx.update(params, tx.init(params))
    >>> updates["head"].tolist(), updates["body"].tolist()
    ([-0.5, -0.5], [0.0, 0.0])
    """
    call = f"freeze({errors.show(where)})"
    return _routed({}, PASS, lambda tree: [None if not hit else ZERO for hit in selected(where, tree, call)])


@transformation
def masked(tx: GradientTransformation, mask: Where) -> GradientTransformation:
    """Applies ``tx`` to the leaves that ``mask`` selects and passes the others on **unchanged**.

    It does not freeze what it leaves out: at the end of a chain those leaves would take their raw gradient as a step.
    To freeze, use :func:`only` or :func:`freeze`.

    >>> import gradtx, jax.numpy as jnp
    >>> params = {"kernel": jnp.ones(2), "bias": jnp.ones(2)}
    >>> tx = gradtx.masked(gradtx.add_decayed_weights(0.5), {"kernel": True, "bias": False})
    >>> updates, _ = tx.update(params, tx.init(params), params)
    >>> updates["kernel"].tolist(), updates["bias"].tolist()
    ([1.5, 1.5], [1.0, 1.0])
    """
    call = f"masked({record_of(tx).call}, {errors.show(mask)})"
    return _routed({True: record_of(tx)}, PASS, lambda tree: selected(mask, tree, call, "mask"))


@transformation
def partition(transforms: Mapping[Any, GradientTransformation], param_labels: Any) -> GradientTransformation:
    """Applies to each leaf the transformation of its label.

    ``param_labels`` is a tree of labels (a prefix of the parameters' tree will do), a function from the tree to such a
    tree, or a function ``(path, leaf) -> label``. Each transformation sees only its own leaves: a norm in it is the
    norm of its group. The state is a dictionary from label to state.

    Raises ``SelectionError`` for a label that has no transformation; warns of a transformation that no leaf uses.

    >>> import gradtx, jax.numpy as jnp
    >>> rules = {"fast": gradtx.sgd(1.0), "slow": gradtx.sgd(0.1)}
    >>> tx = gradtx.partition(rules, lambda path, leaf: "slow" if path == "embedding" else "fast")
    >>> params = {"embedding": jnp.ones(1), "head": jnp.ones(1)}
    >>> updates, _ = tx.update(params, tx.init(params))
    >>> [round(float(u[0]), 4) for u in updates.values()]
    [-0.1, -1.0]
    """
    if not isinstance(transforms, Mapping):
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="transforms must map labels to transformations", got=errors.show(transforms),
            cause="the labels are missing", fix='write partition({"a": adam(1e-3), "b": sgd(0.1)}, labels)',
        )  # fmt: skip
    call = f"partition({{{', '.join(map(repr, transforms))}}}, {errors.show(param_labels)})"
    if len({str(label) for label in transforms}) < len(transforms):
        raise errors.SelectionError(
            call, expected="labels that differ as text", got=str(list(transforms)),
            cause="two transformations would share one entry of the state", fix="rename one of them",
        )  # fmt: skip
    branches = {label: record_of(tx) for label, tx in transforms.items()}
    labels_given = jax.tree.map(lambda label: label, param_labels) if not callable(param_labels) else param_labels

    def labels(tree: Any) -> list[Any]:
        found = _values(labels_given, tree, call, "param_labels")
        unknown = [index for index, label in enumerate(found) if label not in branches]
        if unknown:
            raise errors.SelectionError(
                call,
                expected=f"labels among {sorted(map(str, branches))}",
                got=repr(found[unknown[0]]),
                at=repr(leaf_paths(tree)[unknown[0]]),
                cause="a label has no transformation",
                fix=f"add {found[unknown[0]]!r}: gradtx.set_to_zero() or another transformation to transforms",
            )
        unused = [label for label in branches if label not in found]
        if unused and found:
            warnings.warn(f"{call}: no parameter has the label {unused[0]!r}", UnusedLabelWarning, stacklevel=2)
        return found

    return _routed(branches, PASS, labels)


class UnusedLabelWarning(UserWarning):
    """A transformation of ``partition`` that no parameter uses."""


def _routed(branches: Mapping[Any, Record], rest: Pair, route: Callable[[Any], list[Any]]) -> GradientTransformation:
    """Each leaf through the branch that ``route(tree)`` names for it, or through the pair it gives, or ``rest``."""
    names = {label: branch.name if label is True else str(label) for label, branch in branches.items()}
    parts = {names[label]: branch for label, branch in branches.items()}
    if widest(parts) == "tree":
        return join(parts, _trees(branches, names, rest, route), kind="layers")
    by_leaf = {label: branch.leaves for label, branch in branches.items() if branch.leaves is not None}
    made: dict[tuple[Any, Pair], Pair] = {}

    def resolve(tree: Any) -> list[Pair]:
        labels = route(tree)
        columns = {label: leaves.resolve(tree) for label, leaves in by_leaf.items()}
        pairs = []
        for index, label in enumerate(labels):
            if isinstance(label, Pair) or label not in columns:
                pairs.append(label if isinstance(label, Pair) else rest)
                continue
            inner = columns[label][index]
            if (label, inner) not in made:
                made[label, inner] = inner if inner in (PASS, ZERO) else _one_branch(names, label, inner)
            pairs.append(made[label, inner])
        return pairs

    signals = {name: value for leaves in by_leaf.values() for name, value in leaves.signals.items()}
    takes_params = any(leaves.takes_params for leaves in by_leaf.values())
    advance = advance_parts({names[label]: leaves for label, leaves in by_leaf.items()})
    leaves = Leaves(resolve, signals, takes_params, advance)
    return join(parts, leaf_by_leaf(leaves), leaves, kind="layers")


def _one_branch(names: Mapping[Any, str], label: Any, inner: Pair) -> Pair:
    """A leaf's functions: its branch has its state, the other branches have none for it."""
    nothing = dict.fromkeys(names.values())
    name = names[label]

    def init(param):
        return {**nothing, name: inner.init(param)}

    def update(update, state, param, signals):
        update, inner_state = inner.update(update, state[name], param, signals)
        return update, {**nothing, name: inner_state}

    return Pair(init, update)


def _trees(branches: Mapping[Any, Record], names: Mapping[Any, str], rest: Pair, route: Callable[[Any], list]) -> Pair:
    """The functions of trees where a branch reads its whole tree: other branches' leaves are ``None`` for it."""

    def keep(tree: Any, mask: list[bool]) -> Any:
        flat, treedef = jax.tree.flatten(tree)
        return treedef.unflatten([leaf if kept else None for leaf, kept in zip(flat, mask, strict=True)])

    def init(params):
        labels = route(params)
        masks = {label: [found == label for found in labels] for label in branches}
        return {names[label]: branch.tree.init(keep(params, masks[label])) for label, branch in branches.items()}

    def update(updates, state, params, signals):
        like = updates if params is None else params
        labels = route(like)
        flat, treedef = jax.tree.flatten(updates)
        flat_like = jax.tree.leaves(like)
        new_state = {}
        out: list[Any] = [None] * len(flat)
        for label, branch in branches.items():
            mask = [found == label for found in labels]
            some = None if params is None else keep(params, mask)
            done, new_state[names[label]] = branch.tree.update(keep(updates, mask), state[names[label]], some, signals)
            for index, leaf in zip([i for i, kept in enumerate(mask) if kept], jax.tree.leaves(done), strict=True):
                out[index] = leaf
        passed = leaf_by_leaf(Leaves(lambda tree: [rest] * len(jax.tree.leaves(tree)), {}, False))
        others = [found not in branches for found in labels]
        left, _ = passed.update(
            [leaf for leaf, other in zip(flat, others, strict=True) if other], None,
            [leaf for leaf, other in zip(flat_like, others, strict=True) if other], {},
        )  # fmt: skip
        for index, leaf in zip([i for i, other in enumerate(others) if other], left, strict=True):
            out[index] = leaf
        return treedef.unflatten(out), new_state

    return Pair(init, update)


def selected(where: Where, tree: Any, call: str, what: str = "where") -> list[bool]:
    """For each leaf, whether ``where`` selects it."""
    if isinstance(where, str | re.Pattern):
        paths = leaf_paths(tree)
        hits = [
            fnmatch.fnmatchcase(path, where) if isinstance(where, str) else bool(where.search(path)) for path in paths
        ]
        if paths and not any(hits):
            pattern = where if isinstance(where, str) else where.pattern
            raise errors.SelectionError(
                call, expected="a pattern that matches some leaf", got=repr(pattern),
                cause=f"the paths are {', '.join(map(repr, paths[:4]))}{', ...' if len(paths) > 4 else ''}",
                fix="write e.g. '*kernel' or 'block/*'",
            )  # fmt: skip
        return hits
    values = _values(where, tree, call, what)
    for index, value in enumerate(values):
        if not isinstance(value, bool | np.bool_):
            raise errors.SelectionError(
                call, expected="True or False for every leaf", got=errors.show(value),
                at=repr(leaf_paths(tree)[index]), cause="a mask tells which leaves, not how much",
                fix="write e.g. lambda path, leaf: leaf.ndim > 1",
            )  # fmt: skip
    return [bool(value) for value in values]


def _values(given: Any, tree: Any, call: str, what: str) -> list[Any]:
    """The value for each leaf: from a predicate, from a function of the tree, or from a (prefix) tree."""
    if isinstance(given, type):
        raise errors.SelectionError(
            call, expected=f"{what} must be a pattern, a function or a tree", got=f"the class {given.__name__}",
            cause="a class was given where its instance was meant",
            fix=f"write {what}=lambda path, leaf: leaf.ndim > 1",
        )  # fmt: skip
    is_tree_of_bools = not callable(given) or (bool(jax.tree.leaves(given)) and all(
        isinstance(leaf, bool) for leaf in jax.tree.leaves(given)
    ))  # fmt: skip
    if not is_tree_of_bools:
        arguments = [
            p for p in inspect.signature(given).parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
        ]  # fmt: skip
        if len(arguments) >= 2:
            return [given(path, leaf) for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)]
        given = given(tree)
    return broadcast_prefix(given, tree, call, what)
