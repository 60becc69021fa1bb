"""The verdict: explainers by metrics, who is best, who cannot be told apart, who beats controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import aggregate, comparisons, scorable
from pipeline.report import formats, page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.aggregate import Aggregate, Judged
    from pipeline.comparisons import Compared, Standing
    from pipeline.store import Run

title = "Scores"
order = 20

TEMPLATE = """
{% if verdicts %}<ul class="said">{% for text in verdicts %}<li>{{ text }}</li>{% endfor %}</ul>
{% endif %}
<div class="scroll framed"><table class="wide{{ " tight" if metrics | length > 4 }}">
<thead><tr><th>explainer</th>
{% if controls %}<th class="value">beats controls</th>{% endif %}
{% for metric in metrics %}
<th class="value">{{ metric.name }} <small>{{ metric.headline if metric.headline != metric.name }}
{{ "lower is better ↓" if metric.direction == "lower" else "higher is better ↑" }}</small></th>
{% endfor %}
</tr></thead>
<tbody>
{% for explainer, cells, won, tried in rows %}
<tr><th>{{ explainer }}</th>
{% if controls %}<td class="value">
{%- if explainer in controls %}<small>a control</small>
{%- elif tried %}{{ won }} of {{ tried }}{% else %}&ndash;{% endif %}</td>{% endif %}
{% for cell in cells %}
<td class="value{{ " best" if cell and cell.is_best }}">
{% if cell %}
{% set mean, half = cell.row.mean | interval(cell.row.high - cell.row.mean) %}
<b>{{ mean }}</b>{% if half %} <small>± {{ half }}</small>{% endif %}
{% if cell.place %}<br><small>{{ cell.place }}</small>{% endif %}
{% for name, row in cell.lost %}
<br><small class="warn" title="{{ cell.why(row) }}">
{{- "worse" if row.verdict == "worse" else "not better" }} than {{ name }}</small>
{% endfor %}
{% if cell.wrong and cell.wrong.n %}
<br><small>{{ cell.wrong.mean | number }} where misclassified ({{ cell.wrong.n }})</small>
{% endif %}
{% else %}&ndash;{% endif %}
</td>
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
<p class="note">Mean over {{ n }} samples ± half of its 95 % confidence interval (Student's t;
Wilson's where scores are zeros and ones: of that, the upper half).
The best of each column is shaded. Below the mean is the rank, and letters: explainers that share a
letter cannot be told apart by Wilcoxon's signed rank test on the same samples, at 5 % after Holm's
correction over all pairs.
{% if controls %}The first column counts the metrics under which an explainer is better than
{{ controls | join(" and ") }} by the same test: {{ "they know" if controls | length > 1 else
"it knows" }} nothing of the model.
{% else %}Without a control there is no telling whether a score is good: entries
<code>random: {}</code> and <code>sobel: {}</code> under explainers are controls.
{% endif %}
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
    standing: Standing | None
    """None where samples have no scores of their own."""
    n_ranked: int
    is_best: bool

    @property
    def place(self) -> str:
        """Return rank and letters; nothing where there is nobody to compare with."""
        if self.standing is None or self.n_ranked < 2:
            return ""
        return f"rank {self.standing.rank} \N{MIDDLE DOT} {self.standing.letters}"

    @property
    def lost(self) -> list[tuple[str, comparisons.Comparison]]:
        """Return the controls that it does not beat."""
        against = {} if self.standing is None else self.standing.against
        return [(name, row) for name, row in against.items() if row.verdict != "better"]

    @staticmethod
    def why(row: comparisons.Comparison) -> str:
        """Return a comparison in words."""
        low, high = formats.number(row.low), formats.number(row.high)
        return (
            f"paired difference {formats.number(row.difference)} ({low} to {high}), "
            f"p {formats.number(row.p_holm, 2)}, Cliff's delta {formats.number(row.delta, 2)}"
        )


def render(run: Run) -> str | None:
    """Return the table; None if nothing has been evaluated."""
    compared = comparisons.of_run(run)
    if not compared:
        return None
    metrics = [each.metric for each in compared]
    columns = [_column(run, each) for each in compared]
    # scans are scored by their graphs, and have no maps
    known = dict.fromkeys((*run.maps, *(name for metric in metrics for name in metric.explainers)))
    explainers = [name for name in known if any(name in column for column in columns)]
    overall = [cell.row for column in columns for cell in column.values()]
    return page.fragment(
        TEMPLATE,
        metrics=metrics,
        rows=[_row(name, [column.get(name) for column in columns]) for name in explainers],
        controls=list(dict.fromkeys(name for each in compared for name in each.controls)),
        verdicts=[text for each in compared if (text := _verdict(each))],
        n=formats.count(max((row.n for row in overall), default=0)),
        undefined=sum(row.n_undefined for row in overall),
        space=_space,
        unscored=[text for metric in metrics if (text := _unscored(run, metric))],
    )


def _row(name: str, cells: Sequence[Cell | None]) -> tuple[str, Sequence[Cell | None], int, int]:
    """Return an explainer's cells, and under how many metrics it beats the controls."""
    tried = [cell for cell in cells if cell and cell.standing and cell.standing.against]
    return name, cells, sum(not cell.lost for cell in tried), len(tried)


def _verdict(compared: Compared) -> str:
    """Return what a metric that cannot beat a control is worth."""
    if not compared.unbeaten or len(compared.means) <= len(compared.controls):
        return ""
    names = " or ".join(compared.unbeaten)
    return (
        f"Under {compared.metric.name} no explainer beats {names}, which knows nothing of the "
        "model: a good score there does not speak for an explanation."
    )


def _unscored(run: Run, metric: Judged) -> str:
    built = metric.metric()
    if built is None:
        return ""  # what it scored is all that is known
    return scorable.in_words(metric.name, scorable.unscored(built, run.plan.maps, run.plan.form))


def _space(metric: Judged) -> str:
    if metric.space == "none":
        built = metric.metric()
        makes_again = built is not None and "explainer" in built.requires
        return "compares maps with maps made again" if makes_again else "reads maps alone"
    return f"measures the {metric.space} of the target"


def _column(run: Run, compared: Compared) -> dict[str, Cell]:
    metric = compared.metric
    found = {(row.explainer, row.group): row for row in aggregate.headlines(run, metric)}
    means = {name: row.mean for (name, group), row in found.items() if group == aggregate.ALL}
    best = comparisons.ranked(means, metric.direction)[:1]
    standings = {each.explainer: each for each in compared.standings}
    return {
        name: Cell(
            row=found[name, aggregate.ALL],
            wrong=found.get((name, aggregate.MISCLASSIFIED)),
            standing=standings.get(name),
            n_ranked=len(standings),
            is_best=name in best,
        )
        for name in means
    }
