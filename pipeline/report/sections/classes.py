"""Headline scores by class, the worst classes first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate
from pipeline.report import naming, page

if TYPE_CHECKING:
    from pipeline.aggregate import Judged
    from pipeline.store import Run

title = "Classes"
order = 40

LIMIT = 20
"""Classes per table: the worst ones are what one looks for."""

MANY = 7
"""Beyond so many explainers each has a row, and classes are the columns, with upright headings."""

TEMPLATE = """
<div class="cards{{ " many" if is_many }}">
{% for metric, columns, rows, n_shown, n_classes in tables %}
<div class="card"><h3 style="margin-top:0">{{ metric.name }}
  <span class="pill">{{ "lower is better" if metric.direction == "lower" else "higher is better" }}
  </span></h3>
<div class="scroll" tabindex="0" role="region" aria-label="Scores by class">
<table class="wide tight">
<thead><tr><th scope="col">{{ "explainer" if is_many else "class" }}</th>
{% for name, n in columns %}
<th scope="col" class="value"><span>{{ name if is_many else name | breakable }}
{%- if n is not none %} <small>{{ n | count }}</small>{% endif %}</span></th>{% endfor %}
</tr></thead>
<tbody>
{% for name, n, cells in rows %}
<tr><th scope="row">{{ name }}{% if n is not none %} <small>{{ n | count }}</small>{% endif %}</th>
{% for mean, shade in cells %}
<td class="cell" style="background: rgba(var(--shade), {{ "%.2f" | format(shade) }})">
{{ mean | number }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if n_classes > n_shown %}
<p class="note">The worst {{ n_shown }} of {{ n_classes }} classes.</p>
{% endif %}
</div>
{% endfor %}
</div>
<p class="note">Class means, worst class first (by the mean over explainers); beside its name, its
samples. The stronger the shade, the worse; shades span each table. Macro is the mean of all class
means, in which rare classes weigh as much as frequent ones; micro that of all samples.</p>
"""


def render(run: Run) -> str | None:
    """Return a table per metric; None if there are no scores or no classes."""
    tables = [table for metric in aggregate.judged(run) if (table := _table(run, metric))]
    is_many = any(len(columns) > MANY for _, columns, *_ in tables)
    tables = [_turned(table) for table in tables] if is_many else tables
    return page.fragment(TEMPLATE, tables=tables, is_many=is_many) if tables else None


def _table(run: Run, metric: Judged) -> tuple[Any, ...] | None:
    rows = aggregate.headlines(run, metric)
    groups = list(dict.fromkeys(r.group for r in rows if r.group.startswith(aggregate.CLASS)))
    if len(groups) < 2:
        return None
    found = {(row.group, row.explainer): row for row in rows}
    explainers = [name for name in metric.explainers if (groups[0], name) in found]
    means = np.array([[found[group, name].mean for name in explainers] for group in groups])
    badness = _shares(means if metric.direction == "lower" else -means)
    with np.errstate(invalid="ignore"):
        order_ = np.argsort(-np.nan_to_num(badness).mean(axis=1), kind="stable")[:LIMIT]
    label = naming.class_names(run)
    shown: list[tuple[str, int | None, list[tuple[float, float]]]] = [
        (
            label(int(groups[place].removeprefix(aggregate.CLASS))),
            found[groups[place], explainers[0]].n,
            list(zip(means[place].tolist(), (0.55 * badness[place]).tolist(), strict=True)),
        )
        for place in order_
    ]
    shown += [
        (name, None, [(found[group, explainer].mean, 0.0) for explainer in explainers])
        for name, group in (("macro", aggregate.MACRO), ("micro", aggregate.ALL))
        if (group, explainers[0]) in found  # statistics of groups have no mean of classes
    ]
    n_shown = len(order_)
    return metric, [(name, None) for name in explainers], shown, n_shown, len(groups)


def _turned(table: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a table with rows and columns exchanged."""
    metric, columns, rows, *rest = table
    cells = zip(*(cells for *_, cells in rows), strict=True)
    turned = [(name, n, list(row)) for (name, n), row in zip(columns, cells, strict=True)]
    return metric, [(name, n) for name, n, _ in rows], turned, *rest


def _shares(values: np.ndarray[Any, np.dtype[np.float64]]) -> Any:
    """Return values from 0 (the least) to 1 (the greatest); NaN is 0."""
    span = np.nanmax(values) - np.nanmin(values) if not np.isnan(values).all() else 0.0
    return (
        np.nan_to_num((values - np.nanmin(values)) / span) if span > 0 else np.zeros(values.shape)
    )
