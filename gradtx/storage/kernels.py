"""One pass over memory for an update whose state is kept in blocks, on accelerators.

A scale is the largest number of its block, and the codes need the scale: decoding, the update, the largest number and
the codes are two loops for XLA, which on a GPU are two kernels with the new moments in float32 between them. Here they
are one kernel over tiles of whole blocks, whose body is the update itself, as it is written for one array. So there is
one program, and nothing is written anew for any optimizer.

Whether the kernel runs is decided when the program is lowered, by :data:`one_pass`: for CUDA, on one device. Everywhere
else, and under ``vmap`` and derivatives, it is the plain program.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import ad, batching, mlir

Update = Callable[..., tuple[Any, Any]]

LARGEST_TILE = 1024  # numbers: 8 for each thread of 4 warps
SMALLEST_TILE = 128

ELEMENTWISE = frozenset(
    "abs add add_any and bitcast_convert_type clamp convert_element_type copy copy_p cos div eq exp exp2 expm1 floor ge "
    "gt integer_pow is_finite le log log1p logistic lt max min mul ne neg not or pow reduce_precision rem rsqrt select_n "
    "shift_left shift_right_arithmetic shift_right_logical sign sin sqrt square stop_gradient sub tanh xor".split()
)
WITHIN_A_BLOCK = frozenset("broadcast_in_dim concatenate reduce_max reshape split squeeze".split())
CALLS = frozenset("closed_call custom_jvp_call custom_vjp_call jit pjit".split())


def in_one_pass(update: Update, block: int) -> Update:
    """``update(updates, state, params, signals)`` of one array, whose result is the same and may come from one kernel.

    Each element of its results may depend on those of its own block alone: ``block`` numbers along the last axis.
    """

    def run(*operands: Any) -> tuple[Any, Any]:
        flat, treedef = jax.tree.flatten(operands)
        out_tree = None

        def on_flat(*flat: Any) -> list[Any]:
            nonlocal out_tree
            results, out_tree = jax.tree.flatten(update(*treedef.unflatten(flat)))
            return results

        plain = jax.make_jaxpr(on_flat)(*flat)
        tiles = tiles_of(plain, block)
        if tiles is None or any(isinstance(const, jax.core.Tracer) for const in plain.consts):
            return update(*operands)
        return jax.tree.unflatten(out_tree, one_pass.bind(*flat, plain=plain, update=on_flat, tiles=tiles))

    return run
