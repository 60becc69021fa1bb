"""Calls from within ``torch.inference_mode()``, where torch records nothing for derivatives."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def outside_inference_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function without inference mode, and without gradients where that was on.

    Inside, a derivative by autograd would be zero without a word.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return wrapped


@outside_inference_mode
def ordinary(tensor: Tensor) -> Tensor:
    """Return the tensor, copied if it was made in inference mode: such cannot be differentiated."""
    return tensor.clone() if tensor.is_inference() else tensor
