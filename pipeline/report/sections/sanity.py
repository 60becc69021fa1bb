"""Checks that any explanation should pass: other weights, other classes, sums, and controls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pipeline import aggregate, comparisons
from pipeline.report import charts, checks, curve_plots, page

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from markupsafe import Markup
    from numpy.typing import NDArray

    from pipeline.aggregate import Judged
    from pipeline.report.checks import Check
    from pipeline.store import Run

title = "Sanity"
order = 35

TEMPLATE = """
{% if passed %}
<ul class="said">
{% for text in passed %}<li>{{ text }}</li>
{% endfor %}
</ul>
{% endif %}
{% for text in missing %}
<p class="note">{{ text }}</p>
{% endfor %}
{% if rows %}
<div class="scroll framed" tabindex="0" role="region" aria-label="Checks by explainer">
<table class="wide">
<thead><tr><th scope="col">explainer</th>
{% for metric in names %}<th scope="col">{{ metric | breakable }}</th>{% endfor %}</tr></thead>
<tbody>
{% for explainer, is_control, cells in rows %}
<tr><th scope="row">{{ explainer | breakable }}
{%- if is_control %} <span class="pill">control</span>{% endif %}</th>
{% for check in cells %}
<td>{% if check %}<span class="verdict {{ check.verdict }}">{{ check.verdict }}</span>
<b>{{ check.middle | number }}</b>
<br><small>{{ check.low | number }} to {{ check.high | number }}
{%- if check.share %}; {{ check.share }}{% endif %}
{%- if check.n < n %}; of {{ check.n | count }} samples{% endif %}</small>
{%- else %}&ndash;{% endif %}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{{ curves }}
{% for chart, keys in histograms %}
<div class="card plot"><div>{{ chart }}</div>
<ul class="keys">{% for name, look in keys %}
<li><i class="key {{ look }}"></i>{{ name | breakable }}</li>{% endfor %}</ul></div>
{% endfor %}
{% if rows %}
<p class="note">
{%- if has_randomised %}Maps of a randomised network, or of another class, should be others: at a
mean similarity below {{ changed }} they count as such, from {{ same }} as the same. Where the score
is how much more disordered they become, it has to be above 0. A control knows no network: that it
fails shows that the check works. Scores are means with their 95 % confidence interval. {% endif %}
{%- if has_axioms %}A sum is complete if it differs from what it should be by at most a hundredth
(or the metric's tolerance), and nearly up to {{ close | percent(0) }}; scores are medians of the
relative residual, with quartiles. Methods that promise no such sum (gradients, saliency) do no
wrong by failing. {% endif %}</p>
{% endif %}
"""


def render(run: Run) -> str | None:
    """Return the section; None if nothing has been evaluated."""
    metrics = aggregate.judged(run)
    if not metrics:
        return None
    by_family = {
        name: [each for each in metrics if checks.family(each) == name] for name in checks.FAMILIES
    }
    randomised, axioms = by_family[checks.RANDOMISATION], by_family[checks.AXIOMS]
    found = [check for metric in (*randomised, *axioms) for check in checks.checks(run, metric)]
    contests = [
        contest
        for compared in comparisons.of_run(run)
        if checks.family(compared.metric) not in checks.FAMILIES
        and (contest := checks.contest(compared)) is not None
    ]
    beaten = [each for each in contests if each.beating]
    plots = curve_plots.plots(run, randomised)
    return page.fragment(
        TEMPLATE,
        names=list(dict.fromkeys(check.metric for check in found)),
        rows=_rows(found),
        n=max((check.n for check in found), default=0),
        passed=[*_verdicts(found), *map(_in_words, beaten), *_unbeaten(contests)],
        missing=_missing(run, by_family),
        curves=curve_plots.render(plots) if plots else "",
        histograms=[drawn for metric in axioms if (drawn := _histogram(run, metric))],
        has_randomised=bool(randomised),
        has_axioms=bool(axioms),
        changed=checks.CHANGED,
        same=checks.SAME,
        close=checks.CLOSE,
    )


def _rows(found: Sequence[Check]) -> list[tuple[str, bool, list[Check | None]]]:
    """Return for each explainer whether it is a control, and its checks in the same order."""
    by_key = {(check.explainer, check.metric): check for check in found}
    metrics = dict.fromkeys(check.metric for check in found)
    explainers = {check.explainer: check.is_control for check in found}
    return [
        (name, is_control, [by_key.get((name, metric)) for metric in metrics])
        for name, is_control in explainers.items()
    ]


def _verdicts(found: Sequence[Check]) -> list[str]:
    """Return a sentence for each check: who passes it and who does not."""
    said = []
    for metric in dict.fromkeys(check.metric for check in found):
        own = [check for check in found if check.metric == metric and not check.is_control]
        parts = [
            f"{_listed(alike)} {verb if len(alike) == 1 else plural}{alike[0].because}"
            for verdict, verb, plural in (
                ("passes", "passes", "pass"),
                ("doubtful", "is doubtful", "are doubtful"),
                ("fails", "fails", "fail"),
                ("unknown", "has no score", "have no score"),
            )
            if (alike := [check for check in own if check.verdict == verdict])
        ]
        if parts:
            said.append(f"{metric}: {'; '.join(parts)}.")
    return said


def _listed(alike: Sequence[Check]) -> str:
    return ", ".join(check.explainer for check in alike)


def _in_words(contest: checks.Contest) -> str:
    """Return who beats the controls, and who does not beat which of them."""
    named = " and ".join(contest.controls)
    verb = "beats" if len(contest.beating) == 1 else "beat"
    text = f"{contest.metric}: {', '.join(contest.beating)} {verb} {named}"
    alike: dict[str, list[str]] = {}
    for name, control in contest.others:
        alike.setdefault(control, []).append(name)
    others = [
        f"{', '.join(names)} {'does' if len(names) == 1 else 'do'} not beat {control}"
        for control, names in alike.items()
    ]
    return "; ".join([text, *others]) + "."


def _unbeaten(contests: Sequence[checks.Contest]) -> list[str]:
    """Return a sentence for all metrics under which nothing beats the same controls."""
    by_controls: dict[tuple[str, ...], list[str]] = {}
    for each in contests:
        if not each.beating:
            by_controls.setdefault(each.controls, []).append(each.metric)
    return [
        f"{', '.join(names)}: no explainer beats {' and '.join(named)}; here, "
        f"{'it' if len(names) == 1 else 'they'} cannot tell an explanation from a map that knows "
        "no network."
        for named, names in by_controls.items()
    ]


def _missing(run: Run, by_family: Mapping[str, Sequence[Judged]]) -> list[str]:
    """Return what has not been checked, and how it would be."""
    texts = []
    if not by_family[checks.RANDOMISATION]:
        texts.append(
            "Whether maps depend on the weights and on the class has not been checked: add "
            "mprt and random_logit to the metrics."
        )
    if not by_family[checks.AXIOMS]:
        texts.append("Whether maps sum to what they explain: add completeness to the metrics.")
    if not checks.controls(run, list(run.maps)):
        texts.append("There is no control to compare with: add random and sobel to the explainers.")
    return texts


def _histogram(run: Run, metric: Judged) -> tuple[Markup, list[tuple[str, str]]] | None:
    """Return how the headline is spread over samples, and the keys of its lines."""
    places = {name: place for place, name in enumerate(run.maps)}
    values: dict[str, NDArray[np.float64]] = {}
    for name in metric.explainers:
        column = checks.headline(run, metric, name)
        if column is not None and np.isfinite(column).any():
            values[name] = column[np.isfinite(column)]
    if not values:
        return None
    colours = {name: places.get(name, 0) for name in values}
    label = metric.headline.replace("_", " ")
    chart = charts.histogram(
        values, colours, label, f"{metric.name}: how {label} is spread", is_logarithmic=True
    )
    return chart, [(name, charts.look(colour)) for name, colour in colours.items()]
