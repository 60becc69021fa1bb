"""Charts: what is drawn is what was given, in the colours of the page, the same each time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline.agreement import Ranking
from pipeline.metrics import Curve
from pipeline.report import charts, curve_plots, figures, rank_diagram
from pipeline.statistics import Friedman

X = np.linspace(0, 1, 5)


def series(n: int) -> list[charts.Series]:
    return [charts.Series(f"<{k}>", X, X - 0.1, X + 0.1, k) for k in range(n)]


@pytest.fixture(scope="module")
def chart() -> str:
    control = charts.Series("control", 1 - X, 1 - X, 1 - X, charts.CONTROL)
    return charts.lines(X, [*series(2), control], "share", "probability", title="what & how")


def points(path: str) -> np.ndarray:
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float)


def test_a_chart_draws_each_series_with_its_band(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    lines = [each for each in root.iter("g") if each.get("class", "").startswith("line")]
    assert [each.findtext("title") for each in lines] == ["<0>", "<1>", "control"]
    assert chart.count('class="band"') == 3
    drawn = points(lines[0].findall("path")[0].attrib["d"])
    # the same steps from point to point in both directions, up on the page being less
    assert np.allclose(np.diff(drawn[:, 0]), np.diff(drawn[:, 0])[0], atol=0.02)
    assert (np.diff(drawn[:, 1]) < 0).all()


def test_a_chart_takes_the_colours_of_the_page_and_asks_for_nothing(chart: str) -> None:
    assert {f"var(--{each})" for each in ("c0", "c1", "ink", "soft", "rule")} <= set(
        re.findall(r"var\(--[\w-]+\)", chart)
    )
    assert not re.search(r"#[0-9a-f]{6}\b|https?:|<style|font-family|xmlns", chart)
    assert "share" in re.findall(r"<text[^>]*>([^<]*)</text>", chart)


def test_who_does_not_see_a_chart_is_told_what_it_shows(chart: str) -> None:
    root = ElementTree.fromstring(chart)
    assert root.get("role") == "img"
    named = {each.get("id"): each.text for each in root}
    told = [named[identifier] for identifier in root.attrib["aria-labelledby"].split()]
    assert told[0] == "what & how"
    assert (
        told[1] == "share from 0 to 1.00: <0> from 0 to 1.00; <1> from 0 to 1.00; control from "
        "1.00 to 0."
    )


def test_the_same_chart_has_the_same_bytes_and_others_have_other_identifiers(chart: str) -> None:
    first, again = (charts.lines(X, series(1), "a", "b") for _ in range(2))
    assert first == again
    assert not set(re.findall(r' id="([^"]+)"', chart)) & set(re.findall(r' id="([^"]+)"', first))


def test_ticks_are_not_beside_the_chart() -> None:
    x = np.array([0.01, 0.02, 0.05, 0.1])
    ticks = charts._texts(charts._within(charts._ticks(0.01, 0.1), x))
    assert ticks == ["0.02", "0.04", "0.06", "0.08", "0.10"]
    assert "0.25" in charts._texts(charts._ticks(0.0, 1.1))


def test_the_axis_ends_where_lines_do() -> None:
    below = charts.Series("a", X, X - 0.02, X + 0.02, 0)
    root = ElementTree.fromstring(charts.lines(X, [below], "share", "probability"))
    texts = {each.text for each in root.iter("text")}
    assert {"0.00", "1.00"} <= texts
    assert not {"1.25", "\N{MINUS SIGN}0.25"} & texts


def test_of_many_lines_the_best_the_worst_and_controls_have_bands() -> None:
    def row(k: int) -> curve_plots.Row:
        return curve_plots.Row(f"<{k}>", k, float(k))

    many = [curve_plots.Line(each, row(each.colour)) for each in series(charts.N_COLOURS + 2)]
    curve = Curve("curve", tuple(X), "share", "probability", "auc", "lower")
    plot = curve_plots.Plot("metric", curve, tuple(many), ("<3>",))
    assert plot.chart.count('class="band"') == 3
    few = curve_plots.Plot("metric", curve, tuple(many[:-2]))
    assert few.chart.count('class="band"') == charts.N_COLOURS


def test_many_lines_are_told_apart_by_dashes() -> None:
    many = series(charts.N_COLOURS + 1)
    assert len({charts.look(line.colour) for line in many}) == len(many)
    assert len({str(charts._pen(line.colour)) for line in many}) == len(many)


def test_a_series_without_an_interval_has_no_band_and_a_single_step_has_a_chart() -> None:
    unknown = charts.Series("a", X[:1], X[:1] * np.nan, X[:1] * np.nan, 0)
    chart = charts.lines(X[:1], [unknown], "share", "probability")
    assert "band" not in chart


def test_a_histogram_has_the_share_of_values_in_each_bin() -> None:
    values = {"low": np.array([0.0, 1e-4, 2e-4, 1e-3]), "high": np.array([0.5])}
    chart = charts.histogram(
        values, {"low": 0, "high": 1}, "residual", "spread", is_logarithmic=True, n_bins=4
    )
    root = ElementTree.fromstring(chart)
    assert root[0].text == "spread"
    assert root[1].text == "Medians: low 1.50e-4; high 0.500."
    lines = [each for each in root.iter("g") if each.get("class", "").startswith("line")]
    heights = {
        each.findtext("title"): len({y for _, y in points(each.findall("path")[0].attrib["d"])})
        for each in lines
    }
    # from 1e-4 to 1 a bin is a power of ten: three of four, one of four, none; all, none
    assert heights == {"low": 3, "high": 2}
    assert charts._edges(np.array([0.0]), 4, is_logarithmic=True)[-1] == 1.0


def test_what_is_named_with_markup_is_escaped() -> None:
    with figures.style():
        figure, axes = figures.figure(100, 80)
        (line,) = axes.plot([0, 1], [0, 1], color=figures.ACCENT)
        figures.name(line, "<script>: a", "line")
        axes.set_xlabel("$x_1$ & more")
        drawn = figures.markup(figure, "<b>")
    assert "<title>&lt;script&gt;: a</title>" in drawn
    assert "$x_1$ &amp; more" in drawn
    assert "&lt;b&gt;</title>" in drawn
    assert "var(--accent)" in drawn


def test_long_names_take_nothing_from_the_line_and_ticks_keep_their_distance() -> None:
    names = tuple(f"agglomerative_contextual_decomposition_{n}" for n in range(18))
    ranks = tuple(1.0 + n for n in range(18))
    drawn = rank_diagram.draw(
        Ranking("", "classes", names, Friedman(10, 18, ranks, 9.0, 0.01, 4.0, 1.0)), "r"
    )
    root = ElementTree.fromstring(drawn)
    width = float(root.attrib["viewBox"].split()[2])
    points = [
        (float(x), each.text)
        for each in root.iter("text")
        if (each.text or "").isdigit()
        for x in re.findall(r"(?:translate\(|x=\")(-?[\d.]+)", ElementTree.tostring(each).decode())[
            :1
        ]
    ]
    places = sorted(x for x, _ in points)
    assert places[-1] - places[0] > 0.3 * width
    assert min(np.diff(places)) >= 26
