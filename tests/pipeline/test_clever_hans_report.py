"""The Clever Hans section of the report, of analyses that were made up."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.report import cluster_words, naming
from pipeline.report.sections import clever_hans, gallery
from pipeline.spray.result import CLEVER_HANS, GLOBAL, Analysis, Cluster, Counterfactual, View

CELLS = (4, 4)
BAD = Counterfactual(
    n_inside=90,
    n_outside=80,
    n_pasted=200,
    confidence_inside=0.99,
    confidence_outside=0.95,
    erase_drop_inside=0.88,
    erase_drop_outside=0.01,
    erase_lost_inside=0.9,
    erase_lost_outside=0.0,
    paste_gain=0.97,
    flip_rate=0.985,
    flip_low=0.957,
    flip_high=0.995,
    control_gain=0.0,
    control_rate=0.005,
    control_high=0.028,
)
GOOD = replace(BAD, flip_rate=0.12, flip_low=0.08, flip_high=0.17)


def cluster(label: int, size: int, share: float, outcome: Counterfactual | None) -> Cluster:
    mean = np.full(CELLS, 0.01, np.float32)
    mean[0, 3 * label % 4] = 0.5
    return Cluster(
        label=label,
        size=size,
        share=share,
        medoids=(3 * label, 3 * label + 1),
        mean=mean,
        contrast=mean,
        hot=mean > 0.1,
        sparseness=0.5,
        location=(0.1, 0.9),
        purity=1.0,
        verdict=CLEVER_HANS if outcome is BAD else "cluster",
        counterfactual=outcome,
    )


def view(target: int, outcomes: list[Counterfactual | None], tau: float) -> View:
    n = 10 * len(outcomes)
    values = np.linspace(0, 0.3, 6) ** (2 if tau > 1 else 1)
    return View(
        name=f"class:{target}" if target >= 0 else GLOBAL,
        target=target,
        n=n,
        samples=np.arange(n),
        labels=np.repeat(np.arange(len(outcomes)), 10),
        embedding=np.zeros((n, 6), np.float32),
        eigenvalues=values,
        n_zero=int(tau > 1),
        gap=0.1,
        tau=tau,
        clusters=tuple(
            cluster(k, 10, 1 / len(outcomes), outcome) for k, outcome in enumerate(outcomes)
        ),
    )


def analysis(*views: View, **fields: Any) -> Analysis:
    return Analysis({each.name: each for each in views}, CELLS, 100, 0, **fields)


def name(target: int) -> str:
    return ["ant & co", "<b>bee</b>", "7"][target] if target < 3 else f"class {target}"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what draws the section of analyses by explainer."""
    monkeypatch.setattr(naming, "class_names", lambda run: name)
    monkeypatch.setattr(gallery, "has_zero_of", lambda run, explainer: True)
    ramp = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8)
    # one input cannot be read, and the map of one sample is not there
    monkeypatch.setattr(
        gallery,
        "inputs_of",
        lambda run, rows: {k: abs(ramp) for k, row in enumerate(rows) if row != 1},
    )
    monkeypatch.setattr(
        gallery,
        "maps_of",
        lambda run, explainer, rows: [ramp * (np.nan if row == 3 else 1) for row in rows],
    )

    def draw(**analyses: Analysis) -> str:
        def rows(start: int, stop: int) -> list[Any]:
            return [SimpleNamespace(sample_id=f"sample <{row}>") for row in range(start, stop)]

        run: Any = SimpleNamespace(
            spray=analyses,
            maps=dict.fromkeys(analyses),
            manifest=SimpleNamespace(slice=rows),
            plan=SimpleNamespace(targets=["predicted"]),
        )
        return clever_hans.render(run) or ""

    return draw


def plain(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html).split())


def test_without_an_analysis_there_is_no_section(drawn: Any) -> None:
    assert drawn() == ""


def test_the_verdict_comes_first_and_says_by_what_one_knows(drawn: Any) -> None:
    alarm = analysis(view(0, [GOOD, GOOD], 0.1), view(2, [GOOD, BAD], 1.1))
    calm = analysis(view(0, [GOOD, GOOD], 0.1), view(2, [GOOD, GOOD], 0.2))
    text = plain(drawn(lrp=alarm, gradient=calm))
    assert text.startswith(
        "lrp Clever Hans 50.0 % of the maps of class 7 (cluster 1) rest on a region at the upper "
        "right. Put on samples of other classes, this region alone makes the network call 98.5 % "
        "of 200 (95 % interval 95.7 % to 99.5 %; control 0.5 %) class 7."
    )
    assert (
        "gradient none found Of 4 clusters of 2 classes that were checked, none carries other "
        "samples over by its region alone. The most is 12.0 % of 200"
    ) in text


def test_a_cluster_is_told_with_its_pictures_and_what_its_check_found(drawn: Any) -> None:
    html = drawn(lrp=analysis(view(1, [GOOD, BAD], 1.1)))
    text = plain(html)
    assert "falls from 99.0 % to 11.0 %, and 90.0 % are no longer called" in text
    assert "Erased in 80 others of the class it goes from 95.0 % to 94.0 %, and 0.0 %" in text
    assert "as a control, turns 0.5 % (at most 2.8 %)" in text
    # what was confirmed comes before the rest
    assert text.index("cluster 1 :") < text.index("cluster 0 :")
    # mean map and hot region of two clusters, inputs and maps of four medoids, one each missing
    assert html.count("<img") == 4 + 8 - 2
    assert len(re.findall(r'<img[^>]* alt="[^"]+"', html)) == html.count("<img")
    assert html.count("no picture") == 2
    assert 'role="img"' in html
    assert "<b>bee</b>" not in html
    assert "&lt;b&gt;bee&lt;/b&gt;" in html
    assert "sample &lt;4&gt;" in html


def test_what_was_not_checked_is_not_known(drawn: Any) -> None:
    few = analysis(skipped={0: 3}, parameters={"min_samples": 50})
    text = plain(drawn(lrp=analysis(view(0, [None, None], 0.1)), ig=few))
    assert "lrp not known No cluster was checked" in text
    assert "ig not known No class has enough maps" in text
    said = "No class was analysed, as all have fewer than 50 maps (min_samples): ant &amp; co (3)."
    assert said in text
    erased = replace(BAD, n_pasted=0, flip_rate=float("nan"))
    text = plain(drawn(lrp=analysis(view(0, [erased, erased], 0.1))))
    assert "not known Regions were erased, but every sample" in text
    unasked = replace(BAD, n_inside=0, n_outside=0, n_pasted=0, flip_rate=float("nan"))
    assert not cluster_words.is_checked(cluster(0, 9, 1.0, unasked))
    assert "Not checked" in " ".join(cluster_words.checks(cluster(0, 9, 1.0, unasked), "ant"))


def test_a_thousand_classes_stay_a_page(drawn: Any) -> None:
    views = [view(target, [GOOD, BAD if target % 50 == 0 else GOOD], 0.1) for target in range(1000)]
    html = drawn(lrp=analysis(*views, view(-1, [None, None], 0.1)))
    assert len(html) < 300_000
    assert html.count("<details") == clever_hans.MOST_CLASSES
    assert html.count("<tr>") == 1 + clever_hans.N_ROWS
    text = plain(html)
    assert "980 more classes have less evidence." in text
    assert "996 more: median, least to greatest" in text
    assert "And 17 more clusters are alike in this." in text


def test_places_are_said_as_people_do() -> None:
    def said(*location: float) -> str:
        return cluster_words.place(replace(cluster(0, 1, 1.0, None), location=location))

    assert said(0.5, 0.5) == "in the middle"
    assert said(1.0, 0.5) == "at the lower centre"
    assert said(0.9) == "at the end"
    assert said(float("nan")) == "that is nowhere"
