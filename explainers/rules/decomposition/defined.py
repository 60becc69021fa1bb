"""What the table refuses although it has a rule for the class: where parts are not defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from explainers.rules.decomposition.chosen import check_choice
from explainers.rules.decomposition.functions import check_function
from explainers.rules.decomposition.products import check_divisor

if TYPE_CHECKING:
    from collections.abc import Collection

    from explainers.network import Network
    from explainers.operators import Operator


def check_defined(op: Operator, network: Network, split: Collection[str]) -> None:
    """Refuse an operator of a value that is split whose parts are not defined.

    Parameters
    ----------
    split
        Names of the operators whose values are split.

    Raises
    ------
    NotImplementedError
        Naming the operator, its node, its module and the table.
    """
    check_function(op, network)
    check_divisor(op, split)
    check_choice(op, split)
