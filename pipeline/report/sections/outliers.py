"""The samples that score worst under each metric: input, map, curve, score and name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pipeline import aggregate
from pipeline.report import checks, formats, naming, page, pictures, words
from pipeline.report.sections import gallery

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.report.pictures import HeatMap, Picture
    from pipeline.store import Run

title = "Outliers"
order = 52

LIMIT = 20
"""Samples of a metric, shared by its explainers; each shows one at least."""
MOST = 600
"""Samples of all metrics together."""
SIDE = 96
"""Longest side of a picture in pixels."""
BUDGET = 2_500_000
"""Pixels of all pictures together: about a byte each in the page."""
TOGETHER = 64
"""Samples that are read at a time: photographs take half a megabyte each."""
N_WORDS = 16
"""Words of a text that are shown."""

TEMPLATE = """
<p class="note">A bad score may be the explanation's fault, or that of an odd sample: look at both.
Scores that nobody could give are not among them. The worst come first for each explainer;
{% if has_controls %}controls are left out; {% endif %}a line is the sample's own curve.
{%- if first_target %} Of several targets, the maps are of the first: {{ first_target }}.
{%- endif %}</p>
{% for metric in metrics %}
<details{{ " open" if loop.first }}><summary>{{ metric.name | breakable }}
<span class="about">the {{ "highest" if metric.direction == "lower" else "lowest" }}
{% if metric.headline != metric.name %}{{ metric.headline | replace("_", " ") }} {% endif %}
of each explainer</span></summary>
<div class="strip outliers">
{% for each in metric.outliers %}
<div class="shown {{ "wrong" if each.is_wrong else "right" }}">
  <p class="who top"><b>{{ each.explainer | breakable }}</b>
  <span class="score">{{ each.score | number }}</span></p>
  <div class="pair">
  {% if each.picture %}
  <img src="{{ each.picture.uri }}" alt="input {{ each.sample_id }}"
    {%- if each.picture.is_coarse %} class="coarse"{% endif %}>
  {% elif each.text %}<p class="text">{{ each.text }}</p>
  {% else %}<div class="absent">no picture</div>{% endif %}
  {% if each.heat %}
  <img src="{{ each.heat.picture.uri }}" alt="{{ each.explainer }} of {{ each.sample_id }},
    {{ each.heat.in_words }}"{% if each.heat.picture.is_coarse %} class="coarse"{% endif %}>
  {% elif not each.text %}<div class="absent">no picture</div>{% endif %}
  </div>
  {{ each.curve }}
  <p class="who">{{ each.sample_id }}<br>
  {% if each.is_wrong %}<span class="warn">predicted {{ each.prediction }}, is
  {{ each.label }}</span>{% else %}predicted {{ each.prediction }}{% endif %}</p>
</div>
{% endfor %}
</div></details>
{% endfor %}
"""


@dataclass(frozen=True)
class Place:
    """Where an outlier is."""

    metric: Judged
    explainer: str
    row: int
    """Of the run's samples."""
    score: float
    curve: NDArray[np.float64] | None
    """Of this sample, where the metric has one."""


@dataclass(frozen=True)
class Outlier:
    """A sample as it is shown."""

    explainer: str
    sample_id: str
    score: float
    label: str
    prediction: str
    is_wrong: bool
    picture: Picture | None
    text: str
    """Its words, where it is no picture."""
    heat: HeatMap | None
    curve: Markup


@dataclass(frozen=True)
class Card:
    """The worst samples of a metric."""

    name: str
    headline: str
    direction: str
    outliers: list[Outlier]


def render(run: Run) -> str | None:
    """Return the section; None if no map was scored."""
    metrics = aggregate.judged(run)
    each = max(1, min(LIMIT, MOST // max(1, len(metrics))))
    explained = set(aggregate.facts(run)["index"])
    places = [
        place
        for metric in metrics
        for place in worst(run, metric, each)
        if place.row in explained  # a shard may have been taken back since it was scored
    ]
    if not places:
        return None
    shown = dict(zip(map(_key, places), _shown(run, places), strict=True))
    cards = []
    for metric in metrics:
        own = [shown[_key(place)] for place in places if place.metric is metric]
        if own:
            cards.append(Card(metric.name, metric.headline, metric.direction, own))
    return page.fragment(
        TEMPLATE,
        metrics=cards,
        has_controls=bool(checks.controls(run, list(run.maps))),
        first_target=naming.first_of_several(run.plan),
    )


def worst(run: Run, metric: Judged, n: int) -> list[Place]:
    """Return the samples with the worst headlines, explainer by explainer, `n` in all or so."""
    known = set(run.maps)
    controls = checks.controls(run, metric.explainers)
    names = [name for name in metric.explainers if name in known and name not in controls]
    found = []
    for name in names:
        columns = run.scores(metric.name, name)
        if metric.headline not in columns:
            continue
        scores = np.asarray(columns[metric.headline], np.float64)
        curve = _curve(columns)
        sign = -1 if metric.direction == "lower" else 1
        order = np.argsort(np.where(np.isfinite(scores), sign * scores, np.inf), kind="stable")
        for row in order[: max(1, n // len(names))].tolist():
            if np.isfinite(scores[row]):
                own = None if curve is None else curve[row]
                found.append(Place(metric, name, row, float(scores[row]), own))
    return found


def _key(place: Place) -> tuple[str, str, int]:
    return place.metric.name, place.explainer, place.row


def _curve(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64] | None:
    """Return the first of the curves that are stored of a metric, ``(samples, steps)``."""
    stored = (each for each in columns.values() if np.ndim(each) == 2 and np.shape(each)[1] > 1)
    found = next(stored, None)
    return None if found is None else np.asarray(found, np.float64)


def _shown(run: Run, places: Sequence[Place]) -> list[Outlier]:
    side = max(8, min(SIDE, int((BUDGET / (2 * len(places))) ** 0.5)))
    rows = sorted({place.row for place in places})
    inputs = dict(_photographs(run, rows, side))
    texts = words.of_samples(run, rows) if not inputs else {}
    heats = _heats(run, places, side)
    facts = aggregate.facts(run)
    at = {int(index): place for place, index in enumerate(facts["index"])}
    label = naming.class_names(run)
    return [
        _outlier(
            place,
            facts,
            at[place.row],
            label,
            picture=inputs.get(place.row),
            text=" ".join(texts.get(place.row, ())[:N_WORDS]),
            heat=heats.get((place.explainer, place.row)),
        )
        for place in places
    ]


def _outlier(
    place: Place,
    facts: Mapping[str, list[Any]],
    position: int,
    label: Callable[[int], str],
    *,
    picture: Picture | None,
    text: str,
    heat: HeatMap | None,
) -> Outlier:
    return Outlier(
        explainer=place.explainer,
        sample_id=facts["sample_id"][position],
        score=place.score,
        label=label(int(facts["label"][position])),
        prediction=label(int(facts["prediction"][position])),
        is_wrong=gallery.is_wrong(facts, position),
        picture=picture,
        text=text,
        heat=heat,
        curve=_line(place.curve),
    )


def _photographs(run: Run, rows: Sequence[int], side: int) -> Iterator[tuple[int, Picture]]:
    for start in range(0, len(rows), TOGETHER):
        some = list(rows[start : start + TOGETHER])
        for position, values in gallery.inputs_of(run, some).items():
            picture = pictures.photograph(values, side)
            if picture is not None:
                yield some[position], picture


def _heats(run: Run, places: Sequence[Place], side: int) -> dict[tuple[str, int], HeatMap]:
    """Return the pictures of maps by explainer and row; each is read once, some at a time."""
    found = {}
    for name in dict.fromkeys(place.explainer for place in places):
        rows = sorted({place.row for place in places if place.explainer == name})
        has_zero = gallery.has_zero_of(run, name)
        for start in range(0, len(rows), TOGETHER):
            some = rows[start : start + TOGETHER]
            maps = gallery.maps_of(run, name, some)
            heats = gallery.heat_maps(maps, side, has_zero=has_zero)
            for row, heat in zip(some, heats, strict=True):
                if heat is not None:
                    found[name, row] = heat
    return found


def _line(values: NDArray[np.float64] | None) -> Markup:
    """Return a curve without axes, from its least to its greatest value."""
    if values is None or not np.isfinite(values).all():
        return Markup("")
    low, high = float(values.min()), float(values.max())
    y = 23 - 22 * (values - low) / ((high - low) or 1.0)
    points = " ".join(
        f"{x:.1f},{up:.1f}" for x, up in zip(np.linspace(0, 100, len(y)), y, strict=True)
    )
    said = f"curve from {formats.number(float(values[0]))} to {formats.number(float(values[-1]))}"
    return Markup(
        '<svg class="spark" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" '
        'aria-label="{}"><polyline points="{}"/></svg>'
    ).format(said, points)
