"""What has changed since earlier runs: scores, maps of the same samples, and the worst of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from markupsafe import Markup

from pipeline import aggregate
from pipeline.compare import IncomparableError, compare
from pipeline.report import naming, page, pictures
from pipeline.report.sections import gallery

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.compare import Comparison, MapDrift, ScoreDrift, Worst
    from pipeline.report.pictures import HeatMap, Picture
    from pipeline.store import Run

title = "Drift"
order = 70

N_CLASSES = 8
"""Classes that are named of each explainer: those that changed most."""
N_SHOWN = 6
"""Samples that are shown of each explainer."""
BUDGET = 3_000_000
"""Pixels of all pictures together, as in the gallery."""

TEMPLATE = """
<div class="scroll framed" tabindex="0" role="region" aria-label="What was compared">
<table class="wide">
<caption>{{ drift.current.name }} beside {{ drift.previous.name }}</caption>
<thead><tr><th scope="col"></th><th scope="col" class="value">before</th>
<th scope="col" class="value">now</th></tr></thead>
<tbody>
<tr><th scope="row">run</th><td class="value mono">{{ drift.previous.digest[:12] }}</td>
<td class="value mono">{{ drift.current.digest[:12] }}</td></tr>
<tr><th scope="row">weights</th><td class="value mono">{{ drift.previous.weights[:12] }}</td>
<td class="value mono">{{ drift.current.weights[:12] }}</td></tr>
<tr><th scope="row">accuracy</th><td class="value">{{ drift.previous.accuracy | percent }}</td>
<td class="value">{{ drift.current.accuracy | percent }}</td></tr>
</tbody></table></div>
<p>{{ drift.n_samples | count }} samples are in both runs; {{ drift.n_predictions_changed | count }}
of them are predicted differently now.
{% for note in drift.notes %}{{ note }}. {% endfor %}</p>
{% if drift.changes %}<details><summary>What differs in the run file ({{ drift.changes | length }}
{{ "thing" if drift.changes | length == 1 else "things" }})</summary>
<ul>{% for line in drift.changes %}<li class="mono">{{ line }}</li>{% endfor %}</ul></details>
{% endif %}
{% if scores %}
<h3>Scores</h3>
<div class="scroll framed" tabindex="0" role="region" aria-label="Change of scores">
<table class="wide">
<thead><tr><th scope="col">metric</th><th scope="col">explainer</th><th scope="col">score</th>
<th scope="col" class="value">before</th>
<th scope="col" class="value">now</th><th scope="col" class="value">change</th>
<th scope="col" class="value">p (Holm)</th>
<th scope="col" class="value">effect</th><th scope="col" class="value">samples</th>
<th scope="col">verdict</th></tr></thead>
<tbody>
{% for row in scores %}
{% set mean, half = row.change | interval(row.high - row.change) %}
<tr><th scope="row">{{ row.metric | breakable }}</th><td>{{ row.explainer | breakable }}</td>
<td>{{ row.column | breakable }} {{ {"lower": "↓", "higher": "↑"}.get(row.direction, "") }}</td>
<td class="value">{{ row.before | number }}</td><td class="value">{{ row.after | number }}</td>
<td class="value"><b>{{ mean }}</b>{% if half %} <small>± {{ half }}</small>{% endif %}</td>
<td class="value">{{ row.p_holm | number(2) }}</td>
<td class="value">{{ row.delta | number(2) }}</td>
<td class="value">{{ row.n | count }}</td>
<td><span class="verdict {{ looks[row.verdict] }}">{{ row.verdict }}</span></td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Mean change over the samples that have the score in both runs, ± half of its 95 %
interval (Student's t, paired). p is of Wilcoxon's signed rank test, adjusted by Holm over
explainers; better or worse where it is below .05 and neither the mean nor the majority of samples
says the opposite. The effect is Cliff's delta. ↓ and ↑ say which end is better.</p>
{% endif %}
{% if maps %}
<h3>Maps</h3>
<div class="scroll framed" tabindex="0" role="region" aria-label="Change of maps">
<table class="wide">
<thead><tr><th scope="col">explainer</th><th scope="col" class="value">rank correlation</th>
<th scope="col" class="value">median</th>
<th scope="col" class="value">least</th><th scope="col" class="value">same prediction</th>
<th scope="col" class="value">nDCG</th>
<th scope="col" class="value">moved</th><th scope="col" class="value">identical</th>
<th scope="col" class="value">samples</th></tr>
</thead><tbody>
{% for row in maps %}
<tr><th scope="row">{{ row.explainer | breakable }}</th>
<td class="value"><b>{{ row.rank_correlation.mean | number }}</b></td>
<td class="value">{{ row.rank_correlation.median | number }}</td>
<td class="value">{{ row.rank_correlation.least | number }}</td>
<td class="value">{{ row.same_prediction.mean | number }}</td>
<td class="value">{{ row.ndcg.mean | number }}</td>
<td class="value">{{ row.moved.mean | percent }}</td>
<td class="value">{{ row.n_identical | count }}</td><td class="value">{{ row.n | count }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Each sample's map is compared with its map before: Spearman's rank correlation (1 is
the same order, 0 none), nDCG of the tenth of the features with the most relevance, and the share of
relevance that is elsewhere now. Means over samples.</p>
{% for row in maps if row.classes %}
<details><summary>{{ row.explainer }}: classes that changed most</summary>
<div class="scroll framed" tabindex="0" role="region" aria-label="Change by class">
<table class="wide">
<thead><tr><th scope="col">class</th><th scope="col" class="value">rank correlation</th>
<th scope="col" class="value">nDCG</th>
<th scope="col" class="value">moved</th><th scope="col" class="value">moved in the mean map</th>
<th scope="col" class="value">samples</th></tr></thead><tbody>
{% for each in row.classes[:n_classes] %}
<tr><th scope="row">{{ label(each.label) }}</th>
<td class="value">{{ each.rank_correlation | number }}</td>
<td class="value">{{ each.ndcg | number }}</td><td class="value">{{ each.moved | percent }}</td>
<td class="value">{{ each.profile_moved | percent }}</td>
<td class="value">{{ each.n | count }}</td></tr>
{% endfor %}
</tbody></table></div></details>
{% endfor %}
{% endif %}
{% for name, samples in shown if samples %}
<h3>{{ name }}: samples whose map changed most</h3>
<div class="gallery">
{% for sample in samples %}
<div class="sample {{ "wrong" if sample.is_wrong else "right" }}">
  <figure>
    <figcaption><b>{{ sample.sample_id }}</b></figcaption>
    {% if sample.picture %}
    <img src="{{ sample.picture.uri }}" alt="input {{ sample.sample_id }}"
      {%- if sample.picture.is_coarse %} class="coarse"{% endif %}>
    {% else %}<div class="absent">no picture</div>{% endif %}
    <figcaption class="below">{{ sample.said }}</figcaption>
  </figure>
  {% for when, heat in (("before", sample.before), ("now", sample.after)) %}
  <figure>
    <figcaption>{{ when }}</figcaption>
    {% if heat %}
    <img src="{{ heat.picture.uri }}" alt="{{ name }} of {{ sample.sample_id }} {{ when }}"
      {%- if heat.picture.is_coarse %} class="coarse"{% endif %}>
    {{ heat.bar }}
    {% else %}<div class="absent">no picture</div>{% endif %}
  </figure>
  {% endfor %}
  <figure><figcaption>rank correlation {{ sample.worst.rank_correlation | number }}<br>
  nDCG {{ sample.worst.ndcg | number }}<br>moved {{ sample.worst.moved | percent }}</figcaption>
  </figure>
</div>
{% endfor %}
</div>
{% endfor %}
"""
REFUSED = """
<p class="warn">The run cannot be compared with an earlier one.</p><pre>{{ reason }}</pre>
"""
_LOOKS = {"better": "passes", "worse": "fails", "changed": "unknown", "unknown": "unknown"}


@dataclass(frozen=True)
class Shown:
    """A sample with its maps of both runs."""

    sample_id: str
    worst: Worst
    said: str
    """What was predicted before and is now."""
    is_wrong: bool
    picture: Picture | None
    before: HeatMap | None
    after: HeatMap | None


def render_against(run: Run, previous: tuple[Run, ...]) -> str | None:
    """Return what has changed since each of the earlier runs; None if there are none."""
    if not previous:
        return None
    return Markup("").join(_against(run, each) for each in previous)


def _against(run: Run, previous: Run) -> Markup:
    try:
        drift = compare(previous, run)
    except IncomparableError as error:
        return page.fragment(REFUSED, reason=error.what)
    return content(drift, previous, run)


def content(drift: Comparison, previous: Run, run: Run) -> Markup:
    """Return a comparison as HTML.

    Parameters
    ----------
    drift
        What was found.
    previous, run
        The runs, for pictures.
    """
    label = naming.class_names(run)
    n_pictures = 3 * sum(min(len(each.worst), N_SHOWN) for each in drift.maps)
    side = max(16, min(gallery.SIDE, int((BUDGET / max(n_pictures, 1)) ** 0.5)))
    return page.fragment(
        TEMPLATE,
        drift=drift,
        scores=_headlines(drift, run),
        looks={name: _LOOKS.get(name, "") for name in ("same", "unclear", *_LOOKS)},
        maps=[each for each in drift.maps if each.n],
        n_classes=N_CLASSES,
        label=label,
        shown=[(each.explainer, _shown(each, previous, run, label, side)) for each in drift.maps],
    )


def _headlines(drift: Comparison, run: Run) -> list[ScoreDrift]:
    """Return the rows that stand for their metrics: of curves and parts there are many more."""
    headline = {metric.name: metric.headline for metric in aggregate.judged(run)}
    return [
        row
        for row in drift.scores
        if row.group == aggregate.ALL and row.column == headline.get(row.metric)
    ]


def _shown(
    drift: MapDrift, previous: Run, run: Run, label: Callable[[int], str], side: int
) -> list[Shown]:
    worst = drift.worst[:N_SHOWN]
    if not worst:
        return []
    rows = [each.row_after for each in worst]
    inputs = gallery.inputs_of(run, rows)
    before = gallery.maps_of(previous, drift.explainer, [each.row_before for each in worst])
    after = gallery.maps_of(run, drift.explainer, rows)
    # both in the same kind of colours, or they could not be compared by eye
    has_zero = gallery.has_zero_of(run, drift.explainer)
    heats = gallery.heat_maps([*before, *after], side, has_zero=has_zero)
    return [
        Shown(
            sample_id=each.sample_id,
            worst=each,
            said=_said(each, label),
            is_wrong=each.label >= 0 and each.label != each.prediction_after,
            picture=pictures.photograph(inputs[k], side) if k in inputs else None,
            before=heats[k],
            after=heats[len(worst) + k],
        )
        for k, each in enumerate(worst)
    ]


def _said(sample: Worst, label: Callable[[int], str]) -> str:
    now, before = label(sample.prediction_after), label(sample.prediction_before)
    said = f"predicted {now}" if now == before else f"predicted {before} before, {now} now"
    is_known = sample.label >= 0 and sample.label != sample.prediction_after
    return f"{said}, is {label(sample.label)}" if is_known else said
