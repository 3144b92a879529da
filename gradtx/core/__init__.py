"""The contract of a transformation, and the type that carries it.

A transformation is a pair of pure functions::

    init(params)                                    -> state
    update(updates, state, params=None, **signals)  -> (updates, state)

``updates`` come in as gradients and leave as what :func:`apply_updates` adds to the parameters. The laws that every
transformation of this library obeys, and that a test holds each of them to:

1.  Pure: same inputs, same outputs; eager, ``jit``, ``scan``, ``vmap``, ``pmap`` and ``shard_map`` agree.
2.  The first update sees step 0; a correction uses ``t = step + 1``.
3.  The state's type (structure, shapes, dtypes, weak types) after ``update`` is the one from ``init``.
4.  Arithmetic in float32 or wider, state in float32 unless a layout says otherwise; updates leave in at least float32
    and are rounded once, by :func:`apply_updates`.
5.  Finite gradients give finite updates, and no zero where the exact update is a normal number.
6.  One step of a part is within 4 units in the last place of exact, of a recipe made of several within 6; 10,000 steps
    within 64 eps of the largest update.
7.  Updates have the gradients' structure. A leaf that is ``None`` in gradients and parameters passes through.
8.  Signals are declared, as keyword-only arguments of ``update``; each part gets what it declares.
9.  ``init`` returns no buffer of the parameters and none twice, so states can be donated.
10. Hyperparameters are data when asked (``tunable``); changing them recompiles nothing.
11. Errors come at construction, ``init`` or trace time, and leave no trace in the compiled program.

Gradients of complex parameters: ``jax.grad`` of a real loss gives ``df/dx - i df/dy``; the direction of descent is its
conjugate, so hand ``jax.tree.map(jnp.conj, grads)`` to ``update``.
"""

from gradtx.core.apply import apply_updates
from gradtx.core.composition import advance_parts, combine_leaves, compose, join, widest
from gradtx.core.decorator import Functions, stateless, transformation
from gradtx.core.edge import STANDARD_SIGNALS, public
from gradtx.core.keys import kept_key
from gradtx.core.leafwise import PASS, ZERO, Leaves, Pair, leaf_by_leaf
from gradtx.core.mapping import map_params
from gradtx.core.rebuilding import TunableState, rebuilt
from gradtx.core.record import GradientTransformation, Locality, Record, record_of
from gradtx.core.roles import (
    AccumulatedTree,
    Counter,
    EmptyState,
    FactorTree,
    Hyperparameter,
    Key,
    Nested,
    NonNegativeTree,
    PositionTree,
    Role,
    SignedScalar,
    SignedTree,
    first_step,
    is_kept,
    map_fields,
    next_step,
    states_of,
)

__all__ = [
    "PASS",
    "STANDARD_SIGNALS",
    "ZERO",
    "AccumulatedTree",
    "Counter",
    "EmptyState",
    "FactorTree",
    "Functions",
    "GradientTransformation",
    "Hyperparameter",
    "Key",
    "Leaves",
    "Locality",
    "Nested",
    "NonNegativeTree",
    "Pair",
    "PositionTree",
    "Record",
    "Role",
    "SignedScalar",
    "SignedTree",
    "TunableState",
    "advance_parts",
    "apply_updates",
    "combine_leaves",
    "compose",
    "first_step",
    "is_kept",
    "join",
    "kept_key",
    "leaf_by_leaf",
    "map_fields",
    "map_params",
    "next_step",
    "public",
    "rebuilt",
    "record_of",
    "stateless",
    "states_of",
    "transformation",
    "widest",
]
