"""What came after Adam with a proven result: stable, without eps, with fewer second moments, with another order."""

from gradtx import errors
from gradtx.combinators import atan2_ratio, chain, ratio, stable_ratio
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_corrected_decay,
    add_decayed_weights,
    bias_correction,
    clip_by_block_rms,
    ema,
    factored_mean_square,
    identity,
    mean_square,
    scale,
    scale_by_adam,
    scale_by_adam_mini,
    scale_by_confidence,
    scale_by_learning_rate,
    square_root,
)


@transformation
def stable_adamw(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.99,
    eps: errors.Epsilon = 1e-8,
    *,
    weight_decay: errors.Strength = 1e-4,
    mask: Where | None = None,
) -> GradientTransformation:
    """AdamW with Adafactor's clipping, ``u = -learning_rate * (a + weight_decay * p) / max(1, RMS(g / sqrt(v^)))``.

    ``a`` is Adam's ``m^ / (sqrt(v^) + eps)``; the root mean square, with ``eps`` as the smallest root, is that of each
    leaf: a step is shorter where the
    gradients are larger than their second moment remembers, so loss spikes need no clipping of gradients. The decay is
    shortened with it. ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`; ``mask``
    selects the leaves that decay. State: two float32 numbers per parameter.

    Source: Wortsman et al. 2023, arXiv:2304.13013, algorithm 2.
    """
    return chain(
        stable_ratio(
            chain(ema(b1), bias_correction(b1)),
            chain(mean_square(b2), bias_correction(b2), square_root()),
            add_decayed_weights(weight_decay, mask),
            eps=eps,
        ),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adam_atan2(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    a: errors.NonNegative = 1.27,
    b: errors.NonNegative = 1.0,
    *,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """Adam without eps, ``u = -learning_rate * (a * atan2(m^, b * sqrt(v^)) + weight_decay * p)``.

    It does not change with the scale of the loss, and no step is longer than ``a * pi / 2``. ``a = 1.27``, about
    ``4 / pi``, makes the first step as long as Adam's. ``weight_decay`` may be one for each layer, as in
    :func:`gradtx.add_decayed_weights`; ``mask`` selects the leaves that decay. State: two float32 numbers per
    parameter.

    Source: Everett et al. 2024, arXiv:2407.05872 (Adam-atan2).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.adam_atan2(1.0)
    >>> tx.update(jnp.array([1e-15, -1e15]), tx.init(jnp.zeros(2)))[0].round(2).tolist()
    [-1.0, 1.0]
    """
    return chain(
        atan2_ratio(
            chain(ema(b1), bias_correction(b1)),
            chain(mean_square(b2), bias_correction(b2), square_root(), scale(b)),
        ),
        scale(a),
        *_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adam_mini(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    *,
    rows: Where | None = None,
    heads: Where | None = None,
    weight_decay: errors.Strength = 1e-4,
    mask: Where | None = None,
) -> GradientTransformation:
    """AdamW with one second moment for each block of weights, ``v <- b2 * v + (1 - b2) * mean(g^2)`` over the block.

    The rule of the blocks: what leads into one output unit (all axes of a kernel but those of the outputs, as JAX's
    layers order them); with ``rows`` the rows of the leaves that it selects, the tokens of an embedding; with ``heads``
    the heads of kernels ``(inputs, heads, size)``, as of queries and keys; a vector is one block. Name embeddings,
    queries and keys: with the first rule for them the paper saw training fail. Hyperparameters are AdamW's. State: one
    float32 number per parameter and one per block, half of AdamW's.

    Source: Zhang et al. 2024, arXiv:2406.16793, algorithm 1 with its partition for Transformers.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.adam_mini(1.0, rows="embedding", weight_decay=0.0)
    >>> params = {"embedding": jnp.zeros((2, 2)), "kernel": jnp.zeros((2, 2))}
    >>> grads = {name: jnp.array([[1.0, 1.0], [7.0, 1.0]]) for name in params}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> [[round(x, 2) for x in row] for row in updates["kernel"].tolist()]
    [[-0.2, -1.0], [-1.4, -1.0]]
    >>> [[round(x, 2) for x in row] for row in updates["embedding"].tolist()]
    [[-1.0, -1.0], [-1.4, -0.2]]
    """
    return chain(
        scale_by_adam_mini(b1, b2, eps, rows=rows, heads=heads),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamc(
    learning_rate: errors.NonNegative,
    max_learning_rate: errors.Positive,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    weight_decay: errors.NonNegative = 1e-4,
    normalized: Where | None = None,
) -> GradientTransformation:
    """AdamW whose decay follows the schedule, ``u = -rate * (m^ / (sqrt(v^) + eps) + decay * rate / max_rate * p)``.

    ``rate`` is ``learning_rate``, a schedule with the largest value ``max_learning_rate``; ``normalized`` selects the
    layers in front of a normalization, for which this holds; the others decay as in AdamW. Without it all are. It keeps
    gradient norms from rising towards the end of training. State: two float32 numbers per parameter.

    Source: Defazio 2025, arXiv:2506.02285, algorithm 1.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_corrected_decay(weight_decay, learning_rate, max_learning_rate, normalized),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def laprop(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-15,
    *,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """Momentum of scaled gradients, ``u = -learning_rate * m^``, ``m <- b1 * m + (1 - b1) * g / (sqrt(v^) + eps)``.

    Adam scales the momentum, this averages what is scaled: ``b1`` and ``b2`` no longer depend on each other, and no
    step is longer than ``1 / sqrt(1 - b2)``. ``weight_decay`` is decoupled, as AdamW's, and may be one for each layer;
    ``mask`` selects the leaves that decay. State: two float32 numbers per parameter.

    Source: Ziyin, Wang and Ueda 2020, arXiv:2002.04839, algorithm 1.
    """
    return chain(
        ratio(identity(), chain(mean_square(b2), bias_correction(b2), square_root()), eps=eps),
        ema(b1),
        bias_correction(b1),
        *_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def came(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    b3: errors.Decay = 0.9999,
    eps: errors.Epsilon = 1e-30,
    eps_instability: errors.Epsilon = 1e-16,
    clipping_threshold: errors.Positive = 1.0,
    *,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * (m / sqrt(s) + weight_decay * p)``, ``m <- b1 * m + (1 - b1) * r``, on factored moments.

    ``r = q / max(1, RMS(q) / clipping_threshold)``, ``q = g / sqrt(v)``, with ``v`` the factored moving average of
    ``g^2 + eps`` with decay ``b2`` and ``s`` that of ``(r - m)^2 + eps_instability`` with decay ``b3``. Vectors take
    ``m``, and keep all of ``v``. ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`.
    State: for ``n x m`` weights ``n * m + 2 * (n + m)`` float32 numbers.

    Source: Luo et al. 2023, ACL, arXiv:2307.02047, algorithm 2.
    """
    return chain(
        ratio(identity(), chain(factored_mean_square(b2, eps=eps), square_root()), eps=0.0),
        clip_by_block_rms(clipping_threshold),
        scale_by_confidence(b1, b3, eps_instability),
        *_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def _decay(weight_decay: errors.Strength, mask: Where | None) -> list[GradientTransformation]:
    """No part that needs the parameters where there is no decay."""
    none = isinstance(weight_decay, float | int) and weight_decay == 0
    return [] if none else [add_decayed_weights(weight_decay, mask)]
