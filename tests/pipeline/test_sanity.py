"""What passes for sane and what does not, on scores whose verdicts are known."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import aggregate, comparisons
from pipeline.aggregate import Judged
from pipeline.report import checks
from pipeline.report.sections import sanity
from tests.pipeline.test_report import Checker

NAN = float("nan")
N = 20
NOISE = np.random.default_rng(0).normal(0, 0.01, N)
SPACES = {"mprt": "average", "efficient_mprt": "rise", "completeness": "relative_residual"}
SCORES: dict[tuple[str, str], Any] = {
    ("mprt", "lrp"): 0.2 + NOISE,
    ("mprt", "stubborn"): 0.7 + NOISE,
    ("mprt", "edges"): np.ones(N),
    ("mprt", "broken"): np.full(N, NAN),
    ("efficient_mprt", "lrp"): 0.1 + NOISE,
    ("efficient_mprt", "stubborn"): -0.1 + NOISE,
    ("efficient_mprt", "edges"): np.r_[NOISE[:10], -NOISE[:10]],
    ("completeness", "lrp"): np.r_[np.zeros(15), np.ones(4), NAN],
    ("completeness", "stubborn"): np.full(N, 0.05),
    ("completeness", "edges"): 100 + NOISE,
    ("flipping", "lrp"): 0.1 + NOISE,
    ("flipping", "stubborn"): 0.5 + NOISE,
    ("flipping", "edges"): 0.5 - NOISE,
    ("sparseness", "lrp"): 0.5 + NOISE,
    ("sparseness", "edges"): 0.9 + NOISE,
}
METHODS = {"lrp": "lrp", "stubborn": "gradient", "edges": "sobel", "broken": "saliency"}


def judged(name: str) -> Judged:
    method = {"flipping": "pixel_flipping"}.get(name, name)
    return Judged(
        name=name,
        method=method,
        parameters={},
        direction="higher" if name in ("efficient_mprt", "sparseness") else "lower",
        space="none",
        headline=SPACES.get(name, "score"),
        explainers=tuple(explainer for metric, explainer in SCORES if metric == name),
        digest="",
    )


def scores(metric: str, explainer: str) -> dict[str, Any]:
    return {judged(metric).headline: SCORES[metric, explainer]}


def compared(metric: Judged) -> comparisons.Compared:
    own = {name: SCORES[metric.name, name] for name in metric.explainers}
    return comparisons.compare(metric, own, {aggregate.ALL: np.arange(N)}, ("edges",))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    names = list(dict.fromkeys(metric for metric, _ in SCORES))
    monkeypatch.setattr(aggregate, "judged", lambda run: [judged(name) for name in names])
    monkeypatch.setattr(
        comparisons, "of_run", lambda run: [compared(each) for each in aggregate.judged(run)]
    )
    entries = {name: {"method": method} for name, method in METHODS.items()}
    return SimpleNamespace(
        maps=dict.fromkeys(METHODS),
        config=SimpleNamespace(explainers=entries),
        plan=SimpleNamespace(form={}),
        scores=scores,
    )


@pytest.mark.parametrize(
    ("metric", "verdicts"),
    [
        ("mprt", ["passes", "doubtful", "fails", "unknown"]),
        ("efficient_mprt", ["passes", "fails", "doubtful"]),
        ("completeness", ["passes", "doubtful", "fails"]),
    ],
)
def test_each_explainer_has_the_verdict_that_its_scores_deserve(
    run: Any, metric: str, verdicts: list[str]
) -> None:
    assert [check.verdict for check in checks.checks(run, judged(metric))] == verdicts


def test_completeness_is_judged_by_the_median_and_says_how_often_it_holds(run: Any) -> None:
    check = checks.checks(run, judged("completeness"))[0]
    assert (check.n, check.middle) == (19, 0.0)
    assert check.share == "adds up at 79 %"


def test_who_beats_the_controls_is_told_by_pairs(run: Any) -> None:
    contest = checks.contest(compared(judged("flipping")))
    assert contest is not None
    assert contest.beating == ("lrp",)
    assert contest.others == (("stubborn", "edges"),)
    assert contest.controls == ("edges",)


def test_the_section_says_in_words_what_passes_and_what_fails(run: Any) -> None:
    html = sanity.render(run) or ""
    said = re.findall(r"<li>(.*?)</li>", html)
    assert said[:5] == [
        "mprt: lrp passes (maps become others); stubborn is doubtful (maps keep much of what they "
        "were); broken has no score.",
        "efficient_mprt: lrp passes (maps become others); stubborn fails (maps do not become more "
        "disordered).",
        "completeness: lrp passes (maps add up); stubborn is doubtful (maps nearly add up).",
        "flipping: lrp beats edges; stubborn does not beat edges.",
        "sparseness: no explainer beats edges; here, it cannot tell an explanation from a map that "
        "knows no network.",
    ]
    assert html.count('<span class="pill">control</span>') == 1
    assert 'role="img"' in html
    checker = Checker()
    checker.feed(html)
    assert checker.open == []


def test_who_fails_alike_is_named_in_one_sentence() -> None:
    contest = checks.Contest("road", ("a",), (("b", "s"), ("c", "s"), ("d", "r")), ("r", "s"))
    assert sanity._in_words(contest) == (
        "road: a beats r and s; b, c do not beat s; d does not beat r."
    )
    none = [checks.Contest(name, (), (), ("s",)) for name in ("x", "y")]
    assert sanity._unbeaten(none) == [
        "x, y: no explainer beats s; here, they cannot tell an explanation from a map that knows "
        "no network."
    ]


def test_what_was_not_checked_is_said(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "judged", lambda run: [judged("flipping")])
    del run.maps["edges"]
    html = re.sub(r"\s+", " ", sanity.render(run) or "")
    for text in ("add mprt and random_logit", "add completeness", "add random and sobel"):
        assert text in html
    monkeypatch.setattr(aggregate, "judged", lambda run: [])
    assert sanity.render(run) is None
