"""How far maps that were sampled can be trusted, and what they took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.report import columns, naming, page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.report.columns import Columns
    from pipeline.store import Run

title = "Precision"
order = 56

ERROR = "relative_error"
RESIDUAL = "residual"
EVALUATIONS = "n_evaluations"
IMPRECISE = 0.1
"""Relative error from which a map's smaller values are mostly noise."""

TEMPLATE = """
<p>Methods that sample estimate their maps, and say how well. The relative error of a map is the
root mean square of its standard errors over that of its values; the residual is the error of a
fitted model in predicting outputs that it was not fitted to.</p>
<div class="scroll framed" tabindex="0" role="region" aria-label="Precision">
<table class="wide">
<thead><tr><th scope="col">explainer</th>
<th scope="col" class="value">relative error <small>mean</small></th>
<th scope="col" class="value">relative error <small>largest</small></th>
<th scope="col" class="value">residual <small>mean</small></th>
<th scope="col" class="value">residual <small>largest</small></th>
<th scope="col" class="value">forward passes <small>mean</small></th>
<th scope="col" class="value">forward passes <small>range</small></th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.name | breakable }}</th>
<td class="value{{ " warn" if row.is_imprecise }}"><b>{{ row.error.mean | percent }}</b></td>
<td class="value">{{ row.error.most | percent }}</td>
<td class="value">{{ row.residual.mean | number }}</td>
<td class="value">{{ row.residual.most | number }}</td>
<td class="value">{{ row.evaluations.mean | count }}</td>
<td class="value">{% if row.evaluations.least < row.evaluations.most -%}
{{ row.evaluations.least | count }} to {{ row.evaluations.most | count }}{% endif %}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Over {{ n }} samples. More evaluations, or coarser features, make errors smaller: an
error falls with the root of the number of evaluations. Residuals are in units of the output.
{%- if has_imprecise %} <span class="warn">Marked</span> are errors beyond
{{ imprecise | percent }} of the map.{% endif %}
{%- if first_target %} Of several targets this is the first: {{ first_target }}.{% endif %}</p>
"""


@dataclass(frozen=True)
class Summary:
    """Of a column, over samples where it is known; NaN where it is for none."""

    mean: float = float("nan")
    least: float = float("nan")
    most: float = float("nan")

    @classmethod
    def of(cls, values: NDArray[np.float64] | None) -> Summary:
        """Return the summary of a column that may not be there."""
        known = np.zeros(0) if values is None else values[np.isfinite(values)]
        if not len(known):
            return cls()
        return cls(float(known.mean()), float(known.min()), float(known.max()))


@dataclass(frozen=True)
class Row:
    """What one explainer says of its precision."""

    name: str
    error: Summary
    residual: Summary
    evaluations: Summary

    @classmethod
    def of(cls, name: str, found: Columns) -> Row:
        """Return the row of an explainer with these columns."""
        parts = (Summary.of(found.get(column)) for column in (ERROR, RESIDUAL, EVALUATIONS))
        return cls(name, *parts)

    @property
    def is_imprecise(self) -> bool:
        """Whether the mean error is large."""
        return self.error.mean > IMPRECISE


def render(run: Run) -> str | None:
    """Return errors and passes; None if no method samples."""
    found = columns.by_explainer(run)
    asked = {ERROR, RESIDUAL, EVALUATIONS}
    rows = [Row.of(name, own) for name, own in found.items() if asked & own.keys()]
    if not rows:
        return None
    return page.fragment(
        TEMPLATE,
        rows=rows,
        n=max(len(values) for row in rows for values in found[row.name].values()),
        imprecise=IMPRECISE,
        has_imprecise=any(row.is_imprecise for row in rows),
        first_target=naming.first_of_several(run.plan),
    )
