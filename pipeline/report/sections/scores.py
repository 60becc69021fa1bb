"""Explainers by metrics: the mean of each headline score with its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline import aggregate, scorable
from pipeline.report import formats, page

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.aggregate import Aggregate, Judged
    from pipeline.store import Run

title = "Scores"
order = 20

TEMPLATE = """
<div class="scroll framed"><table class="wide">
<thead><tr><th>explainer</th>
{% for metric in metrics %}
<th class="value">{{ metric.name }} <small>{{ metric.headline if metric.headline != metric.name }}
{{ "lower is better ↓" if metric.direction == "lower" else "higher is better ↑" }}</small></th>
{% endfor %}
</tr></thead>
<tbody>
{% for explainer, cells in rows %}
<tr><th>{{ explainer }}</th>
{% for cell in cells %}
<td class="value{{ " best" if cell and cell.is_best }}">
{% if cell %}
{% set mean, half = cell.row.mean | interval(cell.row.high - cell.row.mean) %}
<b>{{ mean }}</b>{% if half %} <small>± {{ half }}</small>{% endif %}
{% if cell.is_tied %} <small title="not distinguishable from the best">≈</small>{% endif %}
{% if cell.wrong and cell.wrong.n %}
<br><small>{{ cell.wrong.mean | number }} where misclassified ({{ cell.wrong.n }})</small>
{% endif %}
{% else %}&ndash;{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="note">Mean over {{ n }} samples ± half of its 95 % confidence interval (Student's t).
The best of each column is shaded; ≈ marks what cannot be told from it, because the 95 % interval
of the paired difference holds zero.
{% for metric in metrics %}{{ metric.name }} {{ space(metric) }}. {% endfor %}
{% for text in unscored %}{{ text }}. {% endfor %}
{% if undefined %}{{ undefined }} scores are undefined (failed samples, maps that are empty or the
same everywhere, empty masks, classes without a graph).{% endif %}</p>
"""


@dataclass(frozen=True)
class Cell:
    """One explainer under one metric."""

    row: Aggregate
    wrong: Aggregate | None
    """The same over misclassified samples."""
    is_best: bool
    is_tied: bool


def render(run: Run) -> str | None:
    """Return the table; None if nothing has been evaluated."""
    metrics = aggregate.judged(run)
    if not metrics:
        return None
    columns = [_column(run, metric) for metric in metrics]
    # scans are scored by their graphs, and have no maps
    known = dict.fromkeys((*run.maps, *(name for metric in metrics for name in metric.explainers)))
    explainers = [name for name in known if any(name in column for column in columns)]
    rows = [(name, [column.get(name) for column in columns]) for name in explainers]
    overall = [cell.row for column in columns for cell in column.values()]
    return page.fragment(
        TEMPLATE,
        metrics=metrics,
        rows=rows,
        n=formats.count(max((row.n for row in overall), default=0)),
        undefined=sum(row.n_undefined for row in overall),
        space=_space,
        unscored=[text for metric in metrics if (text := _unscored(run, metric))],
    )


def _unscored(run: Run, metric: Judged) -> str:
    built = metric.metric()
    if built is None:
        return ""  # what it scored is all that is known
    return scorable.in_words(metric.name, scorable.unscored(built, run.plan.maps, run.plan.form))


def _space(metric: Judged) -> str:
    if metric.space == "none":
        return "reads maps alone"
    return f"measures the {metric.space} of the target"


def _column(run: Run, metric: Judged) -> dict[str, Cell]:
    values = {
        name: np.asarray(columns[metric.headline], np.float64)
        for name in metric.explainers
        if metric.headline in (columns := run.scores(metric.name, name))
    }
    found = {(row.explainer, row.group): row for row in aggregate.headlines(run, metric)}
    means = {name: found[name, aggregate.ALL].mean for name in values}
    known = {name: mean for name, mean in means.items() if not np.isnan(mean)}
    pick = min if metric.direction == "lower" else max
    best = pick(known, key=known.__getitem__) if known else None
    return {
        name: Cell(
            row=found[name, aggregate.ALL],
            wrong=found.get((name, aggregate.MISCLASSIFIED)),
            is_best=name == best,
            is_tied=best not in (None, name) and _is_tied(values[name] - values[best or name]),
        )
        for name in values
    }


def _is_tied(difference: NDArray[np.float64]) -> bool:
    summary = aggregate.summarise(difference[:, None])
    return not (summary.low[0] > 0 or summary.high[0] < 0)
