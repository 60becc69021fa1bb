"""Texts with a colour behind each word: what every explainer says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline import aggregate
from pipeline.report import naming, page, pictures, words
from pipeline.report.formats import number
from pipeline.report.sections.gallery import choose, is_wrong

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipeline.report.pictures import Colour
    from pipeline.store import Run

title = "Texts"
order = 51

TEMPLATE = """
<p class="note">The colour of a word is its relevance: red speaks for
{{ first_target or "the explained class" }}, blue against it. Point at a word for the number. Every
line has its own scale: colours are fullest at the number behind its name.
{% if has_unknown %}Words between &lt; and &gt; are not known to the network, which takes them all
for the same one.{% endif %}</p>
<div class="hierarchies">
{% for text in texts %}
<article class="{{ "wrong" if text.is_wrong else "right" }}">
<p class="who"><b>{{ text.sample_id }}</b>
{% if text.is_wrong %}<span class="warn">predicted <b>{{ text.prediction }}</b>,
is <b>{{ text.label }}</b></span>{% else %}predicted <b>{{ text.prediction }}</b>{% endif %}</p>
{% for line in text.lines %}
<div class="found">
<p class="by">{{ line.name | breakable }} &plusmn; {{ line.limit | number(2) }}</p>
<p class="chips">{% for word in line.words %}<span title="{{ word.title }}" style="background:
{{- word.colour.ground }};color:{{ word.colour.ink }}">{{ word.written }}</span>
{% endfor %}</p></div>
{% endfor %}
</article>
{% endfor %}
</div>
"""


@dataclass(frozen=True)
class Word:
    """A word as it was written, and its colour."""

    written: str
    title: str
    colour: Colour


@dataclass(frozen=True)
class Line:
    """What one explainer says of a text."""

    name: str
    limit: float
    """Relevance at which colours are fullest."""
    words: tuple[Word, ...]


@dataclass(frozen=True)
class Text:
    """One sample."""

    sample_id: str
    label: str
    prediction: str
    is_wrong: bool
    lines: tuple[Line, ...]


def render(run: Run) -> str | None:
    """Return the texts; None if samples have no words, or no explainer a number for each."""
    facts = aggregate.facts(run)
    places = choose(facts, run.config.report.samples)
    chosen = {key: [values[place] for place in places] for key, values in facts.items()}
    rows = [int(index) for index in chosen["index"]]
    written = words.of_samples(run, rows) if rows else {}
    relevance = _relevance(run, rows) if written else {}
    if not relevance:
        return None
    label = naming.class_names(run)
    texts = [
        Text(
            sample_id=chosen["sample_id"][place],
            label=label(chosen["label"][place]),
            prediction=label(chosen["prediction"][place]),
            is_wrong=is_wrong(chosen, place),
            lines=tuple(_line(name, each[place], written[row]) for name, each in relevance.items()),
        )
        for place, row in enumerate(rows)
        if row in written
    ]
    return page.fragment(
        TEMPLATE,
        texts=texts,
        first_target=naming.first_of_several(run.plan),
        has_unknown=any(_is_unknown(each) for text in written.values() for each in text),
    )


def _relevance(run: Run, rows: list[int]) -> dict[str, NDArray[np.float32]]:
    """Return maps ``(row, token)`` of the chosen samples; of several targets, the first."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, stored in run.maps.items():
        picked = stored.isel(sample=rows)
        picked = picked.isel(target=0) if "target" in picked.dims else picked
        if picked.dims == ("sample", words.TOKEN):
            found[name] = np.asarray(picked.values, np.float32)
    return found


def _is_unknown(word: str) -> bool:
    """Whether a word is written as sources write one that a network does not know."""
    return len(word) > 2 and word.startswith("<") and word.endswith(">")


def _line(name: str, relevance: NDArray[np.float32], written: tuple[str, ...]) -> Line:
    """Return a line; maps are longer than a text where others are."""
    values = relevance[: len(written)].astype(float).tolist()
    limit = max((abs(value) for value in values if np.isfinite(value)), default=0.0)
    return Line(
        name,
        limit,
        tuple(
            Word(word, number(value, 2), pictures.colour(value, limit))
            for word, value in zip(written, values, strict=False)
        ),
    )
