"""Arguments of a function that is called for its result, checked against their annotations."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from gradtx import errors

P = ParamSpec("P")
R = TypeVar("R")


def checked_call(function: Callable[P, R]) -> Callable[P, R]:
    """Like :func:`gradtx.errors.checked`, for a function whose result must not be shared: an iterator, a state."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        errors.bind(function, args, kwargs)
        return function(*args, **kwargs)

    return call
