"""Whether metrics order explainers alike: Kendall's tau between every two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline import agreement
from pipeline.report import formats, page

if TYPE_CHECKING:
    from pipeline.agreement import Disagreement
    from pipeline.store import Run

title = "Agreement of metrics"
order = 22

TEMPLATE = """
<p>{{ verdict }}</p>
<div class="cards{{ " many" if names | length > 6 }}"><div class="card">
<div class="scroll" tabindex="0" role="region" aria-label="Agreement of metrics">
<table class="wide tight">
<thead><tr><th scope="col">Kendall's tau</th>
{% for name in names %}
<th scope="col" class="value"><span>{{ name | breakable }}</span></th>{% endfor %}
</tr></thead>
<tbody>
{% for name, cells in rows %}
<tr><th scope="row">{{ name | breakable }}</th>
{% for value, colour, strength, what in cells %}
<td class="cell"{% if what %} title="{{ what }}" style="background: color-mix(in srgb, var(--{{
colour }}) {{ strength }}%, transparent)"{% endif %}>{{ value }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div></div></div>
<p class="note">1: two metrics put {{ n }} explainers in the same order; 0: their orders have
nothing to do with each other; &minus;1: one is the reverse of the other. Above the diagonal, tau
within each sample, averaged over samples; below, tau of the means over all samples. Every metric
is read in its own direction, from better to worse.</p>
"""


def render(run: Run) -> str | None:
    """Return the matrix; None without two metrics that score three explainers in common."""
    found = agreement.disagreement(agreement.scores(run))
    if found is None:
        return None
    return page.fragment(
        TEMPLATE,
        names=found.metrics,
        rows=[
            (name, [_cell(found, row, column) for column in range(len(found.metrics))])
            for row, name in enumerate(found.metrics)
        ],
        n=len(found.explainers),
        verdict=_verdict(found),
    )


def _cell(found: Disagreement, row: int, column: int) -> tuple[str, str, int, str]:
    """Return the text, the colour and its strength in percent, and what is compared."""
    if row == column:
        return "", "accent", 0, ""
    values, of = (
        (found.per_sample, "within samples") if row < column else (found.of_means, "of the means")
    )
    tau = float(values[row, column])
    strength = 0 if np.isnan(tau) else round(45 * abs(tau))
    what = f"{found.metrics[row]} and {found.metrics[column]}, {of}"
    return formats.fixed(tau), "accent" if tau >= 0 else "warn", strength, what


def _verdict(found: Disagreement) -> str:
    """Return in words how many pairs agree, and which two are furthest apart."""
    first, second = np.triu_indices(len(found.metrics), 1)
    taus = found.per_sample[first, second]
    known = np.flatnonzero(~np.isnan(taus))
    if not len(known):
        return "No two metrics could be compared sample by sample."
    worst = known[np.argmin(taus[known])]
    names = [found.metrics[place[worst]] for place in (first, second)]
    n_opposed, n = int((taus[known] < 0).sum()), len(known)
    said = (
        f"{n_opposed} of {n} pairs of metrics order explainers rather against each other than alike"
        if n_opposed
        else f"All {n} pairs of metrics order explainers rather alike than against each other"
        if n > 1
        else "The two metrics order explainers rather alike than against each other"
    )
    tau = formats.fixed(float(taus[worst]))
    return f"{said}; furthest apart are {names[0]} and {names[1]} (tau {tau})."
