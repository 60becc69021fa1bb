"""What rate-distortion masks cost and keep, and whether the distortion that was optimised is so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.plan import split_name
from pipeline.report import naming, page
from pipeline.report.formats import number, percent
from pipeline.sinks.columns import arrays
from pipeline.sinks.samples import STATUS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.store import Run

    Found = Mapping[str, NDArray[np.float64]]

title = "Rate and distortion"
order = 57

DISTORTION = "distortion"
DRAWN = "distortion_monte_carlo"
ERROR = "distortion_monte_carlo_error"
START = "start_distortion"
SELECTED = "selected"
ASKED = {"multiplier": "multiplier", "asked_rate": "rate"}
"""Columns that say what a mask was asked for, and their words."""
OBJECTIVE = "objective"
COLUMNS = (
    DISTORTION,
    DRAWN,
    ERROR,
    START,
    SELECTED,
    OBJECTIVE,
    *ASKED,
    "rate",
    "iterations",
    "gap",
)
FACTOR = 2.0
"""By which the two distortions may differ before a reader is warned: low-rank moments are off by
less behind average pools, perhaps by more behind max-pools, and diagonal ones by far more."""
N_ERRORS = 2.0
"""Standard errors of Monte Carlo by which they must differ as well: by luck, one sample in twenty
does, but not half of them."""
SHARE = 0.01
"""Part of the squared output, or of what the mask costs beside its distortion, by which they must
differ as well: a hundred draws miss what one in a hundred would show, and then have no error."""

TEMPLATE = """
<p>A mask keeps part of a sample and lets noise take the rest. Its rate is the mean of the mask, its
distortion half the mean squared change of what is explained, here in units of that squared.
Masks are found with a distortion that is quick to compute; what it really is, drawing noise again
and again shows. Where the two part, masks are optimal for something else.</p>
<div class="scroll framed" tabindex="0" role="region" aria-label="Rate and distortion">
<table class="wide tight">
<thead><tr><th scope="col">explainer</th><th scope="col" class="value">asked for</th>
<th scope="col" class="value">rate
<small>mean</small></th>
<th scope="col" class="value">distortion at the start <small>median</small></th>
<th scope="col" class="value">distortion as optimised <small>median</small></th>
<th scope="col" class="value">by Monte Carlo <small>median &plusmn; its error</small></th>
<th scope="col" class="value">ratio <small>median, quartiles</small></th>
<th scope="col" class="value">beyond {{ factor | number(2) }}&times; <small>samples</small></th>
<th scope="col" class="value">iterations <small>mean, most</small></th>
<th scope="col" class="value">gap <small>median</small></th></tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.name | breakable }}</th><td class="value">{{ row.asked }}</td>
<td class="value">{{ row.rate | percent }}</td><td class="value">{{ row.start | number }}</td>
<td class="value">{{ row.assumed | number }}</td>
<td class="value"><b>{{ row.drawn | number }}</b>
{%- if row.has_draws %} <small>&plusmn; {{ row.error | number(2) }}</small>{% endif %}</td>
<td class="value{{ " warn" if row.is_off }}">{{ row.ratio | number(2) }}
{%- if row.has_draws %} <small>{{ row.low | number(2) }} to {{ row.high | number(2) }}</small>
{%- endif %}</td>
<td class="value">{% if row.has_draws %}{{ row.n_off | count }} of {{ row.n_known | count }}
{%- else %}{{ missing }}{% endif %}</td>
<td class="value">{{ row.iterations | count }} <small>{{ row.most | count }}</small></td>
<td class="value">{{ row.gap | number }}</td></tr>
{% endfor %}
</tbody></table></div>
{% for name, text, advice in warnings %}
<p class="warn"><b>&#9888;&#65038; {{ name }}:</b> {{ text }} Trust the figure by Monte Carlo.
{{ advice }}</p>
{% endfor %}
{% for name, n_lost in lost %}
<p class="warn"><b>&#9888;&#65038; {{ name }}:</b> no finite distortion for {{ n_lost | count }}
mask{{ "s" if n_lost != 1 }}, which {{ "are" if n_lost != 1 else "is" }} NaN in the maps.</p>
{% endfor %}
<p class="note">Over {{ n }} samples; the ratio is that of Monte Carlo to what was optimised. Those
are counted as beyond {{ factor | number(1) }}&times; whose two distortions also differ by more than
{{ n_errors | number(1) }} standard errors and {{ share | percent(0) }} of the squared output, or,
where Monte Carlo gives more, of what the multiplier charges for the mask; marked are ratios beyond
it where this holds for most samples, or for the mean of all. The gap is what the
objective could still fall by if it were linear, in the same units.
{%- if not all_drawn %} Without draws (<span class="mono">n_verify: 0</span>) nothing is known of
the distortion but what was optimised.{% endif %}
{%- if first_target %} Of several targets this is the first: {{ first_target }}.{% endif %}</p>
"""


@dataclass(frozen=True)
class Row:
    """What one explainer found for one multiplier, or rate."""

    name: str
    asked: str
    rate: float
    start: float
    assumed: float
    drawn: float
    error: float
    """Standard error of a sample's Monte-Carlo distortion, in the median."""
    ratio: float
    low: float
    high: float
    """Quartiles of the ratio."""
    n_off: int
    """Samples whose distortions differ by more than `FACTOR`, and by what can be told apart."""
    n_known: int
    """Samples with both distortions."""
    are_apart: bool
    """Whether their mean difference is more than what can be told apart."""
    iterations: float
    most: float
    gap: float

    @property
    def has_draws(self) -> bool:
        """Whether there is a distortion by Monte Carlo."""
        return self.n_known > 0

    @property
    def is_off(self) -> bool:
        """Whether the two distortions differ by more than `FACTOR`, in the median or for most.

        Of few draws no sample's error may be small enough, but that of all samples together.
        """
        is_beyond = self.ratio > FACTOR or self.ratio < 1 / FACTOR
        return 2 * self.n_off > self.n_known or (is_beyond and self.are_apart)


def render(run: Run) -> str | None:
    """Return rates and distortions; None if no method has any."""
    names = dict.fromkeys(split_name(of_map)[0] for of_map in run.maps)
    found = {name: each for name in names if (each := _found(run, name))}
    if not found:
        return None
    rows = [row for name, each in found.items() for row in _rows(name, each)]
    lost = {name: int((~np.isfinite(each[DISTORTION])).sum()) for name, each in found.items()}
    return page.fragment(
        TEMPLATE,
        rows=rows,
        warnings=list(_warnings(run, rows)),
        lost=[(name, n_lost) for name, n_lost in lost.items() if n_lost],
        n=max(len(each[DISTORTION]) for each in found.values()),
        factor=FACTOR,
        n_errors=N_ERRORS,
        share=SHARE,
        missing="\N{EN DASH}",
        all_drawn=all(row.has_draws for row in rows),
        first_target=naming.first_of_several(run.plan),
    )


def _warnings(run: Run, rows: Sequence[Row]) -> Iterator[tuple[str, str, str]]:
    """Yield explainer, warning and advice for those of which a mask is off."""
    for name in dict.fromkeys(row.name for row in rows):
        of_name = [row for row in rows if row.name == name]
        off = [row for row in of_name if row.is_off]
        if off:
            yield name, _warning(off, len(of_name)), _advice(run.config.explainers.get(name, {}))


def _warning(off: Sequence[Row], n_masks: int) -> str:
    """Return what a reader should know where the two distortions differ."""
    worst = max(off, key=lambda row: abs(row.drawn - row.assumed))
    masks = f" for {len(off)} of {n_masks} masks" if n_masks > 1 else ""
    most = ", most" if len(off) > 1 else ""
    return (
        f"the distortion that was optimised and the one by Monte Carlo disagree{masks}{most} at "
        f"{worst.asked}: there draws give {number(worst.drawn)} in the median where "
        f"{number(worst.assumed)} was optimised, and {worst.n_off} of {worst.n_known} samples "
        f"({percent(worst.n_off / worst.n_known, 0)}) are off by more than {number(FACTOR, 1)} "
        "times."
    )


def _advice(values: Mapping[str, Any]) -> str:
    """Return what an entry of the run file can do about it."""
    if values.get("solver") == "monte_carlo" or values.get("density") == "sampled":
        return "Masks fit the draws that were optimised: with a larger n_draws the two are closer."
    half = "mode: half, or " if values.get("mode") == "diag" else ""
    return f"What optimises one that is closer to it: {half}density: sampled with a large n_draws."


def _found(run: Run, name: str) -> Found:
    """Return what was found for each sample and mask, ``(samples, masks)``; empty if it is none.

    Of the samples that were explained, for the first target. Where a sample has several masks
    these are arrays, else columns.
    """
    facts = arrays(run.samples(run.pass_of(name)))
    if f"{name}.{SELECTED}" not in facts:
        return {}
    good = facts[STATUS] == "" if STATUS in facts else np.ones(len(facts["index"]), bool)
    index = facts["index"][good].astype(np.int64)
    stored = set(run.arrays(name))
    found: dict[str, NDArray[np.float64]] = {}
    for column in COLUMNS:
        if f"{name}.{column}" in facts:
            found[column] = facts[f"{name}.{column}"][good].astype(np.float64)[:, None]
        elif column in stored:
            of_all = np.asarray(run.array(name, column).values, np.float64)
            of_target: Any = of_all[:, 0] if run.plan.has_target_dimension else of_all
            found[column] = of_target[index]
    return found if DISTORTION in found else {}


def _rows(name: str, found: Found) -> Iterator[Row]:
    n_masks = found[DISTORTION].shape[1]
    for mask in range(n_masks):
        of_mask = {
            column: values[:, mask if values.shape[1] > 1 else 0]
            for column, values in found.items()
        }
        yield _row(name, of_mask)


def _row(name: str, found: Found) -> Row:
    assumed, unknown = found[DISTORTION], np.full_like(found[DISTORTION], np.nan)
    drawn = found.get(DRAWN, unknown)
    with np.errstate(divide="ignore", invalid="ignore"):
        # two masks that keep everything agree
        ratio = np.where((drawn == 0) & (assumed == 0), 1.0, drawn / assumed)
        relative = {
            column: _quantile(found.get(column, unknown) / np.square(found[SELECTED]))
            for column in (START, DISTORTION, DRAWN, ERROR, "gap")
        }
    apart, share = drawn - assumed, SHARE * _compared(found)
    errors = N_ERRORS * np.nan_to_num(found.get(ERROR, np.zeros_like(apart)))
    off = ((ratio > FACTOR) | (ratio < 1 / FACTOR)) & (np.abs(apart) > np.fmax(share, errors))
    is_known = ~np.isnan(ratio)
    known = ratio[is_known]
    together = np.sqrt(_mean(np.square(errors[is_known])) / max(1, len(known)))
    steps = np.where(found["iterations"] < 0, np.nan, found["iterations"])
    return Row(
        name=name,
        asked=_asked(found),
        rate=_mean(found["rate"]),
        start=relative[START],
        assumed=relative[DISTORTION],
        drawn=relative[DRAWN],
        error=relative[ERROR],
        ratio=_ranked(known, 0.5),
        low=_ranked(known, 0.25),
        high=_ranked(known, 0.75),
        n_off=int(off.sum()),
        n_known=len(known),
        are_apart=abs(_mean(apart[is_known])) > max(_mean(share[is_known]), together),
        iterations=_mean(steps),
        most=_quantile(steps, 1.0),
        gap=relative["gap"],
    )


def _compared(found: Found) -> NDArray[np.float64]:
    """Return what a difference of the two distortions of each sample is compared with."""
    share = np.square(found[SELECTED])
    if "multiplier" not in found or OBJECTIVE not in found or DRAWN not in found:
        return share
    # rare losses may go unseen; those that are seen matter beside what the mask is charged for
    charged = found[OBJECTIVE] - found[DISTORTION]
    return np.where(found[DRAWN] > found[DISTORTION], charged, share)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _quantile(values: NDArray[np.float64], share: float = 0.5) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share)) if len(known) else float("nan")


def _ranked(ratios: NDArray[np.float64], share: float) -> float:
    """Return the ratio that has such a share up to it; some may be infinite."""
    return float(np.quantile(ratios, share, method="inverted_cdf")) if len(ratios) else float("nan")


def _asked(found: Found) -> str:
    """Return what a mask was asked for, in words."""
    for column, word in ASKED.items():
        asked = _mean(found[column]) if column in found else float("nan")
        if np.isfinite(asked):
            return f"{word} {percent(asked) if word == 'rate' else number(asked)}"
    return ""
