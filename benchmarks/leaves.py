"""Shapes of the leaves that steps are measured on: nothing is allocated."""

import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def equal(count: int, size: int) -> Shapes:
    """``count`` vectors of ``size`` elements."""
    return _named([(size,)] * count)


def resnet50(width: int = 64, classes: int = 1000) -> Shapes:
    """161 leaves, 25,557,032 parameters: 53 convolutions with scale and bias, and a matrix with a bias.

    Source: He et al. 2015, arXiv:1512.03385, table 1.
    """
    shapes: list[tuple[int, ...]] = [(7, 7, 3, width), (width,), (width,)]
    inside = width
    for stage, blocks in enumerate((3, 4, 6, 3)):
        narrow, wide = width * 2**stage, 4 * width * 2**stage
        for block in range(blocks):
            convolutions = [(1, 1, inside, narrow), (3, 3, narrow, narrow), (1, 1, narrow, wide)]
            convolutions += [(1, 1, inside, wide)] if block == 0 else []
            for convolution in convolutions:
                shapes += [convolution, convolution[-1:], convolution[-1:]]
            inside = wide
    return _named([*shapes, (inside, classes), (classes,)])


def gpt2(width: int = 768, vocabulary: int = 50257, layers: int = 12, context: int = 1024) -> Shapes:
    """148 leaves, 124,439,808 parameters: the smallest model of Radford et al. 2019, table 2."""
    norm: list[tuple[int, ...]] = [(width,), (width,)]
    shapes: list[tuple[int, ...]] = [(vocabulary, width), (context, width)]
    for _ in range(layers):
        shapes += [*norm, (width, 3 * width), (3 * width,), (width, width), (width,)]
        shapes += [*norm, (width, 4 * width), (4 * width,), (4 * width, width), (width,)]
    return _named([*shapes, *norm])


def count(shapes: Shapes) -> int:
    """Parameters in all."""
    return sum(math.prod(leaf.shape) for leaf in shapes.values())


def _named(shapes: list[tuple[int, ...]]) -> Shapes:
    return {f"leaf_{index:04d}": jax.ShapeDtypeStruct(shape, jnp.float32) for index, shape in enumerate(shapes)}
