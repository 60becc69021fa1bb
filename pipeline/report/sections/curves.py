"""Scores that are curves: their mean per explainer, with a band."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline import aggregate
from pipeline.report import charts, page

if TYPE_CHECKING:
    from markupsafe import Markup

    from pipeline.aggregate import Judged
    from pipeline.store import Run

title = "Curves"
order = 30

TEMPLATE = """
{% for metric, column, chart, means in curves %}
<div class="card plot{{ " many" if means | length > n_colours }}">
  <div>{{ chart }}</div>
  <table{% if means | length > n_colours %} class="tight"{% endif %}><thead><tr>
    <th>{{ metric.name }} <span class="pill">
    {{- "lower is better" if metric.direction == "lower" else "higher is better" }}</span></th>
    <th class="value">{{ metric.headline }}</th></tr></thead>
  <tbody>
  {% for name, colour, mean in means %}
  <tr><th><i class="key {{ look(colour) }}"></i>{{ name | breakable }}</th>
  <td class="value">{{ mean | number }}</td></tr>
  {% endfor %}
  </tbody></table>
</div>
{% endfor %}
<p class="note">Mean over all samples
{%- if has_bands %}; the band is the 95 % confidence interval of the mean{% endif %}. In the
tables, the best explainer comes first.</p>
"""


def render(run: Run) -> str | None:
    """Return a chart per curve; None if no metric has one."""
    colours = {name: place for place, name in enumerate(run.maps)}
    curves = [
        (metric, column, chart, _means(run, metric, colours))
        for metric in aggregate.judged(run)
        for column, chart in _charts(run, metric, colours).items()
    ]
    if not curves:
        return None
    return page.fragment(
        TEMPLATE,
        curves=curves,
        look=charts.look,
        n_colours=charts.N_COLOURS,
        has_bands=any(len(means) <= charts.N_COLOURS for *_, means in curves),
    )


def _means(run: Run, metric: Judged, colours: dict[str, int]) -> list[tuple[str, int, float]]:
    """Return name, colour and mean of each explainer, the best first, undefined ones last."""
    rows = [row for row in aggregate.headlines(run, metric) if row.group == aggregate.ALL]
    sign = 1 if metric.direction == "lower" else -1
    rows.sort(key=lambda row: (np.isnan(row.mean), sign * row.mean))
    return [(row.explainer, colours.get(row.explainer, 0), row.mean) for row in rows]


def _charts(run: Run, metric: Judged, colours: dict[str, int]) -> dict[str, Markup]:
    series: dict[str, list[charts.Series]] = {}
    for name in metric.explainers:
        for column, values in run.scores(metric.name, name).items():
            if np.ndim(values) == 2 and not np.isnan(values).all(axis=0).any():
                found = aggregate.summarise(values)
                line = charts.Series(name, found.mean, found.low, found.high, colours.get(name, 0))
                series.setdefault(column, []).append(line)
    y_label = metric.space if metric.space != "none" else metric.method
    return {
        column: charts.lines(
            np.linspace(0.0, 1.0, len(lines[0].values)),
            lines,
            "share of steps taken",
            f"mean {y_label}",
        )
        for column, lines in series.items()
    }
