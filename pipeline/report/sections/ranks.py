"""Ranks of explainers over classes and over metrics, with what is too close to call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import agreement
from pipeline.report import formats, page, rank_diagram

if TYPE_CHECKING:
    from pipeline.agreement import Ranking
    from pipeline.store import Run

title = "Ranks"
order = 24

CARD = 540
"""Pixels of a card, where two are beside each other."""

TEMPLATE = """
<div class="cards{{ " many" if is_wide }}">
{% for ranking, heading, verdict, width, diagram in drawings %}
<div class="card"><h3 style="margin-top:0">{{ heading }}
<span class="pill">{{ ranking.test.n_blocks }} {{ ranking.blocks }}</span></h3>
<div class="scroll" tabindex="0" role="region" aria-label="Mean ranks: {{ heading }}">
<div style="width: {{ width }}px">{{ diagram }}</div></div>
<p class="note">{{ verdict }}</p></div>
{% endfor %}
</div>
<p class="note">Mean ranks, 1 is the best. Within a block every explainer has a rank by its mean
there; blocks are {{ blocks }}. A bar joins explainers whose mean ranks differ by less than the
critical difference of Nemenyi's test at 5 %, drawn to scale above the line
(Demsar, 2006){% if has_metrics %}. Ranks over metrics weigh every metric alike, whether or not
metrics measure the same: read them beside <a href="#disagreement">how far metrics
agree</a>{% endif %}.</p>
"""


def render(run: Run) -> str | None:
    """Return a diagram over metrics and one over classes for each metric; None without any."""
    found = agreement.rankings(run, agreement.scores(run))
    if not found:
        return None
    kinds = dict.fromkeys(ranking.blocks for ranking in found)
    names = {agreement.METRICS: "metrics", agreement.CLASSES: "classes of samples"}
    drawings = [
        (
            each,
            heading,
            _verdict(each),
            round(rank_diagram.width(each)),
            rank_diagram.draw(each, f"Mean ranks: {heading}"),
        )
        for each in found
        for heading in [each.metric or "over all metrics"]
    ]
    return page.fragment(
        TEMPLATE,
        drawings=drawings,
        is_wide=any(rank_diagram.width(each) > CARD for each in found),
        blocks=" or ".join(names[kind] for kind in kinds),
        has_metrics=agreement.METRICS in kinds,
    )


_NOTHING = ": nothing shows that explainers differ."


def _verdict(ranking: Ranking) -> str:
    test = ranking.test
    p = f"p = {formats.number(test.p, 2)}" if test.p >= 1e-4 else "p < 0.0001"
    said = f"Friedman's test over {test.n_blocks} {ranking.blocks}: {p}"
    differ = ", explainers differ." if ranking.is_told_apart else _NOTHING
    few = ", ".join(ranking.left_out)
    return said + differ + (f" Left out, for they score fewer explainers: {few}." if few else "")
