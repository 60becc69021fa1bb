"""Figures of matplotlib as inline SVG that takes the page's colours, light, dark or on paper.

Draw on `figure` with the colours of this module, then return `markup` of it. What is drawn in them
becomes a variable of the style sheet; text stays text, in the page's fonts.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipeline.paths import sha256

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

_STAND_IN = "#fe{:02x}0d"
"""Colours that nothing else is drawn in: each stands for one of the style sheet's."""
_NAMES = (
    *("ink", "soft", "faint", "rule", "paper", "card", "accent", "warn", "best", "best-ink"),
    *(f"c{number}" for number in range(8)),
)
_STAND_INS = {name: _STAND_IN.format(place) for place, name in enumerate(_NAMES)}

INK = _STAND_INS["ink"]
"""Of what is read first."""
SOFT = _STAND_INS["soft"]
"""Of labels."""
FAINT = _STAND_INS["faint"]
"""Of what is read last."""
RULE = _STAND_INS["rule"]
"""Of lines between things."""
PAPER = _STAND_INS["paper"]
"""Of the page, to draw over something."""
ACCENT = _STAND_INS["accent"]
WARN = _STAND_INS["warn"]
SERIES = tuple(_STAND_INS[f"c{number}"] for number in range(8))
"""Of explainers, by their place in the run."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "xpipe",
    "font.size": 13.0,
    "axes.edgecolor": RULE,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 13.0,
    "axes.unicode_minus": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 1.0,
    "text.color": SOFT,
    "text.parse_math": False,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.labelsize": 12.0,
    "ytick.labelsize": 12.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.major.pad": 7.0,
    "ytick.major.pad": 7.0,
    "lines.linewidth": 2.25,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}
_NAMED = "named:"
"""Start of the identifiers of what `name` was called with."""
_HOLDER = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"#([\w-]+)")
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_STRAIGHT = re.compile(r"rotate\(-?0[ )]")


@contextmanager
def style() -> Iterator[None]:
    """Give the page's style for the time of a with block: draw and write within it."""
    with rc_context(_STYLE):
        yield


def figure(width: float = 640, height: float = 340) -> tuple[Figure, Axes]:
    """Return a figure and its axes, sizes in the pixels of the page; call it within `style`."""
    # at 72 dots per inch, a point is a pixel of the page
    made = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    return made, made.add_subplot()


def name(artist: Artist, title: str, classes: str = "") -> None:
    """Say what something that is drawn is called, which is shown to who points at it.

    Parameters
    ----------
    artist
        What is drawn.
    title
        What it is.
    classes
        Of the style sheet.
    """
    artist.set_gid(f"{_NAMED}{classes}:{title}")


def markup(made: Figure, title: str, description: str = "", classes: str = "chart") -> Markup:
    """Return a figure as SVG for the page; the same figure gives the same bytes.

    Nothing is clipped: the limits of the axes have to hold what is drawn.

    Parameters
    ----------
    made
        From `figure`; call it within the same `style`.
    title
        What it shows, in a few words, for who does not see it.
    description
        What is to be seen in it, in a sentence or two.
    classes
        Of the style sheet.
    """
    buffer = BytesIO()
    made.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator")))
    root = ElementTree.fromstring(buffer.getvalue().decode())
    texts = {"title": title, "desc": description} if description else {"title": title}
    # other figures on the page must not have the same identifiers
    key = f"f{sha256(buffer.getvalue() + repr(texts).encode())[:8]}"
    _clean(root, key)
    root.attrib = {
        "class": classes,
        "viewBox": f"0 0 {made.bbox.width:g} {made.bbox.height:g}",
        "role": "img",
        "aria-labelledby": " ".join(f"{key}-{tag}" for tag in texts),
    }
    for place, (tag, text) in enumerate(texts.items()):
        root.insert(place, _element(tag, text, id=f"{key}-{tag}"))
    written = ElementTree.tostring(root, encoding="unicode")
    for variable, stand_in in _STAND_INS.items():
        written = written.replace(stand_in, f"var(--{variable})")
    return Markup(written)


def _clean(root: ElementTree.Element, key: str) -> None:
    """Leave what a page needs: no name spaces, no style for the whole page, short numbers."""
    elements = list(root.iter())
    written = " ".join(value for each in elements for value in each.attrib.values())
    referred = set(_REFERENCE.findall(written))
    for element in elements:
        element.tag = element.tag.rpartition("}")[2]
        element.tail = None
        if not (element.text or "").strip():
            element.text = None
        for child in list(element):
            # what is defined apart from what is drawn: a style for all the page, and clips
            is_beside = child.tag.endswith("}defs") and child.find("{*}path") is None
            if is_beside or child.tag.endswith("}metadata"):
                element.remove(child)
        _shorten(element, key)
        _rename(element, key, referred)
    _unwrap(root)


def _shorten(element: ElementTree.Element, key: str) -> None:
    attributes = element.attrib
    attributes.pop("clip-path", None)
    if _HOLDER in attributes:
        attributes["href"] = attributes.pop(_HOLDER)
    if _STRAIGHT.match(attributes.get("transform", "")):
        del attributes["transform"]
    for attribute, value in attributes.items():
        if attribute == "href":
            value = value.replace("#", f"#{key}-")
        elif attribute == "style":
            value = re.sub(r"font-family: [^;]*; ", "", value)
            value = re.sub(r"font: ([\d.]+px)[^;]*", r"font-size: \1", value)
        attributes[attribute] = _DECIMALS.sub(_rounded, value) if attribute != "id" else value


def _rename(element: ElementTree.Element, key: str, referred: set[str]) -> None:
    identifier = element.attrib.pop("id", "")
    if identifier.startswith(_NAMED):
        classes, _, title = identifier.removeprefix(_NAMED).partition(":")
        if classes:
            element.set("class", classes)
        if title:
            element.insert(0, _element("title", title))
    elif identifier in referred:
        element.set("id", f"{key}-{identifier}")


def _unwrap(element: ElementTree.Element) -> None:
    """Put what groups without attributes hold in their place; leave out what is not painted."""
    kept: list[ElementTree.Element] = []
    for child in element:
        _unwrap(child)
        if child.tag == "g" and not child.attrib:
            kept += list(child)
        elif child.get("style", "").strip("; ") != "fill: none":
            kept.append(child)
    element[:] = kept


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")


def _element(tag: str, text: str, **attributes: str) -> ElementTree.Element:
    element = ElementTree.Element(tag, attributes)
    element.text = text
    return element
