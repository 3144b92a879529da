"""Scaling by running statistics, as ratios of moments."""

from gradtx import errors
from gradtx.combinators import chain, ratio, total
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import moments
from gradtx.transforms.scaling import identity, scale


@transformation
def scale_by_rss(
    initial_accumulator_value: errors.NonNegativeNumber = 0.1, eps: errors.Epsilon = 1e-7, *, eps_in_sqrt: bool = True
) -> GradientTransformation:
    """``u = g / sqrt(s + eps)`` with the sum of squares ``s <- s + g^2`` from ``initial_accumulator_value``.

    ``eps_in_sqrt=False`` gives ``g / (sqrt(s) + eps)``. State: one float32 number per parameter.

    Source: Duchi, Hazan and Singer 2011, Journal of Machine Learning Research 12, section 1.1.
    """
    return _over_root(moments.sum_of_squares(initial_value=initial_accumulator_value), eps, eps_in_sqrt)


@transformation
def scale_by_rms(
    decay: errors.Decay | None = 0.9,
    eps: errors.Epsilon = 1e-8,
    initial_scale: errors.NonNegativeNumber = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """``u = g / sqrt(v + eps)`` with ``v <- decay * v + (1 - decay) * g^2`` from ``initial_scale``.

    ``decay=None`` makes ``v`` the plain mean of ``g^2`` over all steps. ``eps_in_sqrt=False`` gives
    ``g / (sqrt(v) + eps)``; ``bias_correction`` divides ``v`` by ``1 - decay^t`` (a plain mean needs none). State: one
    float32 number per parameter.

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """
    correction = [moments.bias_correction(decay)] if bias_correction and decay is not None else []
    return _over_root(chain(moments.mean_square(decay, initial_value=initial_scale), *correction), eps, eps_in_sqrt)


@transformation
def scale_by_stddev(
    decay: errors.Decay | None = 0.9,
    eps: errors.Epsilon = 1e-8,
    initial_scale: errors.NonNegativeNumber = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """``u = g / sqrt(v + eps)`` with ``v`` the :func:`variance` of the gradients, from ``initial_scale``.

    ``decay=None`` gives all steps the same weight. ``eps_in_sqrt=False`` gives ``g / (sqrt(v) + eps)``. With
    ``bias_correction``, or over all steps, the variance of the first gradient is 0 and its update ``g / sqrt(eps)``;
    without, ``v`` starts at ``decay * (1 - decay) * g^2``. State: two float32 numbers per parameter.

    Source: Graves 2013, arXiv:1308.0850, equations 38 to 40.
    """
    spread = moments.variance(decay, initial_value=initial_scale, corrected=bias_correction)
    return _over_root(spread, eps, eps_in_sqrt)


def _over_root(second: GradientTransformation, eps: errors.Epsilon, eps_in_sqrt: bool) -> GradientTransformation:
    """The gradient over the root of a second moment, with ``eps`` under the root or beside it."""
    under, beside = (eps, 0.0) if eps_in_sqrt else (0.0, eps)
    return ratio(identity(), chain(second, moments.square_root(eps=under)), eps=beside)


@transformation
def scale_by_adam(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
) -> GradientTransformation:
    """``u = m^ / (sqrt(v^ + eps_root) + eps)``, ``m^`` and ``v^`` the corrected moving averages of ``g`` and ``g^2``.

    With ``nesterov``, ``m^ = b1 * m / (1 - b1^(t+1)) + (1 - b1) * g / (1 - b1^t)`` looks one step ahead (the next
    ``b1`` of a schedule is taken to be the present one). Dozat's algorithm also multiplies ``v^`` by ``b2``; Optax,
    Keras and PyTorch do not, nor does this. (PyTorch's NAdam has other decays in front of ``m`` and ``g`` than in
    ``m``.) Without ``bias_correction``, ``m^ = m`` (or ``b1 * m + (1 - b1) * g``) and ``v^ = v``. State: two float32
    numbers per parameter.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1; ``nesterov``, Dozat 2016, Incorporating Nesterov momentum
    into Adam (ICLR workshop), algorithm 2.
    """

    correction = [moments.bias_correction(b2)] if bias_correction else []
    root = chain(moments.mean_square(b2), *correction, moments.square_root(eps=eps_root))
    return ratio(first_moment(b1, nesterov=nesterov, bias_correction=bias_correction), root, eps=eps)


def first_moment(b1: errors.Decay, *, nesterov: bool, bias_correction: bool = True) -> GradientTransformation:
    """``m^`` of :func:`scale_by_adam`: the corrected moving average of ``g``, or with ``nesterov`` one step ahead."""
    correct = moments.bias_correction
    if nesterov and bias_correction:
        ahead = chain(moments.ema(b1), correct(b1, steps_ahead=1), scale(b1))
        return total(ahead, chain(correct(b1), scale(1.0 - b1)))
    if nesterov:
        return moments.ema(b1, output_decay=b1 * b1)
    return chain(moments.ema(b1), *([correct(b1)] if bias_correction else []))


@transformation
def scale_by_adamax(
    b1: errors.Decay = 0.9, b2: errors.Decay = 0.999, eps: errors.Epsilon = 1e-8
) -> GradientTransformation:
    """``u = m / ((1 - b1^t) * v)`` with ``m`` the moving average of ``g`` and ``v <- max(b2 * v, |g| + eps)``.

    The paper has no ``eps``; it stands where Optax and PyTorch have it. State: two float32 numbers per parameter.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 2.
    """
    return ratio(
        chain(moments.ema(b1), moments.bias_correction(b1)),
        chain(moments.absolute_value(eps=eps), moments.running_max(b2)),
        eps=0.0,
    )
