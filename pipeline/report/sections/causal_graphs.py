"""Causal graphs of classes: drawings, how wide and how stable they are, and what classes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.causal_links import GraphsOfAll
from pipeline.entries import graph_scans
from pipeline.report import (
    causal_drawing,
    causal_faithfulness,
    causal_overlap,
    charts,
    naming,
    page,
    pictures,
)
from pipeline.report.causal_table import COLUMNS, SCREENING, rows
from pipeline.report.formats import percent
from pipeline.sinks import graphs as graph_sink

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from markupsafe import Markup

    from pipeline.causal_links import LayerOfAll
    from pipeline.report.causal_drawing import Drawing
    from pipeline.report.causal_faithfulness import Faithfulness
    from pipeline.report.causal_table import TableColumn
    from pipeline.store import Run

title = "Causal graphs"
order = 53

MOST_CLASSES = 10
"""Graphs that are drawn, of classes that are spread over all."""
MOST_COUNTED = 5
"""Classes with too few samples of which it is said how many there are."""
MOST_SHAPES = 9000
"""Nodes and lines of all drawings: they take a few hundred bytes each."""

TEMPLATE = """
<p>A graph has the neurons of each layer whose removal lowers the logit of a class (causes, red) or
raises it (negative causes, blue), tested from the outputs down: what a layer's causes are made of
are the effects that the layer below it is tested for. The strongest effects are on top. A line is
what one neuron does to another, as wide as it is strong among those of its layer, and ends where
the channel is read first. Point at neurons and lines for numbers.</p>
{% for name in missing %}
<p class="warn">The graphs of {{ name }} are missing, though the scan is finished: run
<code>xpipe resume</code>, which writes them from its result, and the report again.</p>
{% endfor %}
{% for scan in scans %}
{% if scans | length > 1 %}<h3>{{ scan.name }}</h3>{% endif %}
<p>{{ scan.facts }}</p>
{% if scan.warning %}<p class="warn">{{ scan.warning }}</p>{% endif %}
<div class="causes">
{% for graph in scan.drawn %}
<details{% if loop.first %} open{% endif %}><summary><b>{{ graph.name }}</b>
<span class="about">{{ graph.about }}</span></summary>
<div class="scroll framed" tabindex="0" role="region" aria-label="Causal graph">
{{ graph.drawing.picture }}</div>
<div class="scale">{{ graph.bar }}</div>
<p class="note">By how much an intervention on a neuron changes the logit: it falls (red) or rises
(blue).
{% if graph.drawing.n_hidden %}Not drawn are {{ graph.drawing.n_hidden }} with smaller effects.
{% endif %}
{% if graph.drawing.unreached %}The graph does not reach
{{ graph.drawing.unreached[:8] | join(", ") }}
{%- if graph.drawing.unreached | length > 8 %} and {{ graph.drawing.unreached | length - 8 }} more
{%- endif %}.{% endif %}
{% if graph.drawing.untested %}The scan leaves out
{{ graph.drawing.untested[:8] | join(", ") }}
{%- if graph.drawing.untested | length > 8 %} and {{ graph.drawing.untested | length - 8 }} more
{%- endif %}.{% endif %}</p></details>
{% endfor %}
</div>
<p class="note">Dashed rings: rounding could have decided whether it is a cause.
Pale: not confirmed on the samples held out.
{% if scan.n_left %}Graphs of {{ scan.n_left }} more classes are not drawn.{% endif %}
All are in <code>{{ folder }}/{{ scan.name }}</code>, as JSON{{ scan.and_graphml }}.</p>
{% for heading, table in scan.tables %}
<h3>{{ heading }}</h3>
<div class="scroll framed" tabindex="0" role="region" aria-label="Causal effects">
<table class="wide tight dense">
<thead><tr><th scope="col">layer</th>{% for column in table.columns %}
<th scope="col" class="value" title="{{ column.meaning }}">{{ column.name }}</th>{% endfor %}</tr>
</thead>
<tbody>{% for name, cells in table.rows %}
<tr><th scope="row">{{ name }}</th>{% for cell in cells %}
<td class="value">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
<p class="note">Median over the classes that were tested, and from least to most where they differ.
Point at a column's name for what it says.</p>
{% for each in scan.faithfulness %}
<h3>What the graphs alone keep
{%- if scan.faithfulness | length > 1 %} ({{ each.metric }}){% endif %}</h3>
<div class="scroll framed" tabindex="0" role="region" aria-label="Weights that stay">
<table class="tight"><thead><tr><th scope="col">weights that stay</th>
<th scope="col" class="value">logit</th><th scope="col" class="value">probability</th>
<th scope="col" class="value">accuracy</th></tr>
</thead><tbody>{% for words, logit, probability, accuracy in each.rows %}
<tr><th scope="row">{{ words }}</th><td class="value">{{ logit }}</td>
<td class="value">{{ probability }}</td>
<td class="value">{{ accuracy }}</td></tr>{% endfor %}</tbody></table></div>
<p class="note">Means over the {{ each.n }} samples whose target is a class with a graph. Graphs of
nearly everything keep nearly everything: read it beside the widths above.</p>
{% endfor %}
{% if scan.matrices %}
<h3>What classes share</h3>
<div class="overlaps">{% for caption, drawing in scan.matrices %}
<figure><figcaption>{{ caption }}</figcaption>{{ drawing }}</figure>{% endfor %}</div>
<div class="scale">{{ scan.overlap_bar }}</div>
<p class="note">Jaccard's index of the causes of two classes: those that both have, of those that
either has. Grey where neither has any.</p>
{% endif %}
{% if scan.chart %}
<h3>Other weights</h3>
<div class="plot"><div>{{ scan.chart }}</div><div>
{% for name, look in scan.keys %}<p class="note"><span class="key {{ look }}"></span>{{ name }}</p>
{% endfor %}</div></div>
<p class="note">How alike the causes are (Jaccard's index, mean over classes, with the band from
their first quartile to their third) when weights are set to u instead of what the graph has. A
neuron that is a cause of the other sign is not the same cause.</p>
{% endif %}
{% endfor %}
"""


@dataclass(frozen=True)
class Drawn:
    """The graph of a class."""

    name: str
    about: str
    drawing: Drawing
    bar: Markup


@dataclass(frozen=True)
class Table:
    """What is said of each layer."""

    columns: Sequence[TableColumn]
    rows: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True)
class Shown:
    """What is shown of one scan."""

    name: str
    facts: str
    warning: str
    drawn: Sequence[Drawn]
    n_left: int
    and_graphml: str
    tables: Sequence[tuple[str, Table]]
    """With their headings."""
    faithfulness: Sequence[Faithfulness]
    matrices: Sequence[tuple[str, Markup]]
    overlap_bar: Markup
    chart: Markup | None
    keys: Sequence[tuple[str, str]]


def render(run: Run) -> str | None:
    """Return the graphs, and which of them are missing; None if no scan found any."""
    shown = [found for name in graph_sink.names(run.path) if (found := _shown(run, name))]
    missing = [
        name
        for name in graph_scans(run.config)
        if name in run.scans and not graph_sink.exists(run.path, name)
    ]
    if not shown and not missing:
        return None
    return page.fragment(TEMPLATE, scans=shown, missing=missing, folder=paths.GRAPHS)


def _shown(run: Run, name: str) -> Shown | None:
    found = GraphsOfAll.read(run.scans[name]) if name in run.scans else None
    if found is None or not found.tested:
        return None
    class_name = naming.class_names(run)
    drawn = _drawn(run.graphs(name), found, class_name)
    names = [class_name(label) for label in found.labels]
    matrices = causal_overlap.matrices(found.tested, names)
    chart, keys = _chart(found)
    files = graph_sink.objects(run.path, name)
    return Shown(
        name=name,
        facts=_facts(found),
        warning=_warning(found, class_name),
        drawn=drawn,
        n_left=int((found.n_causes.sum(1) > 0).sum()) - len(drawn),
        and_graphml=" and GraphML" if any(each.endswith(".graphml") for each in files) else "",
        tables=_tables(found.tested),
        faithfulness=causal_faithfulness.of_scan(run, name),
        matrices=matrices,
        overlap_bar=causal_overlap.bar(),
        chart=chart,
        keys=keys,
    )


def _drawn(
    graphs: Mapping[str, Any], found: GraphsOfAll, class_name: Callable[[int], str]
) -> list[Drawn]:
    """Return drawings of some classes that have causes."""
    having = [
        (label, n)
        for label, n in zip(found.labels, found.n_causes, strict=True)
        if n.sum() and str(label) in graphs
    ]
    places = np.linspace(0, len(having) - 1, min(MOST_CLASSES, len(having))).round().astype(int)
    drawn: list[Drawn] = []
    n_shapes = 0
    for label, _ in (having[place] for place in places):
        document = graphs[str(label)]
        drawing = causal_drawing.draw(document, class_name(label))
        n_shapes += drawing.n_nodes + drawing.n_edges
        if drawn and n_shapes > MOST_SHAPES:
            break
        # what speaks for the class is red, and its removal lowers the logit
        bar = pictures.bar(drawing.limit, -drawing.limit, "signed")
        drawn.append(Drawn(class_name(label), _about(document), drawing, bar))
    return drawn


def _tables(layers: Sequence[LayerOfAll]) -> list[tuple[str, Table]]:
    """Return what is said of each layer, and of screening where there was some."""
    found = []
    for heading, every in (("Layers", COLUMNS), ("Screening", SCREENING)):
        columns = [each for each in every if all(each.of in layer for layer in layers)]
        if not any(np.any(layer["u"]) for layer in layers if "u" in layer):
            columns = [each for each in columns if each.of != "u"]  # all are removals
        if columns:
            found.append((heading, Table(columns, rows(columns, layers))))
    return found


def _about(document: Mapping[str, Any]) -> str:
    signs = [node["sign"] for layer in document["layers"] for node in layer["nodes"]]
    said = [f"{signs.count(1)} causes"]
    if -1 in signs:
        said.append(f"{signs.count(-1)} negative causes")
    if "n" in document:
        said.append(f"from {document['n']} samples")
    if document.get("n_held_out"):
        said.append(f"{document['n_held_out']} held out")
    return ", ".join(said)


def _facts(found: GraphsOfAll) -> str:
    """Return in words what was tested, and what became of it on the samples held out."""
    has_graph = found.n_causes.sum(1) > 0
    said = [f"{int(has_graph.sum())} of {len(found.labels)} classes have a graph."]
    retested = [np.isfinite(each["held_out_te"]) for each in found.tested if "held_out_te" in each]
    n_retested = sum(int(each.sum()) for each in retested)
    if n_retested:
        confirmed = [each["is_confirmed"] == 1 for each in found.tested if "is_confirmed" in each]
        n_confirmed = sum(
            int((one & other).sum()) for one, other in zip(confirmed, retested, strict=True)
        )
        said.append(
            f"Of {n_retested} causes that were tested again on samples held out, {n_confirmed} "
            f"({percent(n_confirmed / n_retested, 0)}) were confirmed."
        )
    n_borderline = sum(
        int((each["is_borderline"] > 0).sum()) for each in found.tested if "is_borderline" in each
    )
    if n_borderline:
        said.append(f"{n_borderline} decisions are within what rounding can do.")
    return " ".join(said)


def _warning(found: GraphsOfAll, class_name: Callable[[int], str]) -> str:
    """Return what a reader has to know before the drawings are believed."""
    hows = [each.how for each in found.tested if "how" in each]
    n_fallback = sum(how.count("fallback") for how in hows)
    few = {
        label
        for how in hows
        for label, one in zip(found.labels, how, strict=True)
        if one == "too few samples"
    }
    said = []
    if n_fallback:
        said.append(
            f"In {n_fallback} of {sum(map(len, hows))} layers of a class the test found nothing, "
            "and the far looser fallback of the original selected the causes."
        )
    if few:
        said.append(few_samples(found, few, class_name))
    return " ".join(said)


def few_samples(found: GraphsOfAll, few: Collection[int], class_name: Callable[[int], str]) -> str:
    """Return what is said of classes with too few samples, and how many of the labelled they are.

    Parameters
    ----------
    found
        The graphs.
    few
        The classes.
    class_name
        Names one.
    """
    seen, correct = (np.asarray(found.samples[name]) for name in ("seen", "correct"))
    counts = [
        f"{class_name(label)} ({right} of {n})" if seen.any() else class_name(label)
        for label, n, right in zip(found.labels, seen, correct, strict=True)
        if label in few
    ]
    too_few = "too few samples that are classified as such"
    n_more = len(counts) - MOST_COUNTED
    more = f" and {n_more} more" if n_more > 0 else ""
    if len(counts) == 1:
        said = f"Class {counts[0]} has {too_few}."
    else:
        said = f"{len(counts)} classes have {too_few}: {', '.join(counts[:MOST_COUNTED])}{more}."
    if seen.any() and not correct.any():
        said += " No sample of any class is: look whether labels and outputs are numbered alike."
    return said


def _chart(found: GraphsOfAll) -> tuple[Markup | None, list[tuple[str, str]]]:
    """Return how alike causes are when weights are set to something else, and the chart's key."""
    swept = [each for each in found.tested if "sweep" in each]
    series = [_series(each, place) for place, each in enumerate(swept)]
    series = [each for each in series if np.isfinite(each.values).all()]
    if not series:
        return None, []
    u = np.asarray(swept[0]["sweep/u"], np.float64)[0]
    if len(u) < 2:
        return None, []
    keys = [(each.name, charts.look(each.colour)) for each in series]
    return charts.lines(u, series, "u", "Jaccard's index"), keys


def _series(layer: LayerOfAll, colour: int) -> charts.Series:
    values = np.asarray(layer["sweep/jaccard"], np.float64)
    known = values[np.isfinite(values).all(1)]
    if not len(known):
        known = np.full((1, values.shape[1]), np.nan)
    low, high = np.quantile(known, [0.25, 0.75], axis=0)
    return charts.Series(layer.name, known.mean(0), low, high, colour)
