"""What may be done to a gradient before it is shown: nothing, its size, its square."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

Postprocess = Literal["none", "abs", "square"]


def check_name(postprocess: str) -> None:
    """Refuse a name that is not one of `Postprocess`.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if postprocess not in get_args(Postprocess):
        raise ValueError(f"got postprocess {postprocess!r}, expected 'none', 'abs' or 'square'")


def apply(postprocess: Postprocess, relevance: Tensor) -> Tensor:
    """Return `relevance`, its absolute value, or its square."""
    if postprocess == "abs":
        return relevance.abs()
    return relevance.square() if postprocess == "square" else relevance
