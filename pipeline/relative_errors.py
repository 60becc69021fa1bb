"""How large the errors of a map are beside the map, in one number for each sample."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers import explaining

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from explainers import Attribution, Explained, Network

RELATIVE = "relative_error"
"""Column of the number."""
_ERROR = "standard_error"
_SAME_SIZE = ("none", "abs")
"""Ways to postprocess a map that leave it the size that its errors are of."""


def relative_error(attribution: Attribution, found: Explained, network: Network) -> Tensor | None:
    """Return the root mean square of standard errors over that of a map, ``(batch,)``.

    None where a method gives no errors, or not of the map as it is stored.
    """
    if getattr(attribution, "postprocess", "none") not in _SAME_SIZE:
        return None
    maps = list(explaining.by_part(found.relevance, network).values())
    errors = [array for name, array in found.arrays.items() if name.partition(".")[0] == _ERROR]
    if [each.shape for each in errors] != [each.shape for each in maps]:
        return None
    return (_squares(errors) / _squares(maps)).sqrt()


def _squares(parts: Iterable[Tensor]) -> Tensor:
    sums = [part.double().square().flatten(1).sum(1) for part in parts]
    return sum(sums[1:], sums[0])
