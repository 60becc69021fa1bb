"""Hierarchies of samples: nested areas of a picture, or words that were joined, by level."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate, paths
from pipeline.errors import XpipeError
from pipeline.inputs import parts_of
from pipeline.report import naming, outlines, page, pictures, sentences, trees, words
from pipeline.report.formats import number
from pipeline.report.sections.gallery import choose, inputs_of, is_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from markupsafe import Markup

    from pipeline.data.source import Record, Source
    from pipeline.report.outlines import Grid
    from pipeline.report.pictures import Colour, Picture
    from pipeline.report.sentences import Line
    from pipeline.report.trees import Hierarchies, Node, Tree
    from pipeline.store import Run

title = "Hierarchies"
order = 52

MOST_PANELS = 6
"""Levels of a picture that are shown: those of growth first, and the root."""
MOST_CHIPS = 4
"""Areas of a level whose scores are printed, the largest first; all have theirs under the mouse."""
MOST_CLASSES = 10
"""Classes whose scores an area says under the mouse: the greatest, besides those at stake."""
MOST_WORDS = 60
"""Words of a text that are shown: the first."""
SIDE = 224
"""Longest side of a picture in pixels."""

TEMPLATE = """
<p>{{ "Cells" if has_pictures else "Words" }} that score highest by themselves come first; they grow
by the neighbours that add most, and {{ what }} are joined until one is left. The colour of one of
the {{ what }} is the score of all that it holds: red
speaks for {{ first_target or "the explained class" }}, blue against it.
{% if has_pictures %}
Beside the sample are the outlines of all levels, then what is whole at each of them, with the
scores of the {{ most_chips }} largest areas.
{% endif %}
{% if has_words %}
A line is a level, the root on top; below are words by themselves. The score of a group of words
stands below the first of them. Grey words are in no group at that level; those that are grey in the
root were never selected.
{% endif %}
Point at one of the {{ what }} for its scores.
{% if differences %}
What is shown of {{ differences | join(", ") }} is the score of the explained class less that of the
other.
{% endif %}
</p>
<div class="hierarchies">
{% for sample in samples %}
<article class="{{ "wrong" if sample.is_wrong else "right" }}">
<p class="who"><b>{{ sample.sample_id }}</b>
{% if sample.is_wrong %}<span class="warn">predicted <b>{{ sample.prediction }}</b>,
is <b>{{ sample.label }}</b></span>{% else %}predicted <b>{{ sample.prediction }}</b>{% endif %}</p>
<div{% if sample.drawing %} class="beside"{% endif %}>
{% if sample.drawing %}<figure><p class="by">sample</p><figcaption>&nbsp;</figcaption>
{{- sample.drawing }}</figure>{% endif %}
<div>
{% for found in sample.found %}
<div class="found">
<p class="by">{{ found.name | breakable }}</p>
{% if found.panels %}
<div class="levels">
{% for panel in found.panels %}
<figure><figcaption>{{ panel.caption }}</figcaption>{{ panel.drawing }}
{% if panel.chips %}<p class="chips">
{% for chip in panel.chips %}<span style="background:{{ chip.colour.ground }};color:
{{- chip.colour.ink }}">{{ chip.value | number(2) }}
{%- if chip.other is not none %} / {{ chip.other | number(2) }}{% endif %}</span>
{% endfor %}
{%- if panel.n_more %}<small>and {{ panel.n_more }} more</small>{% endif %}</p>{% endif %}
</figure>
{% endfor %}
</div>
{% elif found.lines %}
<div class="scroll" tabindex="0" role="region" aria-label="Hierarchy of words">
<table class="words"><tbody>
{% for line in found.lines %}
<tr><th scope="row">{{ line.name }}</th>
{% for cell in line.cells %}
{% if cell.colour %}<td colspan="{{ cell.span }}" title="{{ cell.title }}" style="background:
{{- cell.colour.ground }};color:{{ cell.colour.ink }}">{{ cell.words }}
{% if cell.value is not none %}<small>{{ cell.value | number(2) }}</small>{% endif %}</td>
{% else %}<td class="blank">{{ cell.words }}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if found.n_left %}<p class="note">The first {{ found.n_words }} words; {{ found.n_left }} more
are not shown.</p>{% endif %}
{% else %}<p class="note">No hierarchy was found.</p>{% endif %}
{% if found.bar %}<div class="scale">{{ found.bar }}</div>{% endif %}
</div>
{% endfor %}
</div></div>
</article>
{% endfor %}
</div>
<p class="note">Every hierarchy has its own scale, which the bar below it gives.
{% if has_wrong and has_pictures %}Of misclassified samples a second number is the score of the true
class.{% endif %} Grey is what has no score of the explained class. The run's
folder <code>{{ folder }}</code> has every node with its cells and scores.</p>
"""


@dataclass(frozen=True)
class Chip:
    """The score of an area."""

    value: float
    other: float | None
    """Of the true class, where another was predicted."""
    colour: Colour


@dataclass(frozen=True)
class Panel:
    """A picture of one level."""

    caption: str
    drawing: Markup
    chips: tuple[Chip, ...] = ()
    n_more: int = 0


@dataclass(frozen=True)
class Found:
    """What one explainer found of one sample."""

    name: str
    bar: Markup | None
    panels: tuple[Panel, ...] = ()
    lines: tuple[Line, ...] = ()
    n_words: int = 0
    n_left: int = 0
    """Words that are not shown."""


@dataclass(frozen=True)
class Shown:
    """One sample."""

    sample_id: str
    label: str
    prediction: str
    is_wrong: bool
    drawing: Markup | None
    """Of a picture."""
    found: tuple[Found, ...]


@dataclass(frozen=True)
class Sample:
    """What drawings of one sample need to know."""

    row: int
    label: int
    is_wrong: bool
    picture: Picture | None
    size: tuple[int, int]
    """Height and width of the input."""
    words: tuple[str, ...]
    class_name: Callable[[int], str]

    @property
    def anchor(self) -> str | None:
        """Name of the picture on the page."""
        return None if self.picture is None else f"sample{self.row}"

    @property
    def drawing(self) -> Markup | None:
        """The picture."""
        if self.picture is None:
            return None
        return outlines.ground(self.picture, *self.size, f"sample{self.row}")


def render(run: Run) -> str | None:
    """Return the hierarchies; None if no explainer stored any."""
    facts = aggregate.facts(run)
    # in the order of the data, where twins are neighbours
    places = sorted(choose(facts, run.config.report.samples))
    chosen = {key: [values[place] for place in places] for key, values in facts.items()}
    rows = [int(index) for index in chosen["index"]]
    found = trees.read(run, rows) if rows and run.maps else []
    if not found:
        return None
    has_words = any(len(each.grid) == 1 for each in found)
    has_pictures = any(len(each.grid) == 2 for each in found)
    samples = _samples(run, chosen, rows, has_words=has_words, has_pictures=has_pictures)
    shown = [_shown(sample, chosen, place, found) for place, sample in enumerate(samples)]
    return page.fragment(
        TEMPLATE,
        samples=shown,
        has_wrong=any(sample.is_wrong for sample in samples),
        has_words=has_words,
        has_pictures=has_pictures,
        differences=[each.name for each in found if each.is_difference],
        first_target=naming.first_of_several(run.plan),
        what="areas" if has_pictures else "groups",
        most_chips=MOST_CHIPS,
        folder=paths.TABLES,
    )


def _samples(
    run: Run,
    chosen: Mapping[str, list[Any]],
    rows: list[int],
    *,
    has_words: bool,
    has_pictures: bool,
) -> list[Sample]:
    inputs = inputs_of(run, rows) if has_pictures else {}
    of_samples = _words(run, rows) if has_words else {}
    class_name = naming.class_names(run)
    height, width = run.plan.input_shape[-2:] if has_pictures else (1, 1)
    return [
        Sample(
            row=row,
            label=int(chosen["label"][place]),
            is_wrong=is_wrong(chosen, place),
            picture=pictures.photograph(inputs[place], SIDE) if place in inputs else None,
            size=(height, width),
            words=of_samples.get(row, ()),
            class_name=class_name,
        )
        for place, row in enumerate(rows)
    ]


def _words(run: Run, rows: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Return what the positions of each sample are called; none of what cannot be read here."""
    found = words.of_samples(run, rows)
    source = naming.source_of(run) if len(found) < len(rows) else None
    if source is None:
        return found
    records = {row: run.manifest.slice(row, row + 1)[0] for row in rows if row not in found}
    return found | {row: _positions(source, record) for row, record in records.items()}


def _positions(source: Source, record: Record) -> tuple[str, ...]:
    """Return the tokens of a sample as numbers, else the numbers of its positions."""
    try:
        parts = parts_of(source.load(record))
    except (XpipeError, OSError, ValueError):
        return ()
    of_tokens = [value for value in parts.values() if not value.is_floating_point()]
    if of_tokens:
        return tuple(str(token) for token in of_tokens[0].flatten().tolist())
    return tuple(str(position) for position in range(next(iter(parts.values())).shape[-1]))


def _shown(
    sample: Sample, chosen: Mapping[str, list[Any]], place: int, found: Sequence[Hierarchies]
) -> Shown:
    return Shown(
        sample_id=chosen["sample_id"][place],
        label=sample.class_name(chosen["label"][place]),
        prediction=sample.class_name(chosen["prediction"][place]),
        is_wrong=sample.is_wrong,
        drawing=sample.drawing,
        found=tuple(_found(each, sample) for each in found),
    )


def _found(of_all: Hierarchies, sample: Sample) -> Found:
    tree = of_all.trees.get(sample.row)
    if tree is None or not tree.nodes:
        return Found(of_all.name, None)
    bar = pictures.bar(-tree.limit, tree.limit, "signed") if tree.limit else None
    if len(of_all.grid) == 2:
        return Found(of_all.name, bar, panels=_panels(of_all, tree, sample))
    positions = tuple(str(position) for position in range(of_all.size[0]))
    every = _joined(sample.words or positions, of_all.side)
    few = every[:MOST_WORDS]
    describe = functools.partial(_describe, sample=sample)
    lines = tuple(sentences.lines(tree, few, describe))
    return Found(of_all.name, bar, (), lines, len(few), len(every) - len(few))


def _joined(single: Sequence[str], side: int) -> tuple[str, ...]:
    """Return the words of each cell."""
    return tuple(" ".join(single[k : k + side]) for k in range(0, len(single), side))


def _panels(of_all: Hierarchies, tree: Tree, sample: Sample) -> tuple[Panel, ...]:
    grid = _grid(of_all, sample)
    levels = _few(tree.levels, of_all.n_grown)
    grown = [tree.whole(level) for level in tree.levels if level < of_all.n_grown]
    outlined = outlines.nested(grown or [tree.whole(levels[-1])], grid, tree.limit, sample.anchor)
    shown = (_level(tree, level, grid, sample) for level in levels)
    return (Panel("all levels", outlined), *shown)


def _level(tree: Tree, level: int, grid: Grid, sample: Sample) -> Panel:
    nodes = tree.whole(level)
    drawing = outlines.areas(
        nodes, grid, tree.limit, functools.partial(_describe, sample=sample), sample.anchor
    )
    chips = tuple(
        Chip(
            node.value,
            node.scores.get(sample.label) if sample.is_wrong else None,
            pictures.colour(node.value, tree.limit),
        )
        for node in nodes[:MOST_CHIPS]
    )
    caption = "root" if level == tree.levels[-1] else f"level {level}"
    return Panel(caption, drawing, chips, len(nodes) - len(chips))


def _grid(of_all: Hierarchies, sample: Sample) -> Grid:
    (rows, columns), (height, width), size = of_all.grid, sample.size, of_all.size
    # a layer has other sizes than the picture that it is drawn on
    steps = of_all.side * height / size[0], of_all.side * width / size[1]
    return outlines.Grid(rows, columns, height, width, *steps)


def _few(levels: Sequence[int], n_grown: int) -> list[int]:
    """Return at most `MOST_PANELS` levels: those of growth, then of merging, the root at least."""
    grown = [level for level in levels[:-1] if level < n_grown]
    first = _evenly(grown, MOST_PANELS - 1)
    return first + _evenly(levels[len(grown) :], MOST_PANELS - len(first))


def _evenly(levels: Sequence[int], n: int) -> list[int]:
    """Return at most `n` levels, the last and, of two or more, the first among them."""
    places = len(levels) - 1 - np.linspace(0, len(levels) - 1, min(n, len(levels)))
    return [levels[round(place)] for place in places[::-1].tolist()]


def _describe(node: Node, sample: Sample) -> str:
    """Return what an area is and what it scores, a class a line."""
    n = len(node.members)
    head = f"node {node.number}, from level {node.level} on: {n} cell{'s' if n != 1 else ''}"
    ranked = sorted(node.scores, key=node.scores.__getitem__, reverse=True)
    said = [each for k, each in enumerate(ranked) if k < MOST_CLASSES or each == sample.label]
    scores = [f"{sample.class_name(each)}: {number(node.scores[each])}" for each in said]
    return "\n".join([head, *scores])
