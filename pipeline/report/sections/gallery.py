"""Samples with their heat maps: some of every class, and some that were misclassified."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import explainers
from explainers.causal.maps import MADE_IN
from explainers.concepts.conditions import CONDITION
from pipeline import aggregate
from pipeline.data import read_batch
from pipeline.inputs import ALONE, is_one_picture, parts_of
from pipeline.plan import split_name
from pipeline.report import naming, page, pictures, words

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from numpy.typing import NDArray
    from xarray import DataArray

    from pipeline.report.pictures import HeatMap, Picture
    from pipeline.store import Run

title = "Gallery"
order = 50

MISCLASSIFIED_SHARE = 0.25
MANY = 12
"""Explainers from which on pictures are smaller, so that a sample is seen as a whole."""
SIDE = 176
"""Longest side of a picture in pixels."""
MOST_CONDITIONS = 4
"""Conditions of an entry whose maps are shown: the first."""
BUDGET = 4_000_000
"""Pixels of all pictures together: about a byte each in the page, which stays below 10 MB."""

TEMPLATE = """
<p class="note">Relevance, summed over channels. Red speaks for the explained class, blue against
it; maps without negative values run from black to bright
{%- if has_shares %}, those whose zero means nothing from their least value{% endif %}. Every map
has its own scale, which the bar below it gives; colours saturate at the {{ saturation }}th
percentile of its magnitudes.
{% for note in notes %}{{ note }}.
{% endfor %}
{% if first_target %}Of several targets the maps are of the first: {{ first_target }}.{% endif %}
{% if not has_inputs %}The data cannot be read here, so inputs are missing.{% endif %}</p>
<div class="gallery{{ " many" if is_many }}">
{% for sample in samples %}
<div class="sample {{ "wrong" if sample.is_wrong else "right" }}">
  <figure>
    <figcaption><b>{{ sample.sample_id }}</b></figcaption>
    {% if sample.picture %}
    <img src="{{ sample.picture.uri }}"
      alt="input {{ sample.sample_id }}, predicted {{ sample.prediction }}"
      {%- if sample.picture.is_coarse %} class="coarse"{% endif %}>
    {% else %}<div class="absent">no picture</div>{% endif %}
    <figcaption class="below">
    {% if sample.is_wrong %}<span class="warn">predicted <b>{{ sample.prediction }}</b>,
      is <b>{{ sample.label }}</b></span>
    {% else %}predicted <b>{{ sample.prediction }}</b>{% endif %}</figcaption>
  </figure>
  {% for name, heat in sample.maps %}
  <figure>
    <figcaption>{{ name | breakable }}
    {%- if layers[name] %} <small>of {{ layers[name] }}</small>{% endif %}</figcaption>
    {% if heat %}
    <img src="{{ heat.picture.uri }}"
      alt="{{ name }} of {{ sample.sample_id }}, {{ heat.in_words }}"
      {%- if heat.picture.is_coarse %} class="coarse"{% endif %}>
    {{ heat.bar }}
    {% else %}<div class="absent">not finite</div>{% endif %}
  </figure>
  {% endfor %}
</div>
{% endfor %}
</div>
"""


@dataclass(frozen=True)
class Shown:
    """One row of the gallery."""

    sample_id: str
    label: str
    prediction: str
    is_wrong: bool
    picture: Picture | None
    maps: list[tuple[str, HeatMap | None]]


def render(run: Run) -> str | None:
    """Return the gallery; None if it should be empty or there are no maps."""
    facts = aggregate.facts(run)
    places = choose(facts, run.config.report.samples)
    if not places or not run.maps:
        return None
    chosen = {key: [values[place] for place in places] for key, values in facts.items()}
    rows = [int(index) for index in chosen["index"]]
    # what has words is shown with them, in a section of its own
    relevance = _relevance(run, rows, has_words=bool(words.of_samples(run, rows)))
    if not relevance:
        return None
    side = _side(len(rows) * (len(relevance) + 1))
    inputs = inputs_of(run, rows)
    has_zero = {name: has_zero_of(run, name) for name in relevance}
    maps = {key: heat_maps(each, side, has_zero=has_zero[key]) for key, each in relevance.items()}
    label = naming.class_names(run)
    samples = [
        Shown(
            sample_id=chosen["sample_id"][k],
            label=label(chosen["label"][k]),
            prediction=label(chosen["prediction"][k]),
            is_wrong=is_wrong(chosen, k),
            picture=pictures.photograph(inputs[k], side) if k in inputs else None,
            maps=[(name, heat[k]) for name, heat in maps.items()],
        )
        for k in range(len(rows))
    ]
    return page.fragment(
        TEMPLATE,
        samples=samples,
        layers={name: _layer(run, name) for name in maps},
        has_inputs=bool(inputs) or not is_one_picture(run.plan.form),
        first_target=naming.first_of_several(run.plan),
        notes=[note for note in run.plan.notes if MADE_IN in note],
        has_shares=not all(has_zero.values()),
        is_many=len(maps) > MANY,
        saturation=f"{pictures.SATURATION:g}",
    )


def _layer(run: Run, shown: str) -> str:
    """Return the layer that maps are of, by what they are called; empty where of the inputs."""
    return next((spec.layer for name, spec in run.plan.maps.items() if name == shown), "")


def has_zero_of(run: Run, shown: str) -> bool:
    """Whether zero means none in maps, by what they are called; it does if nothing is known."""
    entry = split_name(shown.partition(" [")[0])[0]
    name = str(run.config.explainers.get(entry, {}).get("method", entry))
    method = explainers.methods.get(name) if name in explainers.methods else None
    return bool(getattr(method, "has_zero", True))


def choose(facts: Mapping[str, list[Any]], n: int) -> list[int]:
    """Return which rows to show: classes in turn, a quarter of them misclassified if there are.

    More than a quarter only where there are not enough others. Where all are shown, they are in
    the order of the data, in which neighbours may belong together.
    """
    good = [k for k, status in enumerate(facts["status"]) if not status]
    if len(good) <= n:
        return good
    wrong = [k for k in good if is_wrong(facts, k)]
    right = [k for k in good if not is_wrong(facts, k)]
    n_wrong = min(len(wrong), max(math.ceil(MISCLASSIFIED_SHARE * n), n - len(right)))
    misses = _in_turn(facts, wrong, n_wrong)
    return [*_in_turn(facts, right, n - n_wrong), *misses]


def _in_turn(facts: Mapping[str, list[Any]], rows: list[int], n: int) -> list[int]:
    """Return `n` rows, one of each class, then a second of each; ordered by class."""
    by_class: dict[int, list[int]] = {}
    for row in rows:
        by_class.setdefault(_class(facts, row), []).append(row)
    turns = [
        (turn, known, row)
        for known, members in by_class.items()
        for turn, row in enumerate(members[:n])
    ]
    return [row for _, row in sorted((known, row) for _, known, row in sorted(turns)[:n])]


def _class(facts: Mapping[str, list[Any]], row: int) -> int:
    label = int(facts["label"][row])
    return label if label >= 0 else int(facts["prediction"][row])


def is_wrong(facts: Mapping[str, list[Any]], row: int) -> bool:
    """Whether the prediction of a sample is not its label."""
    label = int(facts["label"][row])
    return label >= 0 and label != int(facts["prediction"][row])


def _side(n_pictures: int) -> int:
    return max(8, min(SIDE, int((BUDGET / n_pictures) ** 0.5)))


def inputs_of(run: Run, rows: list[int]) -> dict[int, NDArray[np.float32]]:
    """Return what can be shown of the chosen samples, by position."""
    source = naming.source_of(run)
    if source is None:
        return {}
    records = [run.manifest.slice(row, row + 1)[0] for row in rows]
    if not is_one_picture(run.plan.form):
        return {}
    batch, good, _ = read_batch(source, records, run.plan.form)
    shown = source.display(parts_of(batch)[ALONE]).float().numpy() if good else ()
    return dict(zip(good, shown, strict=True))


def _relevance(
    run: Run, rows: list[int], *, has_words: bool
) -> dict[str, Sequence[NDArray[np.float32]]]:
    """Return maps of the chosen rows; of several targets, the first."""
    found: dict[str, Sequence[NDArray[np.float32]]] = {}
    for name, stored in run.maps.items():
        if not (has_words and _is_strip(stored)):
            found |= _of_rows(name, stored, rows)
    return found


def maps_of(run: Run, name: str, rows: list[int]) -> Sequence[NDArray[np.float32]]:
    """Return an explainer's maps of these samples; the first of several targets or conditions."""
    return next(iter(_of_rows(name, run.maps[name], rows).values()))


def _is_strip(stored: DataArray) -> bool:
    return stored.dims[-1:] == (words.TOKEN,) and set(stored.dims) <= {
        "sample",
        "target",
        words.TOKEN,
    }


def _of_rows(
    name: str, stored: DataArray, rows: list[int]
) -> dict[str, Sequence[NDArray[np.float32]]]:
    picked = stored.isel(sample=rows)
    picked = picked.isel(target=0) if "target" in picked.dims else picked
    values = np.asarray(picked.values, np.float32)
    if _is_strip(picked) and "length" in picked.coords:
        # behind the last token of a sample is nothing
        sizes = picked.coords["length"].values
        return {name: [row[:size] for row, size in zip(values, sizes, strict=True)]}
    return _by_condition(name, values, picked.dims)


def _by_condition(
    name: str, relevance: NDArray[np.float32], dims: Sequence[Hashable]
) -> dict[str, Sequence[NDArray[np.float32]]]:
    """Return the maps of an entry by what they are called: one for each of several conditions."""
    if CONDITION not in dims:
        return {name: list(relevance)}
    conditions = np.moveaxis(relevance, list(dims).index(CONDITION), 0)[:MOST_CONDITIONS]
    return {f"{name} [{number}]": list(values) for number, values in enumerate(conditions)}


def heat_maps(
    relevance: Sequence[NDArray[np.float32]], side: int, *, has_zero: bool
) -> list[HeatMap | None]:
    """Return a picture of each of an explainer's maps, in the same kind of colours."""
    # nothing is compared as true with what is not a number
    is_known = any(np.isfinite(values).any() for values in relevance)
    is_signed = not is_known or any((values < 0).any() for values in relevance)
    return [
        pictures.heat_map(values, side, is_signed=is_signed, has_zero=has_zero)
        for values in relevance
    ]
