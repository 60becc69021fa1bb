"""A causal graph as a layered drawing: a column for each layer, a line for each edge."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from pipeline.report import pictures
from pipeline.report.formats import number, percent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Document = Mapping[str, Any]

MOST_NODES = 24
"""Neurons of a column that are drawn: those with the largest effects."""
MOST_EDGES = 480
"""Edges that are drawn in all columns together: of each column the strongest."""
LEAST_EDGES = 8
"""Edges of a column that are drawn at least."""
WIDTH = 1040
"""Of the page, in pixels."""
NARROW, WIDE = 46, 200
"""Least and greatest distance of columns; drawings of many layers are wider than the page."""
NUMBERED = 64
"""Distance of columns from which nodes are large enough for a number."""
_PITCH = 25
_LEFT, _RIGHT = 46, 130
_STRONG = 0.75
"""Where on the scale of signs the colours of lines are: its ends are nearly black."""
_LETTER = 6.6
"""About the width of a letter of a heading."""
_SLANT = math.radians(50)
"""Of headings that are too wide for their columns."""
_UNWEIGHED = 0.2
"""Strength with which lines are drawn that have no weight."""

Point = tuple[float, float]


@dataclass(frozen=True)
class Column:
    """A layer, and where its neurons are drawn."""

    layer: Document
    x: float
    places: Mapping[int, Point]
    """Of the neurons that are drawn."""
    nodes: Sequence[Document]
    """The same neurons, the largest effect first."""


@dataclass(frozen=True)
class Line:
    """What a neuron does to one that is read further up, of all channels that this stands for."""

    start: Point
    end: Point
    weight: float
    """NaN where edges were not weighed."""
    share: float
    """Of the strongest of its column, in [0, 1]."""
    title: str


@dataclass(frozen=True)
class Room:
    """What the headings of columns take."""

    is_level: bool
    """In two lines each, not slanted."""
    height: float
    left: float
    """From the edge to the first column."""
    right: float
    """From the last column on."""


@dataclass(frozen=True)
class Drawing:
    """A picture of the graph of one class."""

    picture: Markup
    n_nodes: int
    """Neurons that are drawn."""
    n_hidden: int
    """Those that are not, because there are stronger ones."""
    n_edges: int
    """Lines that are drawn."""
    unreached: tuple[str, ...]
    """Layers that the graph does not reach."""
    untested: tuple[str, ...]
    """Those that the scan leaves out."""
    limit: float
    """Effect with the strongest colour."""


def draw(document: Document, name: str) -> Drawing:
    """Return the drawing of a graph.

    Parameters
    ----------
    document
        The graph, see `explainers.causal.documents`.
    name
        Of the class.
    """
    below = [each for each in document["layers"] if not each["is_root"]]
    tested = [each for each in below if each.get("how") is not None]
    layers = [each for each in tested if each["effects"] and each["n_tested"]]
    step = min(WIDE, max(NARROW, (WIDTH - _LEFT - _RIGHT) / max(1, len(layers))))
    is_wide = step >= NUMBERED
    room = _room(layers, step)
    n_rows = max([min(MOST_NODES, len(each["nodes"])) for each in layers] or [1])
    height = room.height + _PITCH * max(n_rows, 3) + 34
    middle = (room.height + height - 34) / 2
    columns = [_column(each, room.left + step * place, middle) for place, each in enumerate(layers)]
    goal = (room.left + step * len(layers), middle)
    most = max(LEAST_EDGES, MOST_EDGES // max(1, len(layers)))
    lines = [line for lines in _lines(columns, goal, most) for line in lines]
    limit = max([abs(node["te"] or 0.0) for each in columns for node in each.nodes] or [0.0])
    parts = [_drawn_line(line) for line in sorted(lines, key=_strength)]
    parts += [_drawn_column(each, limit, is_wide=is_wide) for each in columns]
    parts += [_drawn_heading(each, room) for each in columns]
    parts.append(_drawn_goal(goal, name))
    size = (round(goal[0] + max(_RIGHT, room.right - step)), round(height))
    n_nodes = sum(len(each.nodes) for each in columns)
    return Drawing(
        _framed(size, f"causal graph of {name}", parts),
        n_nodes,
        sum(len(each["nodes"]) for each in layers) - n_nodes,
        len(lines),
        tuple(each["name"] for each in tested if each not in layers),
        tuple(each["name"] for each in below if each not in tested),
        limit,
    )


def _framed(size: tuple[int, int], label: str, parts: Sequence[Markup]) -> Markup:
    return Markup(
        '<svg class="causal" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
        'aria-label="{2}">{3}</svg>'
    ).format(*size, label, Markup("").join(parts))


def _column(layer: Document, x: float, middle: float) -> Column:
    nodes = sorted(layer["nodes"], key=_effect)[:MOST_NODES]
    top = middle - _PITCH * (len(nodes) - 1) / 2
    places = {node["id"]: (x, top + _PITCH * row) for row, node in enumerate(nodes)}
    return Column(layer, x, places, nodes)


def _effect(node: Document) -> tuple[float, int]:
    """Return what nodes are sorted by: causes first, the largest effects of these."""
    return -abs(node["te"] or 0.0) if node["sign"] else 1.0, node["id"]


def _lines(columns: Sequence[Column], goal: Point, most: int) -> Iterator[list[Line]]:
    """Yield the strongest lines of each column."""
    # an edge ends where its channel is read first; from behind, the nearest is put in last
    readers: dict[tuple[str, int], tuple[Point, str]] = {}
    for column in reversed(columns):
        yield _lines_of(column, readers, goal, most)
        for node in column.nodes:
            title = f"neuron {node['id']} of {column.layer['name']}"
            for of_layer, channel in node["sources"]:
                readers[of_layer, channel] = (column.places[node["id"]], title)


def _lines_of(
    column: Column, readers: Mapping[tuple[str, int], tuple[Point, str]], goal: Point, most: int
) -> list[Line]:
    name = column.layer["name"]
    found: dict[tuple[int, tuple[Point, str]], list[float]] = defaultdict(list)
    for cause, effect, weight in _edges(column.layer):
        end = readers.get((name, effect))
        if end is None and column.layer["level"] == 0:
            end = (goal, "the logit")
        if end is not None and cause in column.places:
            found[cause, end].append(weight)
    sums = {key: math.fsum(weights) for key, weights in found.items()}
    sizes = {key: abs(value) if math.isfinite(value) else 0.0 for key, value in sums.items()}
    chosen = sorted(sizes, key=sizes.__getitem__, reverse=True)[:most]
    largest = max([sizes[key] for key in chosen] or [0.0]) or 1.0
    return [
        Line(
            column.places[cause],
            end,
            sums[cause, (end, to)],
            sizes[cause, (end, to)] / largest if column.layer["edges"] else _UNWEIGHED,
            f"neuron {cause} of {name} to {to}: {number(sums[cause, (end, to)])}",
        )
        for cause, (end, to) in chosen
    ]


def _edges(layer: Document) -> Iterator[tuple[int, int, float]]:
    """Yield cause, effect and weight; where none was weighed all links, with NaN."""
    for edge in layer["edges"]:
        yield edge["cause"], edge["effect"], math.nan if edge["weight"] is None else edge["weight"]
    if not layer["edges"]:
        for node in layer["nodes"]:
            for effect in layer["effects"] if node["sign"] else ():
                yield node["id"], effect, math.nan


def _strength(line: Line) -> float:
    return line.share


def _drawn_line(line: Line) -> Markup:
    (x, y), (to_x, to_y) = line.start, line.end
    bend = (to_x - x) * 0.45
    colour = "var(--faint)"
    if math.isfinite(line.weight):
        colour = pictures.colour(math.copysign(_STRONG, -line.weight), 1.0).ground
    return Markup(
        '<path d="M{:.0f} {:.1f}C{:.0f} {:.1f} {:.0f} {:.1f} {:.0f} {:.1f}" stroke="{}" '
        'stroke-width="{:.1f}" opacity="{:.2f}"><title>{}</title></path>'
    ).format(
        *(x, y, x + bend, y, to_x - bend, to_y, to_x, to_y),
        colour,
        0.6 + 3.4 * line.share,
        0.15 + 0.7 * line.share,
        line.title,
    )


def _drawn_column(column: Column, limit: float, *, is_wide: bool) -> Markup:
    parts = []
    radius = 10.5 if is_wide else 6.0
    for node in column.nodes:
        x, y = column.places[node["id"]]
        parts.append(_drawn_node(column.layer, node, (x, y), radius, limit))
    n_hidden = len(column.layer["nodes"]) - len(column.nodes)
    if n_hidden:
        y = max(place[1] for place in column.places.values()) + 30
        parts.append(
            Markup('<text x="{:.0f}" y="{:.0f}">+ {}</text>').format(column.x, y, n_hidden)
        )
    return Markup("").join(parts)


def _drawn_heading(column: Column, room: Room) -> Markup:
    name, counted = column.layer["name"], _counted(column.layer)
    if not room.is_level:
        return Markup(
            '<text class="slanted" transform="translate({:.0f} {:.0f}) rotate({:.0f})">{}</text>'
        ).format(column.x, room.height - 14, -math.degrees(_SLANT), _heading(column.layer))
    return Markup(
        '<text class="name" x="{0:.0f}" y="20">{1}</text><text x="{0:.0f}" y="38">{2}</text>'
    ).format(column.x, name, counted)


def _room(layers: Sequence[Document], step: float) -> Room:
    """Return what headings need; they are slanted where they are wider than their columns."""
    wide = max((max(len(each["name"]), len(_counted(each))) for each in layers), default=0)
    if _LETTER * wide < step:
        return Room(True, 64.0, max(_LEFT, _LETTER * wide / 2), 0.0)
    longest = _LETTER * max(len(_heading(each)) for each in layers)
    return Room(False, 30 + math.sin(_SLANT) * longest, _LEFT, math.cos(_SLANT) * longest)


def _heading(layer: Document) -> str:
    return f"{layer['name']} {_counted(layer)}"


def _counted(layer: Document) -> str:
    counted = f"{sum(1 for node in layer['nodes'] if node['sign'])} of {layer['n_inputs']}"
    is_plain = layer.get("how") in (None, "paired", "z")
    return counted if is_plain else f"{counted}, {layer['how']}"


def _drawn_node(
    layer: Document, node: Document, place: Point, radius: float, limit: float
) -> Markup:
    colour = pictures.colour(-(node["te"] or 0.0), limit)
    kinds = [
        kind
        for kind, holds in (
            ("borderline", node.get("is_borderline")),
            ("unconfirmed", node.get("held_out_te") is not None and not node["is_confirmed"]),
            ("none", not node["sign"]),
        )
        if holds
    ]
    text = Markup("")
    if radius > 8:
        text = Markup('<text x="{:.0f}" y="{:.1f}" style="fill:{}">{}</text>').format(
            *place, colour.ink, node["id"]
        )
    return Markup(
        '<g class="{}"><circle cx="{:.0f}" cy="{:.1f}" r="{}" fill="{}"/>{}<title>{}</title></g>'
    ).format(" ".join(["node", *kinds]), *place, radius, colour.ground, text, in_words(layer, node))


def _drawn_goal(place: Point, name: str) -> Markup:
    x, y = place
    return Markup(
        '<circle class="goal" cx="{:.0f}" cy="{:.1f}" r="7"/>'
        '<text class="name start" x="{:.0f}" y="{:.1f}">{}</text>'
    ).format(x, y, x + 14, y, name if len(name) < 18 else f"{name[:16]}…")


def _between(node: Document) -> str:
    """Return the interval of an effect; nothing where there were too few replicates for one."""
    low, high = node.get("te_low"), node.get("te_high")
    return "" if low is None or high is None else f" ({number(low)} to {number(high)})"


def in_words(layer: Document, node: Document) -> str:
    """Return what is known of a neuron, a fact a line."""
    kind = {1: "a cause", -1: "a negative cause"}.get(node["sign"], "no cause, but nearly one")
    u = layer.get("u")
    what = f"setting its weights to {number(u)}" if u else "its removal"
    lines = [
        f"neuron {node['id']} of {layer['name']}: {kind}",
        f"{what} changes the logit by {number(node['te'])}{_between(node)}",
    ]
    if node.get("relative") is not None:
        lines.append(f"relative {percent(node['relative'])}, KL {number(node['divergence'])} nats")
    lines.append(f"p {number(node.get('p'), 2)}, q {number(node.get('q'), 2)}")
    if node.get("frequency") is not None:
        lines.append(f"selected in {percent(node['frequency'], 0)} of resamples")
    if node.get("is_borderline"):
        lines.append("borderline: rounding could have decided it")
    if node.get("held_out_te") is not None:
        verdict = "confirmed" if node.get("is_confirmed") else "not confirmed"
        lines.append(f"held out {number(node['held_out_te'])}: {verdict}")
    sources = [f"channel {channel} of {of_layer}" for of_layer, channel in node["sources"]]
    more = [f"and {len(sources) - 4} more"] if len(sources) > 4 else []
    return "\n".join([*lines, *(["it is " + ", ".join([*sources[:4], *more])] if sources else [])])
