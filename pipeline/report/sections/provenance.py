"""Where the numbers come from: digests, versions, seeds, passes, the run file."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.config import dump
from pipeline.report import effort, formats, page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.store import Run

title = "Provenance"
order = 80

TEMPLATE = """
<div class="card"><dl>
{% for name, value in facts %}
<dt>{{ name }}</dt><dd{% if name in coded %} class="mono"{% endif %}>{{ value }}</dd>
{% endfor %}
</dl></div>
<h3>Passes</h3>
<div class="scroll framed" tabindex="0" role="region" aria-label="Passes">
<table class="wide">
<thead><tr><th scope="col">pass</th><th scope="col" class="value">shards</th>
<th scope="col" class="value">samples</th>
<th scope="col" class="value">failed</th><th scope="col" class="value">wall</th>
<th scope="col" class="value">work</th>
<th scope="col" class="value">samples/s</th><th scope="col" class="value">workers</th>
<th scope="col" class="value">retried</th>
<th scope="col" class="value">peak memory</th></tr></thead>
<tbody>
{% for name, pass in passes %}
<tr><th scope="row">{{ name }}</th><td class="value">{{ pass.n_shards | count }}</td>
<td class="value">{{ pass.n_samples | count }}</td>
<td class="value">{{ pass.n_failed | count }}</td>
<td class="value">{{ pass.wall | duration }}</td>
<td class="value">{{ pass.working | duration }}</td>
<td class="value">
  {%- if pass.wall %}{{ (pass.n_samples / pass.wall) | number }}{% endif %}</td>
<td class="value">{{ pass.n_workers }}</td><td class="value">{{ pass.n_retried }}</td>
<td class="value">{% if pass.peak_memory %}{{ pass.peak_memory | size }}{% endif %}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Wall is the time in which at least one worker was busy; work is summed over
workers.</p>
<details><summary>Run file</summary><pre>{{ run_file }}</pre></details>
<details><summary>Environment</summary><div class="card"><dl>
{% for name, value in environment %}<dt>{{ name }}</dt><dd class="mono">{{ value }}</dd>{% endfor %}
</dl></div></details>
"""


def render(run: Run) -> str:
    """Return the section."""
    plan, spent = run.plan, effort.spent(run)
    # what was asked for is shown as the run file
    environment = flat({key: each for key, each in run.environment.items() if key != "config"})
    facts: dict[str, object] = {
        "run": plan.digest,
        "weights": plan.weights_digest,
        "manifest": plan.manifest_digest,
        "configuration": run.config.digest(),
        "seed": run.config.seed,
        "samples": f"{formats.count(plan.n_samples)} in {len(plan.shards)} shards, "
        f"batches of {plan.batch_size}",
        "torch threads per worker": plan.threads,
        "began": _time(spent.began),
        "worker hours": formats.number(spent.working / 3600),
        **{name: environment[name] for name in ("command", "git") if name in environment},
    }
    return page.fragment(
        TEMPLATE,
        facts=list(facts.items()),
        coded={"run", "weights", "manifest", "configuration", "command", "git"},
        passes=sorted(((name, effort.spent(run, name)) for name in run.progress()), key=_began),
        run_file=dump(run.config),
        environment=list(environment.items()),
    )


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested values by dotted name."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            found[f"{prefix}{name}"] = " ".join(str(part) for part in value)
        else:
            found[f"{prefix}{name}"] = str(value)
    return found


def _began(named: tuple[str, effort.Effort]) -> float:
    return named[1].began or float("inf")


def _time(seconds: float) -> str:
    if seconds == 0:
        return formats.MISSING
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
