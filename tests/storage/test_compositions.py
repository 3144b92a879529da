"""Stored state inside and around everything else, and layouts by path."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors, storage
from tests.laws.trees import types

PARAMS = {"embed": jnp.ones((5, 64)), "block": {"kernel": jnp.ones((64, 32)), "bias": jnp.ones(32)}}
CODES = storage.quantized(rounding="stochastic")


def grads(seed=0):
    leaves, treedef = jax.tree.flatten(PARAMS)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return treedef.unflatten([jax.random.normal(key, leaf.shape) for key, leaf in zip(keys, leaves, strict=True)])


COMPOSITIONS = {
    "around a chain with a clip": lambda: storage.stored(
        gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adamw(1e-3)), CODES
    ),
    "within a chain": lambda: gradtx.chain(
        gradtx.clip_by_global_norm(1.0), storage.stored(gradtx.adamw(lambda step: 1e-3 / (1.0 + step)), CODES)
    ),
    "partition": lambda: gradtx.partition(
        {"a": storage.stored(gradtx.adam(1e-3), CODES), "b": gradtx.sgd(0.1)},
        lambda path, leaf: "ab"[path.endswith("bias")],
    ),
    "around a partition": lambda: storage.stored(
        gradtx.partition(
            {"a": gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(1e-3)), "b": gradtx.sgd(0.1, 0.9)},
            lambda path, leaf: "ab"[path.endswith("bias")],
        ),
        {"embed": None, "*": CODES},
    ),
    "only": lambda: storage.stored(
        gradtx.only(gradtx.adam(1e-3), "block*"), {"*bias": None, "block*": CODES, "*": None}
    ),
    "tunable": lambda: storage.stored(gradtx.tunable(gradtx.adamw, learning_rate=1e-3), CODES),
    "accumulate": lambda: gradtx.accumulate(storage.stored(gradtx.adam(1e-3), CODES), 2),
    "skip_nonfinite": lambda: gradtx.skip_nonfinite(storage.stored(gradtx.adam(1e-3), CODES)),
    "4 bits": lambda: storage.stored(gradtx.adamw(1e-3), storage.quantized(bits=4)),
    "by path": lambda: storage.stored(
        gradtx.adam(1e-3), {"embed*": None, "*bias": storage.cast("bfloat16"), "*": CODES}
    ),
}
every_composition = pytest.mark.parametrize("make", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())


@pytest.mark.slow
@every_composition
def test_scan_jit_and_vmap_agree_with_single_steps(make):
    tx, many = make(), [grads(seed) for seed in range(3)]
    state, update = tx.init(PARAMS), jax.jit(tx.update)
    assert types(jax.eval_shape(tx.init, PARAMS)) == types(state)
    expected, single = state, []
    for one in many:
        updates, expected = update(one, expected, PARAMS)
        single.append(updates)
    assert types(expected) == types(state)

    def body(state, one):
        updates, state = tx.update(one, state, PARAMS)
        return state, updates

    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    after, updates = jax.jit(lambda state: jax.lax.scan(body, state, stack(many)))(state)
    assert types(after) == types(expected)
    assert_same_training(updates, stack(single))
    assert_same_codes(after, expected)
    out, _ = jax.jit(jax.vmap(tx.update, in_axes=(0, None, None)))(stack(many), state, PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, rtol=1e-4, atol=1e-7), out, single[0])


def assert_same_training(actual, expected):
    """Where a compiler rounds a number to the other side of half a code, the next steps differ by that code.

    In Adam that is at most the largest step of the block: near zero a code of the mean is ``s / 2 H``, and the smallest
    root of a mean square ``sqrt(s) / 2 H``. Before the first step nothing was rounded.
    """
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        close = np.isclose(a, b, rtol=1e-4, atol=1e-7)
        assert close[0].all() and close.mean() >= 0.99
        assert np.all(close | (np.abs(a - b) <= np.abs(b).max()))


def assert_same_codes(actual, expected):
    """Integers of 8 bits, or two of 4 in one, may differ by one, and bfloat16 by its last digit; few of them do."""
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        kind, a, b = a.dtype, np.asarray(a), np.asarray(b)
        if kind == jnp.bfloat16:
            a, b = (np.asarray(x, np.float32) for x in (a, b))
            assert np.all(np.abs(a - b) <= 2.0**-7 * np.abs(b))
        elif kind in (jnp.int8, jnp.uint8):
            halves = ((a & 15, b & 15), (a >> 4, b >> 4)) if kind == jnp.uint8 else ((a, b),)
            assert all(np.abs(x.astype(np.int32) - y.astype(np.int32)).max() <= 1 for x, y in halves)
        else:
            continue
        assert (a == b).mean() >= 0.99


@every_composition
def test_a_saved_state_is_restored_bit_for_bit(make):
    tx = make()
    _, state = tx.update(grads(), tx.init(PARAMS), PARAMS)
    leaves, treedef = jax.tree.flatten(state)
    with io.BytesIO() as file:
        np.savez(file, *[np.asarray(leaf).view(np.uint8) if leaf.ndim else leaf for leaf in leaves])
        file.seek(0)
        saved = list(np.load(file).values())
    kept = [
        jax.device_put(raw.view(leaf.dtype) if leaf.ndim else raw, leaf.sharding)
        for raw, leaf in zip(saved, leaves, strict=True)
    ]
    restored, update = treedef.unflatten(kept), jax.jit(tx.update)
    jax.tree.map(np.testing.assert_array_equal, update(grads(1), restored, PARAMS), update(grads(1), state, PARAMS))


def dtypes(tx, field="ema/mean"):
    kept = gradtx.tree.get(tx.init(PARAMS), field)
    return {path: str(jax.tree.leaves(leaf)[0].dtype) for path, leaf in (
        ("embed", kept["embed"]), ("kernel", kept["block"]["kernel"]), ("bias", kept["block"]["bias"])
    )}  # fmt: skip


def test_the_first_glob_that_matches_counts_and_what_none_matches_stays_in_float32():
    tx = storage.stored(gradtx.adam(1e-3), {"*kernel": storage.quantized(), "block/*": storage.cast("bfloat16")})
    assert dtypes(tx) == {"embed": "float32", "kernel": "int8", "bias": "bfloat16"}


@pytest.mark.parametrize("clipped", [False, True], ids=["by leaf", "whole tree"])
def test_a_function_chooses_by_path_and_shape(clipped):
    def choose(path, leaf):
        return storage.quantized() if leaf.ndim > 1 and path != "embed" else None

    inner = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.adam(1e-3)) if clipped else gradtx.adam(1e-3)
    assert dtypes(storage.stored(inner, choose)) == {"embed": "float32", "kernel": "int8", "bias": "float32"}


def test_a_leaf_without_a_layout_trains_as_if_nothing_was_stored():
    tx, inner = storage.stored(gradtx.adam(1e-2), {"embed": None, "*": storage.quantized(bits=4)}), gradtx.adam(1e-2)
    state, exact = tx.init(PARAMS), inner.init(PARAMS)
    for seed in range(4):
        updates, state = tx.update(grads(seed), state, PARAMS)
        expected, exact = inner.update(grads(seed), exact, PARAMS)
    np.testing.assert_allclose(updates["embed"], expected["embed"], rtol=1e-6)
    assert not np.allclose(updates["block"]["kernel"], expected["block"]["kernel"], rtol=1e-3)


BAD = {
    "a glob that no leaf has": ({"blok*": None}, errors.SelectionError, "nearest paths"),
    "a hidden glob": ({"*": None, "embed": CODES}, errors.SelectionError, "earlier glob"),
    "a dtype in a mapping": ({"embed": jnp.int8}, errors.ArgumentTypeError, "at 'embed'"),
    "a number for a glob": ({0: None}, errors.ArgumentTypeError, "globs on paths"),
    "a dtype": ("int8", errors.ArgumentTypeError, "a dtype is no layout"),
    "a constructor": (storage.quantized, errors.ArgumentTypeError, "has to be called"),
    "a function of leaves": (lambda leaf: CODES, errors.ArgumentTypeError, "takes path and leaf"),
    "a tree": ({"block": {"kernel": CODES}}, errors.ArgumentTypeError, "write {'block/kernel': quantized"),
    "a dtype from a function": (lambda path, leaf: "int8", errors.ArgumentTypeError, "at 'block/bias'"),
}


@pytest.mark.parametrize(("layout", "error", "words"), BAD.values(), ids=BAD.keys())
def test_what_is_no_layout_is_named(layout, error, words):
    with pytest.raises(error, match=words):
        storage.stored(gradtx.adam(1e-3), layout).init(PARAMS)


@pytest.mark.parametrize("layout", [CODES, storage.cast("bfloat16")], ids=["codes", "cast"])
@pytest.mark.parametrize("around", ["leaves", "whole trees", "vectors"])
def test_complex_state_is_refused_with_the_path_at_which_to_leave_it_as_it_is(layout, around):
    if around == "vectors" and layout is CODES:
        return
    params = {"w": jnp.ones((3, 2)), "enc": {"b": jnp.ones(2, jnp.complex64), "c": jnp.ones(2, jnp.complex64)}}
    inner = gradtx.adam(1e-3)
    if around == "whole trees":
        inner = gradtx.chain(gradtx.clip_by_global_norm(1.0), inner)
    tx = storage.stored(inner, layout)
    with pytest.raises(errors.DtypeError, match=r"complex64 at 'enc/b'.*write stored\(tx, {'enc/b': None, "):
        (storage.packed(tx) if around == "vectors" else tx).init(params)
    storage.stored(inner, {"enc/*": None, "*": layout}).init(params)


def test_layouts_by_path_around_one_vector_of_all_are_refused():
    tx = storage.stored(gradtx.flatten(gradtx.adam(1e-3)), {"embed": None, "*": CODES})
    with pytest.raises(errors.LayoutError, match="one vector"):
        tx.init(PARAMS)
    storage.stored(gradtx.flatten(gradtx.adam(1e-3)), CODES).init(PARAMS)


@pytest.mark.parametrize("inner", [lambda tx: storage.stored(tx, storage.quantized()), storage.offloaded])
def test_what_is_kept_already_is_not_kept_once_more(inner):
    with pytest.raises(errors.LayoutError, match="kept once more"):
        storage.stored(gradtx.chain(inner(gradtx.adamw(1e-2)), gradtx.scale(0.5)), storage.cast("bfloat16"))
