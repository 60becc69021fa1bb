"""Where relevance goes: what reaches the inputs, what is kept back, and what is missing."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.entries import build_explainers
from pipeline.errors import XpipeError
from pipeline.report import columns, naming, page

if TYPE_CHECKING:
    from pipeline.report.columns import Columns
    from pipeline.store import Run

logger = logging.getLogger(__name__)

title = "Conservation"
order = 55

OUTPUT = "output_relevance"
KEPT_BACK = {
    "absorbed_by_bias": "biases",
    "absorbed_by_stabiliser": "stabilisers",
    "lost": "lost",
}
"""Columns of the store that account for relevance, and their headings."""
DELTA = "convergence_delta"
UNABLE = "cannot conserve"
"""Part of the plan's notes about rules that lose relevance."""
CLOSED = 1e-3
"""Share of the output's relevance up to which an account counts as closed: float32 sums of a
photograph's 150,528 values are right to about 1e-4."""

TEMPLATE = """
{% if accounts %}
<p>Propagation hands the output's relevance back layer by layer. What does not reach the input was
kept by biases, taken up by the stabilisers that keep divisions from exploding, or lost: where
nothing had contributed, or by rules that cannot conserve relevance and drop some of it or hand it
on twice (then the loss is negative).</p>
<div class="scroll framed" tabindex="0" role="region" aria-label="Conservation">
<table class="wide">
<thead><tr><th scope="col">explainer</th><th scope="col" class="value">at the output</th>
<th scope="col" class="value">at the input</th>
{% for heading in headings %}<th scope="col" class="value">{{ heading }}</th>{% endfor %}
<th scope="col" class="value">unaccounted <small>mean</small></th>
<th scope="col" class="value">unaccounted <small>largest</small></th></tr></thead>
<tbody>
{% for row in accounts %}
<tr><th scope="row">{{ row.name | breakable }}</th>
<td class="value"><b>{{ row.output | number }}</b></td>
{% for part in row.parts %}
<td class="value">{{ part | number }} <small>{{ row.share(part) | percent }}</small></td>
{% endfor %}
<td class="value{{ "" if row.is_closed else " warn" }}">{{ row.remainder | number }}
<small>{{ row.share(row.remainder) | percent }}</small></td>
<td class="value">{{ row.largest | number }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">Means over {{ n }} samples, with their share of the mean at the output. The columns
behind the output add up to it; what is left over is unaccounted
{%- if open_ones %}, and <span class="warn">marked</span> beyond {{ closed | percent }}:
{{ open_ones | join(", ") }}{% endif %}. <span class="mono">xpipe explainers NAME</span> says which
rules of a method do not conserve.</p>
{% if notes %}<ul class="note">
{% for note in notes %}<li>{{ note }}</li>{% endfor %}
</ul>{% endif %}
{% endif %}
{% if first_target %}<p class="note">Of several targets this is the first:
{{ first_target }}.</p>{% endif %}
{% if deltas %}
<p>Methods that compare with a baseline promise that a map sums to the output at the sample minus
the output at the baseline. The convergence delta is what the sum exceeds this difference by.</p>
<div class="scroll framed" tabindex="0" role="region" aria-label="Completeness of differences">
<table class="wide">
<thead><tr><th scope="col">explainer</th>
<th scope="col" class="value">explained difference <small>mean size</small></th>
<th scope="col" class="value">delta <small>mean</small></th>
<th scope="col" class="value">delta <small>mean size</small>
</th><th scope="col" class="value">delta <small>share of the difference</small></th>
<th scope="col" class="value">delta <small>largest</small></th></tr></thead>
<tbody>
{% for row in deltas %}
<tr><th scope="row">{{ row.name | breakable }}</th>
<td class="value">{{ row.difference | number }}</td>
<td class="value">{{ row.mean | number }}</td><td class="value">{{ row.size | number }}</td>
<td class="value"><b>{{ row.share | percent }}</b></td>
<td class="value">{{ row.largest | number }}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note">The share is mean size over mean size. More steps, or more samples of the baseline,
make it smaller; a share of several percent means that maps are not yet what the method defines.
{% if is_missing %}Where maps are postprocessed, the difference cannot be told from their
sums.{% endif %}</p>
{% endif %}
"""


@dataclass(frozen=True)
class Account:
    """Means of where relevance went."""

    name: str
    output: float
    parts: tuple[float, ...]
    """What reached the input, and what was kept back, in the order of the table."""
    remainder: float
    largest: float
    """Size of the largest remainder of a sample."""

    @property
    def is_closed(self) -> bool:
        """Whether what is left over is rounding."""
        return not abs(self.remainder) > CLOSED * abs(self.output)

    def share(self, part: float) -> float:
        """Return a part of the output's relevance."""
        return part / self.output if self.output else float("nan")


@dataclass(frozen=True)
class Delta:
    """How far a method is from what its maps should sum to."""

    name: str
    difference: float
    mean: float
    size: float
    largest: float

    @property
    def share(self) -> float:
        """Size over the size of what is explained."""
        return self.size / self.difference if self.difference else float("nan")


def render(run: Run) -> str | None:
    """Return the accounts; None if no method keeps any."""
    with np.errstate(invalid="ignore", over="ignore"):  # of maps that are not finite
        return _render(run)


def _render(run: Run) -> str | None:
    changed = _changed(run)
    every = columns.by_explainer(run)
    accounts = [
        _account(name, found) for name, found in every.items() if {OUTPUT, "sum"} <= found.keys()
    ]
    deltas = [
        _delta(name, found, is_sum=name not in changed)
        for name, found in every.items()
        if DELTA in found
    ]
    if not accounts and not deltas:
        return None
    return page.fragment(
        TEMPLATE,
        accounts=accounts,
        deltas=deltas,
        headings=list(KEPT_BACK.values()),
        n=max((len(found[OUTPUT]) for found in every.values() if OUTPUT in found), default=0),
        open_ones=[row.name for row in accounts if not row.is_closed],
        closed=CLOSED,
        notes=[note for note in run.plan.notes if UNABLE in note],
        first_target=naming.first_of_several(run.plan),
        is_missing=any(np.isnan(row.difference) for row in deltas),
    )


def _account(name: str, found: Columns) -> Account:
    output = found[OUTPUT]
    parts = [found["sum"], *(found.get(each, np.zeros_like(output)) for each in KEPT_BACK)]
    remainder = output - np.sum(parts, axis=0)
    return Account(
        name,
        float(output.mean()),
        tuple(float(part.mean()) for part in parts),
        float(remainder.mean()),
        float(np.abs(remainder).max()),
    )


def _delta(name: str, found: Columns, *, is_sum: bool) -> Delta:
    delta = found[DELTA]
    difference = found["sum"] - delta
    return Delta(
        name,
        float(np.abs(difference).mean()) if is_sum else float("nan"),
        float(delta.mean()),
        float(np.abs(delta).mean()),
        float(np.abs(delta).max()),
    )


def _changed(run: Run) -> set[str]:
    """Return the entries whose stored maps are not what was propagated."""
    try:
        found = build_explainers(run.config)
    except XpipeError as error:
        logger.warning("parameters of explainers cannot be read: %s", error)
        return set()
    return {
        name
        for name, each in found.items()
        if getattr(each, "postprocess", "none") != "none"
        or not getattr(each, "multiply_by_inputs", True)
    }
