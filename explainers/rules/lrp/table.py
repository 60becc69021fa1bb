"""Rule table ``lrp``: layer-wise relevance propagation (Bach et al. 2015).

Each rule hands the relevance ``R`` of an operator's output ``z`` to its input ``x`` in proportion
to contributions, doi:10.1371/journal.pone.0130140. Definitions and defaults are zennit's (Anders
et al. 2021, arXiv:2106.13200): the denominator is ``stab(z) = z + eps * sgn(z)`` with
``sgn(0) = +1``, and the bias is part of it, so that bias and stabiliser absorb relevance in
convolutions and matrix products; what reaches an output whose denominator is zero but for the
stabiliser is lost. Rules return these amounts with their `Shares`, and what arrives is what they
hand on and keep. Rules that drop or multiply relevance for other reasons say so:
``lrp.conserves(op, name)``. What has no weights conserves.

Rules called ``<name>.<fact>`` take the place of ``<name>`` where a `Composite` knows the fact
before any input is seen: ``nonnegative`` (of all inputs) and ``signal_0``, ``signal_1`` (which
factor of a product is gated by the other).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.rules.lrp.stabiliser import STABILISER, Stabiliser
from explainers.rules.table import RuleTable

if TYPE_CHECKING:
    from torch import Tensor

lrp = RuleTable("lrp")


def stabilised(z: Tensor, epsilon: float = STABILISER) -> Tensor:
    """Return ``z + epsilon * sgn(z)`` with ``sgn(0) = +1``; see `Stabiliser`."""
    return Stabiliser(epsilon)(z)


__all__ = ["STABILISER", "lrp", "stabilised"]
