"""The verdict: explainers by metrics, who is best, who cannot be told apart, who beats controls."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import aggregate, comparisons, scorable
from pipeline.report import checks, formats, page

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline.aggregate import Aggregate, Judged
    from pipeline.comparisons import Compared, Standing
    from pipeline.store import Run

title = "Scores"
order = 20

MOST = 6
"""Columns of a table: so many can be read on a screen, and printed."""

TEMPLATE = """
{% if verdicts %}<ul class="said">{% for text in verdicts %}<li>{{ text }}</li>{% endfor %}</ul>
{% endif %}
{% for family, is_first, metrics, rows in tables %}
{% if family and is_first %}<h3>{{ family | capitalize }}</h3>{% endif %}
<div class="scroll framed" tabindex="0" role="region"
 aria-label="Scores{{ ": " ~ family if family }}">
<table class="wide{{ " tight" if metrics | length > 4 }}">
<thead><tr><th scope="col">explainer</th>
{% if controls %}<th scope="col" class="value">beats controls</th>{% endif %}
{% for metric in metrics %}
<th scope="col" class="value">{{ metric.name | breakable }}
<small>{{ metric.headline if metric.headline != metric.name }}
{{ "lower is better ↓" if metric.direction == "lower" else "higher is better ↑" }}</small></th>
{% endfor %}
</tr></thead>
<tbody>
{% for explainer, cells, won, tried in rows %}
<tr><th scope="row">{{ explainer | breakable }}</th>
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
{% endfor %}
<p class="note">Mean over {{ n }} samples ± half of its 95 % confidence interval (Student's t;
Wilson's for shares of hits: of that, the upper half).
The best of each column is shaded. Below the mean is the rank, and letters: explainers that share a
letter cannot be told apart by Wilcoxon's signed rank test on the same samples, at 5 % after Holm's
correction over all pairs.
{% if controls %}The first column counts the metrics of the table under which an explainer is better
than {{ controls | join(" and ") }} by the same test: {{ "they know" if controls | length > 1 else
"it knows" }} nothing of the model.
{% else %}Without a control there is no telling whether a score is good: entries
<code>random: {}</code> and <code>sobel: {}</code> under explainers are controls.
{% endif %}
{% for text in spaces %}{{ text }}. {% endfor %}
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
    columns = {each.metric.name: _column(run, each) for each in compared}
    # scans are scored by their graphs, and have no maps
    known = dict.fromkeys((*run.maps, *(name for metric in metrics for name in metric.explainers)))
    explainers = [name for name in known if any(name in each for each in columns.values())]
    overall = [cell.row for each in columns.values() for cell in each.values()]
    return page.fragment(
        TEMPLATE,
        tables=[
            (family, is_first, some, list(_rows(explainers, [columns[each.name] for each in some])))
            for family, is_first, some in _tables(metrics)
        ],
        controls=list(dict.fromkeys(name for each in compared for name in each.controls)),
        verdicts=_verdicts(compared),
        n=formats.count(max((row.n for row in overall), default=0)),
        undefined=sum(row.n_undefined for row in overall),
        spaces=_spaces(metrics),
        unscored=[text for metric in metrics if (text := _unscored(run, metric))],
    )


def _tables(metrics: Sequence[Judged]) -> Iterator[tuple[str, bool, list[Judged]]]:
    """Yield family, if there are several, whether it is its first table, and its metrics."""
    families: dict[str, list[Judged]] = {}
    for metric in metrics:
        families.setdefault(checks.family(metric) or "other", []).append(metric)
    for family, own in families.items():
        n_tables = math.ceil(len(own) / MOST)
        per_table = math.ceil(len(own) / n_tables)
        for start in range(0, len(own), per_table):
            named = family if len(families) > 1 else ""
            yield named, start == 0, own[start : start + per_table]


def _rows(
    explainers: Sequence[str], columns: Sequence[dict[str, Cell]]
) -> Iterator[tuple[str, Sequence[Cell | None], int, int]]:
    """Yield the rows of a table: of explainers that any of its metrics has scored."""
    for name in explainers:
        if any(name in column for column in columns):
            yield _row(name, [column.get(name) for column in columns])


def _row(name: str, cells: Sequence[Cell | None]) -> tuple[str, Sequence[Cell | None], int, int]:
    """Return an explainer's cells, and under how many metrics it beats the controls."""
    tried = [cell for cell in cells if cell and cell.standing and cell.standing.against]
    return name, cells, sum(not cell.lost for cell in tried), len(tried)


def _verdicts(compared: Sequence[Compared]) -> list[str]:
    """Return what metrics that cannot beat a control are worth, those of the same together."""
    alike: dict[str, list[str]] = {}
    for each in compared:
        if each.unbeaten and len(each.means) > len(each.controls):
            alike.setdefault(" or ".join(each.unbeaten), []).append(each.metric.name)
    return [
        f"Under {', '.join(metrics)} no explainer beats {names}, which knows nothing of the model: "
        "a good score there does not speak for an explanation."
        for names, metrics in alike.items()
    ]


def _unscored(run: Run, metric: Judged) -> str:
    built = metric.metric()
    if built is None:
        return ""  # what it scored is all that is known
    return scorable.in_words(metric.name, scorable.unscored(built, run.plan.maps, run.plan.form))


def _spaces(metrics: Sequence[Judged]) -> list[str]:
    """Return what metrics measure, a sentence for all that measure the same."""
    alike: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        alike.setdefault(_space(metric), []).append(metric.name)
    return [
        f"{', '.join(names)} {one if len(names) == 1 else several}"
        for (one, several), names in alike.items()
    ]


def _space(metric: Judged) -> tuple[str, str]:
    """Return what a metric measures, as said of one and of several."""
    if metric.space == "none":
        built = metric.metric()
        makes_again = built is not None and "explainer" in built.requires
        verbs = ("compares", "compare") if makes_again else ("reads", "read")
        text = "maps with maps made again" if makes_again else "maps alone"
    else:
        verbs, text = ("measures", "measure"), f"the {metric.space} of the target"
    return f"{verbs[0]} {text}", f"{verbs[1]} {text}"


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
            is_best=standings[name].rank == 1 if name in standings else name in best,
        )
        for name in means
    }
