"""A run as it is now: what many look at, one after the other, is read once."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pipeline.plan import EXPLAIN
from pipeline.store import Run

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

    from pipeline.ledger import Entry

KEPT_BYTES = 2**28
"""Of scores that are kept; beyond, they are read again."""


class Snapshot(Run):
    """A run that does not change while this object lives, as far as its readers see.

    Parameters
    ----------
    run
        The opened run; what it has read is taken over.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run.folder)
        self.__dict__ |= run.__dict__
        self._entries = cache(super().entries)
        self._samples = cache(super().samples)
        self._scores: dict[tuple[str, str], dict[str, NDArray[Any]]] = {}
        self._n_bytes = 0

    def entries(self, pass_name: str) -> dict[int, Entry]:
        """Return the records of a pass, as they were when they were first asked for."""
        return self._entries(pass_name)

    def samples(self, pass_name: str = EXPLAIN) -> pa.Table:
        """Return the facts per sample, likewise."""
        return self._samples(pass_name)

    def scores(self, metric: str, explainer: str) -> dict[str, NDArray[Any]]:
        """Return the columns of a metric, likewise; nobody may write into them."""
        key = (metric, explainer)
        if key in self._scores:
            return dict(self._scores[key])
        found = super().scores(metric, explainer)
        size = sum(values.nbytes for values in found.values())
        if self._n_bytes + size <= KEPT_BYTES:
            self._n_bytes += size
            self._scores[key] = found
        for values in found.values():
            values.flags.writeable = False
        return dict(found)
