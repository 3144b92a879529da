"""The whole spectrum of a matrix known by its products, from a few Lanczos runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.curvature import vectors
from gradtx.curvature.lanczos import krylov_steps
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import Operator, hessian_at, point
from gradtx.curvature.probing import check_operator, precision
from gradtx.curvature.shares import Probe, nodes, probe_of, sign_shares
from gradtx.tables import aligned
from gradtx.tree import is_array, leaf_paths

_TINY = float(np.finfo(np.float32).tiny)  # a threshold above the zeros of a matrix of zeros
_ROUNDING = 8  # times eps times the largest Ritz value


class Spectrum(NamedTuple):
    """The eigenvalues of a matrix, as far as a few probes see them; host numbers. It prints as a table."""

    probes: tuple[Probe, ...]
    """Of each Lanczos run the Ritz ``values``, ascending, and the ``masses`` of its start vector on them."""
    shares: tuple[float, float, float]
    """The shares of eigenvalues below ``-threshold``, between, and above ``threshold``."""
    share_intervals: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    """Where each share is, at the level of confidence; counted, up to rounding, where a run spanned the whole space."""
    threshold: float
    """Eigenvalues up to this size count as zero."""
    noise: float
    """Eigenvalues are known up to this rounding error: those so close to the threshold may be on either side."""
    confidence: float
    dimension: int
    products: int
    """Products with the matrix, all of them."""

    def __repr__(self) -> str:
        names = (f"below {-self.threshold:.3g}", "near zero", f"above {self.threshold:.3g}")
        level = "counted" if self.probes[0].counted else f"at {self.confidence:.4g}"
        cells = [("eigenvalues", "share", "from", "to", level)]
        for name, share, (low, high) in zip(names, self.shares, self.share_intervals, strict=True):
            count = f"{round(share * self.dimension):,} of {self.dimension:,}"
            cells.append((name, f"{share:.2%}", f"{low:.2%}", f"{high:.2%}", count))
        values, _ = nodes(self.probes)
        many = f"{len(self.probes)} probe{'s' * (len(self.probes) > 1)}, {self.products} products"
        return f"{aligned(cells)}\nRitz values from {values.min():.6g} to {values.max():.6g}; {many}"


@errors.checked_call
def spectrum(
    operator: Operator,
    *,
    key: Any,
    probes: errors.Count = 8,
    products: errors.Count = 50,
    threshold: errors.NonNegativeNumber | None = None,
    confidence: errors.Fraction = 0.95,
) -> Spectrum:
    """All eigenvalues, as a distribution: stochastic Lanczos quadrature.

    A Lanczos run from a random vector gives a few values and masses with the first moments of the spectrum as this
    vector sees it; the mean over vectors gives those of the whole spectrum::

        1/n tr f(A) ~ sum_p w_p sum_j masses_pj f(values_pj),    w_p = |g_p|^2 / sum |g|^2,    g_p Gaussian

    The intervals of the shares combine what is rigorous, the Gauss-Radau bracket of each run, with the exact
    distribution of chance, Beta(P m / 2, P (n - m) / 2) for a share ``m / n``; they are no estimates of a spread. Where
    ``products`` reaches the dimension, one run finds every eigenvalue, and the shares are counted.

    Source: Ubaru, Chen and Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature", algorithm 1;
    Ghorbani, Krishnan and Xiao 2019, "An investigation into neural net optimization via Hessian eigenvalue density".

    Args:
        operator: From :func:`hessian`, :func:`gauss_newton` or :func:`fisher`.
        key: A random key.
        probes: How many start vectors, one after another.
        products: At most so many products for each; as many vectors like the parameters are held.
        threshold: Eigenvalues up to this size count as zero; a thousandth of the largest Ritz value by default.
            Another one costs no product, see :func:`at_threshold`.
        confidence: The probability with which the interval of a share holds it.

    Raises:
        ArgumentTypeError: ``operator`` is no matrix known by its products.
        ArgumentRangeError: The matrix has NaN or infinite entries at this point, or a number is out of range.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> scales = jnp.concatenate([jnp.full(30, -1.0), jnp.zeros(60), jnp.full(10, 2.0)])
    >>> matrix = curvature.hessian(lambda w, batch: 0.5 * jnp.sum(scales * w**2), jnp.zeros(100))
    >>> curvature.spectrum(matrix, key=jax.random.key(0), products=100).shares
    (0.3, 0.6, 0.1)
    >>> found = curvature.spectrum(matrix, key=jax.random.key(0))
    >>> found.products, all(low < share < high for share, (low, high) in zip(found.shares, found.share_intervals))
    (24, True)
    """
    call = f"spectrum(operator, probes={probes}, products={products})"
    check_operator(call, operator)
    key = vectors.check_key(call, key)
    before = operator.products
    complete = products >= operator.dimension
    found, asymmetry = [], 0.0
    for index in range(1 if complete else probes):
        one, seen = _probe(operator, jax.random.fold_in(key, index), products, complete)
        found.append(one)
        asymmetry = max(asymmetry, seen)
    total = sum(one.weight for one in found)
    weighed = tuple(one._replace(weight=one.weight / total) for one in found)
    size = float(np.max(np.abs(nodes(weighed)[0])))
    zero = max(1e-3 * size, _TINY) if threshold is None else float(threshold)
    noise = max(asymmetry, _ROUNDING * precision(operator) * size)
    shares, intervals = sign_shares(weighed, operator.dimension, zero, noise, confidence)
    used = operator.products - before
    return Spectrum(weighed, shares, intervals, zero, noise, float(confidence), operator.dimension, used)


@errors.checked_call
def at_threshold(spectrum: Spectrum, threshold: errors.NonNegativeNumber) -> Spectrum:
    """The same spectrum with its shares at another threshold; no product is needed.

    Raises:
        ArgumentTypeError: ``spectrum`` is no :class:`Spectrum`.
        ArgumentRangeError: ``threshold`` is negative.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> scales = jnp.array([-1.0, 1e-2, 1.0, 2.0])
    >>> matrix = curvature.hessian(lambda w, batch: 0.5 * jnp.sum(scales * w**2), jnp.zeros(4))
    >>> found = curvature.spectrum(matrix, key=jax.random.key(0))
    >>> found.shares, curvature.at_threshold(found, 0.1).shares
    ((0.25, 0.0, 0.75), (0.25, 0.25, 0.5))
    """
    check_spectrum(f"at_threshold({type(spectrum).__name__}, {threshold})", spectrum)
    shares, intervals = sign_shares(
        spectrum.probes, spectrum.dimension, float(threshold), spectrum.noise, spectrum.confidence
    )
    return spectrum._replace(shares=shares, share_intervals=intervals, threshold=float(threshold))


def block_spectra(
    loss: Loss,
    params: Any,
    batch: Any = None,
    *,
    key: Any,
    blocks: Sequence[str] | None = None,
    probes: int = 8,
    products: int = 50,
    threshold: float | None = None,
    confidence: float = 0.95,
) -> dict[str, Spectrum]:
    """The spectrum of each layer's diagonal block of the Hessian, ``d^2 L / d w_b d w_b'``.

    Args:
        loss, params, batch: As in :func:`hessian`.
        key: A random key.
        blocks: A glob on paths for each block, such as ``["hidden/*", "out/kernel"]``. By default the leaves with a
            common parent are a block, as ``hidden`` for ``hidden/kernel`` and ``hidden/bias``; a leaf without one is a
            block of its own; integer leaves are left out.
        probes, products, threshold, confidence: As in :func:`spectrum`, for each block.

    Returns:
        A dictionary from block to :class:`Spectrum`, in the order of the leaves or globs.

    Raises:
        LossFormError, DtypeError, StructureError, SelectionError, BatchError: As in :func:`classify`.
        ArgumentTypeError, ArgumentRangeError: As in :func:`spectrum`.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> params = {"first": {"kernel": jnp.ones(3), "bias": jnp.ones(2)}, "last": jnp.ones(2)}
    >>> loss = lambda p, batch: jnp.sum(p["first"]["kernel"] ** 2) - jnp.sum(p["last"] ** 2) * p["first"]["bias"][0]
    >>> found = curvature.block_spectra(loss, params, key=jax.random.key(0))
    >>> {name: one.shares for name, one in found.items()}
    {'first': (0.0, 0.4, 0.6), 'last': (1.0, 0.0, 0.0)}
    """
    call = f"block_spectra({errors.show(loss)}, params, batch)"
    function = carried(call, loss)
    key = vectors.check_key(call, key)
    found = {}
    for index, (name, where) in enumerate(_blocks(call, params, blocks).items()):
        operator = hessian_at(function, point(call, params, batch, where))
        found[name] = spectrum(
            operator, key=jax.random.fold_in(key, index), probes=probes, products=products, threshold=threshold,
            confidence=confidence,
        )  # fmt: skip
    return found


def check_spectrum(call: str, spectrum: Any) -> None:
    if isinstance(spectrum, Spectrum):
        return
    raise errors.ArgumentTypeError(
        call,
        expected="the first argument must be a Spectrum",
        got=f"{type(spectrum).__name__} {errors.show(spectrum)}",
        cause="the matrix was given",
        fix="write curvature.spectrum(operator, key=key)",
    )


def _probe(operator: Operator, key: jax.Array, products: int, complete: bool) -> tuple[Probe, float]:
    """One run and the asymmetry that it saw; its basis is free again when this returns."""
    start = vectors.random(key, operator.point.chosen)
    weight = vectors.norm(start) ** 2
    found = None
    for found in krylov_steps(operator, start, key):
        if not complete and (found.closed or len(found.diagonal) >= products):
            break
    assert found is not None
    return probe_of(found, operator.dimension, weight), found.asymmetry


def _blocks(call: str, params: Any, blocks: Any) -> dict[str, Any]:
    if blocks is None:
        paths, leaves = leaf_paths(params), jax.tree.leaves(params)
        names = [path.rpartition("/")[0] or path for path in paths]
        real = [
            isinstance(leaf, float) or (is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating)) for leaf in leaves
        ]
        treedef = jax.tree.structure(params)
        return {
            block: treedef.unflatten([name == block and hit for name, hit in zip(names, real, strict=True)])
            for block in dict.fromkeys(name for name, hit in zip(names, real, strict=True) if hit)
        }
    if isinstance(blocks, str) or not isinstance(blocks, Sequence) or not all(isinstance(one, str) for one in blocks):
        raise errors.ArgumentTypeError(
            call,
            expected="blocks must be a list of globs on paths",
            got=f"{type(blocks).__name__} {errors.show(blocks)}",
            cause="each glob is a block of its own",
            fix="write blocks=['hidden/*', 'out/*']",
        )
    return {glob: glob for glob in blocks}
