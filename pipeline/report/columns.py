"""What methods found for each sample beside its map, as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.plan import split_name
from pipeline.sinks.columns import arrays
from pipeline.sinks.samples import STATUS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pipeline.store import Run

Columns = dict[str, "NDArray[np.float64]"]
"""Names without the explainer's; of the samples that were explained, for the first target."""


def by_explainer(run: Run) -> dict[str, Columns]:
    """Return the columns of every explainer that makes maps."""
    names = dict.fromkeys(split_name(of_map)[0] for of_map in run.maps)
    tables = {each: _facts(run, each) for each in {run.pass_of(name) for name in names}}
    return {name: _columns(tables[run.pass_of(name)], name) for name in names}


def _facts(run: Run, pass_name: str) -> dict[str, NDArray[Any]]:
    stored = arrays(run.samples(pass_name))
    good = stored[STATUS] == "" if STATUS in stored else slice(None)
    return {name: values[good] for name, values in stored.items()}


def _columns(facts: Mapping[str, NDArray[Any]], name: str) -> Columns:
    own = (column for column in facts if column.startswith(f"{name}.") and len(facts[column]))
    return {column.partition(".")[2]: facts[column].astype(np.float64) for column in own}
