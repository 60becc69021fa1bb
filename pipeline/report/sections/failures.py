"""What is not there, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.plan import EXPLAIN
from pipeline.report import page

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.errors import XpipeError
    from pipeline.store import Run

title = "Failures"
order = 70

LIMIT = 200
"""Samples listed by name; the run's sample tables hold all of them."""

TEMPLATE = """
{% for name, n in not_finite.items() %}
<p class="warn">{{ name }}: the maps of {{ n | count }} samples are not finite. They are stored as
they are, without pictures and scores.</p>
{% endfor %}
{% if not failures and not open_shards %}
<p>No sample failed, and every shard is done.</p>
{% endif %}
{% if open_shards %}
<p class="warn">Not done: {% for shard in open_shards %}shard {{ shard.index }} (samples
{{ shard.start }} to {{ shard.stop - 1 }}){{ ", " if not loop.last }}{% endfor %}.</p>
{% endif %}
{% if failures %}
<div class="scroll framed" tabindex="0" role="region" aria-label="Failed samples">
<table class="wide">
<thead><tr><th scope="col">sample</th><th scope="col">reason</th></tr></thead>
<tbody>
{% for sample_id, reason in failures %}
<tr><th scope="row">{{ sample_id }}</th><td>{{ reason }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if n_failures > failures | length %}
<p class="note">The first {{ failures | length }} of {{ n_failures }}.</p>
{% endif %}
<p class="note">Failed samples have empty maps and are in no statistic and no score.</p>
{% endif %}
"""


BROKEN = """
<p class="warn">This section cannot be shown.</p><pre>{{ error }}</pre>
"""
BROKEN_SECTIONS = """
<ul class="said">{% for anchor, title, error in broken %}
<li><a href="#{{ anchor }}">{{ title }}</a> cannot be shown: {{ error.what }}</li>
{% endfor %}</ul>
"""


def render(run: Run) -> str:
    """Return the list of failed samples and unfinished shards."""
    failures = list(run.failures())
    done = run.entries(EXPLAIN)
    return page.fragment(
        TEMPLATE,
        failures=failures[:LIMIT],
        n_failures=len(failures),
        not_finite=run.not_finite(),
        open_shards=[shard for shard in run.plan.shards if shard.index not in done],
    )


def in_place(error: XpipeError) -> str:
    """Return what stands where a section cannot be rendered: what is wrong, and its fix."""
    return page.fragment(BROKEN, error=error)


def of_sections(broken: Sequence[tuple[str, str, XpipeError]]) -> str:
    """Return the list of sections, by anchor and title, that could not be rendered."""
    return page.fragment(BROKEN_SECTIONS, broken=broken)
