"""Running what is written for one array over a tree: leaf by leaf, through one inner jitted function.

Leaves of equal shape and dtype share one trace, so tracing 400 equal leaves costs about as much as tracing one; the
compiler inlines the calls and the program is the same.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core.roles import cast_like, map_fields, merge, shared, split, with_shared
from gradtx.tree import in_words, is_inexact, leaf_paths, leaf_seeds, strong, wide_dtype, widen


class Pair(NamedTuple):
    """The two functions in the one form that the machinery calls: for one array, or for whole trees.

    ``update`` takes ``(updates, state, params or None, signals)``.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any, Mapping[str, Any]], tuple[Any, Any]]


class Leaves(NamedTuple):
    """What runs leaf by leaf.

    ``resolve(tree)`` gives the pair for each leaf of a tree; equal pairs are the same object. ``advance(state)`` is
    called once before the leaves and takes what they share (counters, schedules, weights) to the next step, so that no
    scalar is computed once for each leaf. It sees ``None`` for the fields that are like the parameters.
    """

    resolve: Callable[[Any], list[Pair]]
    signals: Mapping[str, Any]
    takes_params: bool
    advance: Callable[[Any], Any] = lambda state: state


# A leaf that a selection leaves out is passed on or set to zero, whatever its dtype, and keeps no state.
PASS = Pair(lambda param: None, lambda update, state, param, signals: (update, None))
ZERO = Pair(lambda param: None, lambda update, state, param, signals: (jnp.zeros_like(update), None))


def leaf_by_leaf(leaves: Leaves) -> Pair:
    """The functions of whole trees that run ``leaves`` on each leaf."""
    steps: dict[Pair, Callable[..., Any]] = {}

    def advance(state: Any) -> Any:
        return state if state is None else cast_like(leaves.advance(state), state)

    def init(params: Any) -> Any:
        flat, treedef = jax.tree.flatten(params)
        if not flat:
            return _without_leaves(leaves, treedef)
        states = []
        for index, (pair, leaf) in enumerate(zip(leaves.resolve(params), flat, strict=True)):
            with _naming_leaf(params, index):
                states.append(jax.tree.map(strong, pair.init(widen(leaf))))
        return merge(states, treedef)

    def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
        flat, treedef = jax.tree.flatten(updates)
        pairs = leaves.resolve(updates if params is None else params)
        try:
            before = shared(state)
            if jax.tree.leaves(before):
                state = with_shared(state, jax.jit(advance)(before))
            states = split(state, treedef)
            flat_params = [None] * len(flat) if params is None else treedef.flatten_up_to(params)
        except errors.GradtxError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise errors.StructureError(
                errors.UNNAMED,
                expected=f"a state that init made for a tree like the gradients, {in_words(updates)}",
                got=f"one with {str(error).splitlines()[0][:160]}",
                cause="the state belongs to another transformation or to other parameters",
                fix="write state = tx.init(params) for these parameters",
            ) from None
        if not flat:
            return updates, state
        given = {name: signals[name] for name in leaves.signals if name in signals}
        seeds = leaf_seeds(updates) if "leaf_seed" in leaves.signals else None
        jitted: dict[Pair, Callable[..., Any]] = {}
        results = []
        for index, (pair, leaf, leaf_state, param) in enumerate(zip(pairs, flat, states, flat_params, strict=True)):
            if pair is ZERO:
                results.append((_zero(leaf, param), None))
            elif pair is PASS:
                results.append((widen(leaf), None))
            else:
                if pair not in jitted:
                    jitted[pair] = jax.jit(steps.setdefault(pair, _one_leaf(pair)))
                extra = given if seeds is None else {**given, "leaf_seed": seeds[index]}
                used = param if leaves.takes_params else None
                with _naming_leaf(updates, index):
                    results.append(jitted[pair](leaf, leaf_state, used, extra))
        return treedef.unflatten([result[0] for result in results]), merge([result[1] for result in results], treedef)

    return Pair(init, update)


def with_precision(pair: Pair) -> Pair:
    """The functions of whole trees under the precision policy: float32 or wider in, the state's dtypes kept."""

    def init(params: Any) -> Any:
        return pair.init(jax.tree.map(widen, params))

    def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
        updates, params = jax.tree.map(widen, (updates, params))
        updates, new_state = pair.update(updates, state, params, signals)
        return updates, cast_like(new_state, state)

    return Pair(init, update)


def _without_leaves(leaves: Leaves, treedef: Any) -> Any:
    """The state for a tree without leaves: that of any one leaf, with this tree in place of its arrays.

    (Optax finds the fields that are like the parameters by such a tree.) Where no leaf is selected it is ``None``.
    """
    leaf = jnp.zeros((), jnp.float32)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no leaf uses a rule says nothing here
            state = leaves.resolve(leaf)[0].init(leaf)
    except errors.SelectionError:
        return None
    return map_fields(lambda path, role, value: treedef.unflatten([]) if role.like_params else value, state)


@contextlib.contextmanager
def _naming_leaf(tree: Any, index: int) -> Iterator[None]:
    """An error about the dtype or the shape of one leaf gets its path."""
    try:
        yield
    except (errors.DtypeError, errors.ShapeError) as error:
        raise error.at_leaf(leaf_paths(tree)[index]) from None


def _one_leaf(pair: Pair) -> Callable[..., Any]:
    """One leaf's update under the precision policy: float32 or wider in and out, the state's dtypes kept."""

    def update_leaf(update, state, param, signals):
        update, new_state = pair.update(widen(update), state, None if param is None else widen(param), signals)
        return widen(update), cast_like(new_state, state)

    return update_leaf


def _zero(leaf: Any, param: Any) -> jax.Array:
    """The update of a leaf that is left out: zeros that change nothing, of the parameter's own dtype if not inexact."""
    like = leaf if param is None else param
    if like.dtype == jax.dtypes.float0:
        return jnp.zeros(jnp.shape(leaf), jnp.bool_)
    return jnp.zeros_like(like, dtype=wide_dtype(like.dtype) if is_inexact(like) else like.dtype)
