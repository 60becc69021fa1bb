"""The page about two runs: gates, and what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.gates.verdict import tally
from pipeline.report import page
from pipeline.report.sections import drift as section

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.compare.comparison import Comparison
    from pipeline.gates.verdict import Verdict
    from pipeline.store import Run

GATES = """
<p>{{ tally }}.</p>
<div class="scroll framed"><table class="wide">
<thead><tr><th>gate</th><th>of</th><th>verdict</th><th>found</th></tr></thead>
<tbody>
{% for verdict in verdicts %}
<tr><th class="mono">{{ verdict.gate }}</th><td>{{ verdict.name | breakable }}</td>
<td><span class="verdict {{ looks[verdict.status] }}">{{ verdict.status }}</span></td>
<td>{{ verdict.message }}</td></tr>
{% endfor %}
</tbody></table></div>
"""
_LOOKS = {"passed": "kept", "warned": "unknown", "failed": "broken", "skipped": "unknown"}


def build(
    comparison: Comparison,
    previous: Run,
    current: Run,
    out: Path,
    verdicts: Sequence[Verdict] = (),
) -> Path:
    """Write the page about two runs and return where it is; it needs nothing beside it."""
    sections: list[tuple[str, str, str]] = [
        ("drift", "Drift", section.content(comparison, previous, current))
    ]
    if verdicts:
        sections.insert(0, ("gates", "Gates", gates(verdicts)))
    html = page.document(f"{previous.config.name} to {current.config.name}", sections)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(html, encoding="utf-8")
    return out


def gates(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as a table."""
    return page.fragment(GATES, verdicts=verdicts, looks=_LOOKS, tally=tally(verdicts))
