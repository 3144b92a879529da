"""Trees of arrays: arithmetic and reductions, trees made like others, paths, and parts found by name.

Functions have the names of ``optax.tree``, and are written with the room: ``tree.add``, ``tree.scale``, as with
``jax.tree``. Trees that go together have equal structures and shapes: an error names the leaf where they differ.
"""

from gradtx.tree.arithmetic import (
    add,
    add_scale,
    conj,
    div,
    incremental_update,
    mul,
    periodic_update,
    real,
    scale,
    sub,
    where,
)
from gradtx.tree.comparing import broadcast_prefix, check_same, of_one_example
from gradtx.tree.leaves import (
    beside,
    cut,
    describe_leaf,
    in_words,
    is_array,
    is_inexact,
    square,
    strong,
    wide_dtype,
    widen,
)
from gradtx.tree.making import cast, cast_like, full_like, ones_like, random_like, split_key_like, zeros_like
from gradtx.tree.paths import leaf_paths, leaf_seeds, path_name
from gradtx.tree.products import limited_dot
from gradtx.tree.reductions import allclose, dtype, global_norm, max, min, size, sum, vdot
from gradtx.tree.searching import get, get_all_with_path, set
from gradtx.tree.squares import squared_norm, summed_together

__all__ = [
    "add",
    "add_scale",
    "allclose",
    "beside",
    "broadcast_prefix",
    "cast",
    "cast_like",
    "check_same",
    "conj",
    "cut",
    "describe_leaf",
    "div",
    "dtype",
    "full_like",
    "get",
    "get_all_with_path",
    "global_norm",
    "in_words",
    "incremental_update",
    "is_array",
    "is_inexact",
    "leaf_paths",
    "leaf_seeds",
    "limited_dot",
    "max",
    "min",
    "mul",
    "of_one_example",
    "ones_like",
    "path_name",
    "periodic_update",
    "random_like",
    "real",
    "scale",
    "set",
    "size",
    "split_key_like",
    "square",
    "squared_norm",
    "strong",
    "sub",
    "sum",
    "summed_together",
    "vdot",
    "where",
    "wide_dtype",
    "widen",
    "zeros_like",
]
