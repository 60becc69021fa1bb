"""Scores that are curves: a chart of each with its means, and a table of what sums it up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate
from pipeline.inputs import ALONE, is_one_picture
from pipeline.metrics import Curve
from pipeline.report import charts, checks, page

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.store import Run

CONTROL = "random order"

TEMPLATE = """
{% for plot in plots %}
{% set many = plot.rows | length > n_colours %}
<div class="card plot{{ " many" if many }}">
  <div>{{ plot.chart }}</div>
  <table{% if many or plot.curve.error %} class="tight"{% endif %}><thead><tr>
    <th scope="col">{{ plot.name | breakable }} <span class="pill">
    {{- "lower is better" if plot.curve.direction == "lower" else "higher is better" }}</span></th>
    <th scope="col" class="value">{{ plot.curve.area | breakable }}</th>
    {% if plot.curve.error %}<th scope="col" class="value">spread</th>
    <th scope="col" class="value">Monte Carlo</th>{% endif %}
    </tr></thead>
  <tbody>
  {% for row in plot.rows %}
  <tr><th scope="row"><i class="key {{ look(row.colour) }}"></i>{{ row.name | breakable }}</th>
  <td class="value">{{ row.mean | number }}</td>
  {% if plot.curve.error %}
  <td class="value">{{ row.spread | number(2) }}</td>
  <td class="value">{{ row.monte_carlo | percent }}</td>
  {% endif %}</tr>
  {% endfor %}
  </tbody></table>
</div>
{% endfor %}
<p class="note">Mean over all samples
{%- if has_bands %}; the band is the 95 % confidence interval of the mean, from how much samples
differ{% if has_many %} (where there are more than {{ n_colours }} lines, of the best, the worst and
controls){% endif %}{% endif %}. In the tables, the best comes first.
{%- if has_control %} Random order is the control: nothing that an explainer said.{% endif %}
{%- if has_draws %} Spread is the standard deviation of the area from sample to sample. Monte Carlo
is how much of the band's variance is due to the finite number of draws and not to the samples:
more draws make that part smaller, more samples both.{% endif %}</p>
"""


@dataclass(frozen=True)
class Row:
    """What a table says of one line."""

    name: str
    colour: int
    mean: float
    """Of the area, over all samples."""
    spread: float = float("nan")
    """Standard deviation of the area over the samples."""
    monte_carlo: float = float("nan")
    """Share of the variance over the samples that comes from drawing."""


@dataclass(frozen=True)
class Line:
    """One line of a chart and its row in the table."""

    series: charts.Series
    row: Row


@dataclass(frozen=True)
class Plot:
    """A curve of a metric: its chart and its table."""

    name: str
    """Of the metric."""
    curve: Curve
    lines: tuple[Line, ...]
    controls: tuple[str, ...] = ()
    """Explainers that know no network."""

    @property
    def chart(self) -> Markup:
        """The lines with their bands: of many lines, those of the best, the worst and controls."""
        series = [line.series for line in self.lines]
        if len(series) > charts.N_COLOURS:
            known = [row.name for row in self.rows if not np.isnan(row.mean)]
            banded = {*known[:1], *known[-1:], *self.controls, CONTROL}
            series = [each if each.name in banded else _bare(each) for each in series]
        x, title = np.array(self.curve.x), f"{self.name}: {self.curve.y_label}"
        return charts.lines(x, series, self.curve.x_label, self.curve.y_label, title=title)

    @property
    def rows(self) -> list[Row]:
        """The table, the best first."""
        sign = 1 if self.curve.direction == "lower" else -1
        rows = [line.row for line in self.lines]
        return sorted(rows, key=lambda row: (np.isnan(row.mean), sign * row.mean))


def plots(run: Run, metrics: Sequence[Judged]) -> list[Plot]:
    """Return what is to be drawn of these metrics, as they were evaluated on a run."""
    return [plot for metric in metrics for plot in _of_metric(run, metric)]


def render(found: Sequence[Plot]) -> Markup:
    """Return a chart and a table of each, and a note on how to read them."""
    lines = [line for plot in found for line in plot.lines]
    return page.fragment(
        TEMPLATE,
        plots=found,
        look=charts.look,
        n_colours=charts.N_COLOURS,
        has_bands=any(charts.has_bands([line.series for line in plot.lines]) for plot in found),
        has_many=any(len(plot.rows) > charts.N_COLOURS for plot in found),
        has_control=any(line.row.colour == charts.CONTROL for line in lines),
        has_draws=any(plot.curve.error for plot in found),
    )


def _of_metric(run: Run, metric: Judged) -> Iterator[Plot]:
    colours = {name: place for place, name in enumerate(run.maps)}
    scores = {name: run.scores(metric.name, name) for name in metric.explainers}
    controls = tuple(checks.controls(run, metric.explainers))
    for curve in _curves(run, metric, scores):
        lines = [
            _line(name, colours.get(name, 0), columns, curve)
            for name, columns in scores.items()
            if _is_drawn(columns, curve)
        ]
        if lines and curve.control:
            columns = next(each for each in scores.values() if _is_drawn(each, curve))
            control = replace(curve, column=curve.control, area=curve.control_area, error="")
            lines.append(_line(CONTROL, charts.CONTROL, columns, control))
        if lines:
            yield Plot(metric.name, curve, tuple(lines), controls)


def _bare(series: charts.Series) -> charts.Series:
    """Return a line without its band."""
    unknown = np.full_like(series.values, np.nan)
    return replace(series, low=unknown, high=unknown)


def _curves(
    run: Run, metric: Judged, scores: Mapping[str, Mapping[str, NDArray[Any]]]
) -> Iterator[Curve]:
    """Yield the curves to draw: those that the metric names, of each target, or all there are."""
    stored = {
        column: np.shape(values)[1]
        for columns in scores.values()
        for column, values in columns.items()
        if np.ndim(values) == 2
    }
    if not stored:
        return  # what scored nothing may not be able to say what it would have been
    built, form = metric.metric(), run.plan.form
    named = () if built is None or not is_one_picture(form) else built.curves(form[ALONE].shape)
    for column, n_steps in stored.items():
        base, dot, target = column.partition(".")
        for curve in named:
            if curve.column == base and len(curve.x) == n_steps:
                yield _of_target(curve, dot + target)
        if not named:
            area = metric.headline + dot + target
            x = tuple(np.linspace(0.0, 1.0, n_steps).tolist())
            label = metric.space if metric.space != "none" else metric.method
            yield Curve(column, x, "share of steps taken", f"mean {label}", area, metric.direction)


def _of_target(curve: Curve, suffix: str) -> Curve:
    """Return the curve of another target: all columns have its suffix."""
    names = ("column", "area", "error", "control", "control_area")
    columns = {name: getattr(curve, name) for name in names}
    return replace(curve, **{name: each + suffix for name, each in columns.items() if each})


def _is_drawn(columns: Mapping[str, NDArray[Any]], curve: Curve) -> bool:
    """Whether every step of a curve is known of some sample."""
    values = columns.get(curve.column)
    return values is not None and not np.isnan(values).all(axis=0).any()


def _line(name: str, colour: int, columns: Mapping[str, NDArray[Any]], curve: Curve) -> Line:
    found = aggregate.summarise(columns[curve.column])
    area = aggregate.summarise(np.reshape(columns[curve.area], (-1, 1)))
    drawn = float("nan")
    if curve.error:
        # the variance of what samples scored is that of the samples plus that of the drawing
        noise = aggregate.summarise(np.square(columns[curve.error])).mean.sum()
        total = np.square(found.std).sum()
        drawn = min(1.0, float(noise / total)) if total > 0 else drawn
    low, high = (np.clip(end, *curve.bounds) for end in (found.low, found.high))
    return Line(
        charts.Series(name, found.mean, low, high, colour),
        Row(name, colour, float(area.mean[0]), float(area.std[0]), drawn),
    )
