"""What was done, in a sentence and a row of figures, of what, and what became of its gates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pipeline import aggregate, paths
from pipeline.plan import EXPLAIN
from pipeline.quantities import duration
from pipeline.report import effort, formats, naming, page
from pipeline.report.trees import COMPONENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline.report.effort import Effort
    from pipeline.store import Run

title = "Overview"
order = 10

TEMPLATE = """
<p>{{ sentence }}</p>
<div class="tiles">
{% for value, label in tiles %}
  <div class="tile"><b>{{ value }}</b><span>{{ label }}</span></div>
{% endfor %}
</div>
{% if n_open %}
<p class="warn">{{ n_open }} of {{ n_shards }} shards are not done: this page shows the others.</p>
{% endif %}
{% if gates %}
<ul class="said">
<li>Gates: <span class="verdict {{ look }}">{{ gates.verdict }}</span></li>
{% for gate in gates.gates if gate.status != "passed" %}
<li>{{ gate.status }}: <code>{{ gate.gate }}</code> {{ gate.message }}</li>
{% endfor %}
</ul>
{% endif %}
<div class="card facts"><dl>
{% for name, value in facts %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl></div>
<details><summary>Explainers and their parameters</summary>
<div class="scroll framed" tabindex="0" role="region" aria-label="Explainers and their parameters">
<table class="wide tight">
<thead><tr><th scope="col">explainer</th><th scope="col">method</th>
<th scope="col">parameters that were given</th></tr></thead>
<tbody>
{% for name, method, given in explainers %}
<tr><th scope="row">{{ name | breakable }}</th><td>{{ method | breakable }}</td>
<td class="mono">{{ given }}</td></tr>
{% endfor %}
</tbody></table></div></details>
{% if links %}
<p class="note">More of this run: {% for address, text in links %}<a href="{{ address }}">
{{- text }}</a>{{ ", " if not loop.last }}{% endfor %}.</p>
{% endif %}
"""
LOOKS = {"passed": "passes", "warned": "doubtful", "failed": "fails"}
"""Of what became of gates, in the style sheet."""
SHORT = 12
"""Digits of a digest that are shown; provenance has all of them."""


def render(run: Run) -> str:
    """Return the overview."""
    facts = aggregate.facts(run)
    n_done, n_failed = len(facts["index"]), len(run.failures())
    names = list(run.maps)
    spent = effort.spent(run)
    tiles = [
        (formats.count(n_done - n_failed), "samples explained"),
        (formats.count(n_failed), "samples failed"),
        *([(str(len(names)), "attributions per sample")] * bool(names)),
        *_accuracy(facts),
        (duration(spent.wall), "wall time over all passes"),
        (
            duration(spent.working),
            f"of work on {spent.n_workers} worker{'s' * (spent.n_workers != 1)}",
        ),
    ]
    n_shards = len(run.plan.shards)
    gates = _gates(run)
    return page.fragment(
        TEMPLATE,
        sentence=_sentence(run, names),
        tiles=tiles,
        n_shards=n_shards,
        n_open=n_shards - len(run.entries(EXPLAIN)),
        gates=gates,
        look=LOOKS.get(gates["verdict"], "unknown") if gates else "",
        facts=list(_facts(run, spent)),
        explainers=list(_explainers(run)),
        links=list(_links(run)),
    )


def _gates(run: Run) -> dict[str, Any] | None:
    """Return what became of the gates; None if there are none."""
    if not run.folder.exists(paths.GATES):
        return None
    gates: dict[str, Any] = json.loads(run.folder.read(paths.GATES))
    return gates


def _facts(run: Run, spent: Effort) -> Iterator[tuple[str, str | Markup]]:
    """Yield what tells this run from others: who reads a page should not have to trust its name."""
    plan, config, environment = run.plan, run.config, run.environment
    yield "model", _digested(f"{config.model.name} ({config.model.source})", plan.weights_digest)
    samples = f"{formats.count(plan.n_samples)} samples of {config.data.source}"
    yield "data", _digested(samples, plan.manifest_digest)
    yield "run", _digested(f"seed {config.seed}", plan.digest)
    packages = environment.get("packages", {})
    versions = [f"{name} {packages[name]}" for name in ("xpipe-xai", "torch") if name in packages]
    if "python" in environment:
        versions.append(f"Python {environment['python']}")
    if versions:
        yield "versions", ", ".join(versions)
    devices = ", ".join(dict.fromkeys(map(str, environment.get("gpus", ())))) or "processors"
    yield (
        "work",
        f"{formats.number(spent.working / 3600)} device hours on {devices}, "
        f"{formats.number(spent.wall / 3600)} hours of wall time",
    )
    broken = run.not_finite()
    if broken:
        counts = ", ".join(f"{formats.count(n)} of {name}" for name, n in broken.items())
        yield "maps that are not finite", counts


def _digested(text: str, digest: str) -> Markup:
    return Markup('{}, sha256 <code title="{}">{}</code>').format(text, digest, digest[:SHORT])


def _explainers(run: Run) -> Iterator[tuple[str, str, str]]:
    """Yield entry, method and what was said of its parameters."""
    for name, given in run.config.explainers.items():
        said = [f"{key}: {value}" for key, value in given.items() if key != "method"]
        yield name, str(given.get("method", name)), ", ".join(said)


def _links(run: Run) -> Iterator[tuple[str, str]]:
    """Yield address and name of what else there is to look at."""
    if run.folder.exists(f"{paths.ATLAS}/index.html"):
        yield f"{paths.ATLAS}/index.html", "the atlas of concepts"
    if any(COMPONENTS in run.arrays(name) for name in run.config.explainers):
        yield "#hierarchies", "hierarchies"
    if run.folder.exists(paths.GRAPHS):
        yield "#causal_graphs", "causal graphs"


def _sentence(run: Run, names: list[str]) -> str:
    config = run.config
    targets = " and ".join(naming.target_in_words(target) for target in run.plan.targets)
    made = [f"{len(names)} attributions"] * bool(names)
    made += [f"{len(run.scans)} scan{'s' * (len(run.scans) > 1)}"] * bool(run.scans)
    return (
        f"{' and '.join(made) or 'Nothing yet'} of {config.model.name} ({config.model.source}) "
        f"over {formats.count(run.plan.n_samples)} samples of {config.data.source}; explained is "
        f"{targets}."
    )


def _accuracy(facts: dict[str, Any]) -> list[tuple[str, str]]:
    label, prediction = np.array(facts["label"]), np.array(facts["prediction"])
    known = (label >= 0) & (prediction >= 0)
    if not known.any():
        return []
    n_right = int((label == prediction)[known].sum())
    wrong = formats.count(int(known.sum()) - n_right)
    return [(formats.percent(n_right / int(known.sum())), f"accuracy, {wrong} misclassified")]
