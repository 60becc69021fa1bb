"""Which concepts of the deepest layer show each class, with the way to the atlas."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.atlas.views import layer_of
from pipeline.report import page

if TYPE_CHECKING:
    from pipeline.store import Run

title = "Concepts"
order = 55

SUMMARY = f"{paths.ATLAS}/atlas.json"
"""What the atlas says of itself: lists and heat maps may be large, and are not read here."""
LIMIT = 20
"""Classes in the table."""

TEMPLATE = """
<p>{{ n_concepts | count }} concepts of {{ n_layers }} layer{{ "s" if n_layers != 1 }}
can be browsed, each with the samples that show it best: <a href="{{ atlas }}/index.html">open the
atlas</a>, the folder <code>{{ atlas }}</code> of the run.</p>
{% if classes %}
<div class="scroll" tabindex="0" role="region" aria-label="Concepts by class">
<table class="framed">
<thead><tr><th scope="col">class</th><th scope="col">concepts of
{{ top.layer }} that it shows most</th></tr></thead>
<tbody>
{% for class in classes %}
<tr><th scope="row">{{ class.name }}</th><td>
{% for channel, mean in class.concepts %}
<a href="{{ atlas }}/{{ top.page }}#c{{ channel }}">#{{ channel }}</a>
<small>{{ mean | number(2) }}</small>{{ " &middot; " | safe if not loop.last }}
{% endfor %}
</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">{{ top.view }}: means of the best scores that samples of the class have.
{% if n_classes > classes | length %}The first {{ classes | length }} of {{ n_classes }} classes.
{% endif %}</p>
{% endif %}
"""


def render(run: Run) -> str | None:
    """Return the section; None if no atlas was built."""
    summary = _summary(run)
    if not summary:
        return None
    top = summary["top"]
    classes = top.get("classes", [])
    return page.fragment(
        TEMPLATE,
        atlas=paths.ATLAS,
        n_layers=len({layer_of(layer["name"]) for layer in summary["layers"]}),
        n_concepts=sum(layer["n_concepts"] for layer in summary["layers"]),
        top=top,
        classes=classes[:LIMIT],
        n_classes=len(classes),
    )


def _summary(run: Run) -> dict[str, Any]:
    """Return the summary of the atlas; empty if there is none, or it was cut short."""
    try:
        found: dict[str, Any] = json.loads(run.folder.read(SUMMARY))
    except (FileNotFoundError, ValueError):
        return {}
    return found if {"layers", "top"} <= set(found) else {}
