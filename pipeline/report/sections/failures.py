"""What is not there, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.plan import EXPLAIN
from pipeline.report import page

if TYPE_CHECKING:
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
<div class="scroll framed"><table class="wide">
<thead><tr><th>sample</th><th>reason</th></tr></thead>
<tbody>
{% for sample_id, reason in failures %}
<tr><th>{{ sample_id }}</th><td>{{ reason }}</td></tr>
{% endfor %}
</tbody></table></div>
{% if n_failures > failures | length %}
<p class="note">The first {{ failures | length }} of {{ n_failures }}.</p>
{% endif %}
<p class="note">Failed samples have empty maps and are in no statistic and no score.</p>
{% endif %}
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
