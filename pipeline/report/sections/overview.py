"""What was done, in a sentence and a row of figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate
from pipeline.plan import EXPLAIN
from pipeline.quantities import duration
from pipeline.report import effort, formats, naming, page

if TYPE_CHECKING:
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
"""


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
    return page.fragment(
        TEMPLATE,
        sentence=_sentence(run, names),
        tiles=tiles,
        n_shards=n_shards,
        n_open=n_shards - len(run.entries(EXPLAIN)),
    )


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
