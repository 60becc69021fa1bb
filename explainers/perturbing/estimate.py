"""What an estimator finds for the features of some rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Estimate:
    """Numbers per feature, and how far they can be trusted."""

    values: Tensor
    """``(rows, features)``."""
    n_evaluations: Tensor
    """Forward passes that each row took, int64 ``(rows,)``."""
    standard_error: Tensor | None = None
    """Of each value, ``(rows, features)``."""
    residual: Tensor | None = None
    """Root mean square error in predicting evaluations that were held out, ``(rows,)``, in units of
    the output."""
