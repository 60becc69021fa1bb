"""One page, nothing beside it: what it says is what the run holds."""

from __future__ import annotations

import base64
import json
import re
import sys
from html.parser import HTMLParser
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

import explainers
from pipeline import aggregate, comparisons, paths, report
from pipeline.errors import IntegrityError
from pipeline.evaluate import evaluate
from pipeline.report import build, discover, formats, naming, pictures, sections
from pipeline.report.sections import classes, failures, gallery, overview, scores, statistics
from pipeline.sinks import results
from pipeline.sinks.stored_result import StoredResult
from pipeline.store import Run, open_run
from tests.pipeline.explained import FAILED, explained

if TYPE_CHECKING:
    from pathlib import Path

VOID = {"meta", "link", "img", "br", "wbr", "line"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = explained(tmp_path_factory.mktemp("report"))
    evaluate(run)
    return run


@pytest.fixture(scope="module")
def html(run: Run) -> str:
    return build(run.path).read_text()


class Checker(HTMLParser):
    """Counts what is open, and collects every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_well_formed_and_asks_for_nothing(html: str) -> None:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert all(address.startswith(("data:", "#")) for address in checker.addresses)
    assert not re.search(r"https?://|@import|url\((?!data:)|<script", html)


def test_every_section_is_there_in_order(html: str) -> None:
    anchors = re.findall(r'<section id="(\w+)">', html)
    assert anchors == [
        "overview",
        "scores",
        "curves",
        "sanity",
        "classes",
        "gallery",
        "outliers",
        "statistics",
        "failures",
        "provenance",
    ]


def test_what_a_user_named_is_escaped(html: str) -> None:
    assert "<b>bee</b>" not in html
    assert "&lt;b&gt;bee&lt;/b&gt;" in html
    assert "ant &amp; co" in html
    assert "&lt;i&gt;1 of 108 values are NaN" in html


def test_the_table_shades_the_best_by_direction(html: str, run: Run) -> None:
    part = html[html.index('id="scores"') : html.index('id="curves"')]
    rows: dict[str, list[str]] = {}
    for table in part.split("<tbody>")[1:]:
        for name, cells in re.findall(
            r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table, re.DOTALL
        ):
            rows.setdefault(name.replace("<wbr>", ""), []).extend(cells.split("<td")[1:])
    for column, metric in enumerate(aggregate.judged(run)):
        means = {
            row.explainer: row.mean
            for row in aggregate.headlines(run, metric)
            if row.group == "all"
        }
        best = (min if metric.direction == "lower" else max)(means, key=means.__getitem__)
        shaded = [name for name, cells in rows.items() if "best" in cells[column][:30]]
        assert shaded == [best]


def test_the_gallery_shows_inputs_maps_and_bars(html: str) -> None:
    part = html[html.index('id="gallery"') : html.index('id="outliers"')]
    assert part.count('<div class="sample ') == 10  # eleven samples, one of them failed
    assert part.count('class="bar signed"') == 10
    assert part.count('class="bar unsigned"') == 10
    assert part.count("<img") == 30


def test_the_gallery_says_which_maps_have_no_zero(
    run: Run, html: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "from their least value" not in html
    monkeypatch.setattr(explainers.methods.get("saliency"), "has_zero", False)
    monkeypatch.setattr(gallery, "choose", lambda facts, n: [0])
    assert "from their least value" in (gallery.render(run) or "")


def test_the_page_names_digests_seeds_and_failures(html: str, run: Run) -> None:
    for text in (run.plan.digest, run.plan.weights_digest, run.plan.manifest_digest, "000005"):
        assert text in html
    assert "worker hours" in html


def test_the_same_run_gives_the_same_page(run: Run, html: str, tmp_path: Path) -> None:
    assert build(run, tmp_path / "again.html").read_text() == html


@pytest.mark.slow
def test_a_run_without_scores_or_with_open_shards_has_a_page_too(tmp_path: Path) -> None:
    run = explained(tmp_path, done=(0,))
    html = build(run).read_text()
    assert 'id="scores"' not in html
    assert "Not done: shard 1 (samples" in re.sub(r"\s+", " ", html)
    for shard in range(1):
        run.ledger.withdraw("explain", shard)
    assert 'id="gallery"' not in build(open_run(run.path)).read_text()


def test_a_page_without_its_data_shows_the_maps(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    moved = open_run(run.path)
    moved.__dict__["config"] = run.config.model_copy(update={"base": tmp_path / "gone"})
    html = build(moved, tmp_path / "page.html").read_text()
    assert "inputs are missing" in html
    assert 'class="bar signed"' in html
    assert caplog.text.count("cannot be opened") == 1


def test_a_damaged_part_costs_its_own_sections_and_no_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(run: Run) -> None:
        raise IntegrityError("shard 0 of <scores> is torn", fix="evaluate again")

    monkeypatch.setattr(scores, "render", damaged)
    monkeypatch.setattr(comparisons, "of_run", damaged)
    monkeypatch.setattr(report, "discover", lambda: [overview, scores, failures])
    html = build(run, tmp_path / "page.html").read_text()
    assert html.count("shard 0 of &lt;scores&gt; is torn") == 2  # in its place, and in the list
    assert "to fix: evaluate again" in html
    assert 'id="overview"' in html
    said = json.loads((tmp_path / "page.json").read_text())
    assert said["scores"] is None
    assert "is torn" in said["damaged"]["scores"]
    assert said["run"]["digest"] == run.plan.digest
    assert "cannot be shown" in caplog.text
    monkeypatch.setattr(scores, "render", lambda run: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build(run, tmp_path / "page.html")


def test_a_page_elsewhere_finds_the_files_of_the_run() -> None:
    content = '<a href="atlas/index.html">x</a> <a href="#top">y</a> href=&#34;z'
    assert report._from("../a run", content) == (
        '<a href="../a%20run/atlas/index.html">x</a> <a href="#top">y</a> href=&#34;z'
    )


def test_a_new_section_is_one_new_module(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{sections.__name__}.weather"
    (tmp_path / "weather.py").write_text(
        'title = "Weather"\norder = 15\n\n\ndef render(run):\n    return "<p>fine</p>"\n'
    )
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    try:
        assert [section.title for section in discover()][:3] == ["Overview", "Weather", "Scores"]
        assert "<p>fine</p>" in build(run, tmp_path / "page.html").read_text()
    finally:
        sys.modules.pop(name, None)


def test_a_section_that_compares_is_given_earlier_runs(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = ModuleType("pipeline.report.sections.drift")
    seen: list[tuple[Run, ...]] = []

    def render_against(run: Run, previous: tuple[Run, ...]) -> str | None:
        seen.append(previous)
        return "<p>drift</p>" if previous else None

    vars(section).update(title="Drift", order=60, render_against=render_against)
    monkeypatch.setattr(report, "discover", lambda: [section])
    with_none = report.build(run, tmp_path / "page.html").read_text()
    with_one = report.build(run, tmp_path / "page.html", against=[run.path]).read_text()
    assert 'id="drift"' not in with_none
    assert "<p>drift</p>" in with_one
    assert seen[0] == ()
    assert [each.path for each in seen[1]] == [run.path]


def test_every_picture_says_what_it_shows_and_identifiers_are_unique(html: str) -> None:
    assert all(re.search(r'\balt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", html))
    svgs = re.findall(r"<svg[^>]*>", html)
    assert svgs
    assert all(re.search(r'role="img" aria-label(ledby)?="[^"]+"', tag) for tag in svgs)
    identifiers = re.findall(r'\sid="([^"]+)"', html)
    assert len(identifiers) == len(set(identifiers))
    for reference in re.findall(r'(?:aria-labelledby|href)="#?([\w -]+)"', html):
        assert set(reference.split()) <= set(identifiers)


def test_the_page_can_be_read_with_keys_alone_and_on_paper(html: str) -> None:
    body = html[html.index("<body>") :]
    assert body.index('href="#content"') < body.index("<nav")
    assert 'id="content" tabindex="-1"' in body
    for rule in (
        ":focus-visible",
        "@media print",
        "@media screen and (prefers-color-scheme: dark)",
    ):
        assert rule in html


def test_the_overview_says_what_became_of_gates(run: Run) -> None:
    gates = {
        "verdict": "failed",
        "gates": [
            {"status": "failed", "gate": "a.b.c <= 1", "message": "2 is more"},
            {"status": "passed", "gate": "a.b.d <= 1", "message": "0 is not"},
        ],
    }
    run.folder.write(paths.GATES, json.dumps(gates).encode())
    try:
        html = overview.render(run)
    finally:
        run.folder.remove(paths.GATES)
    assert '<span class="verdict fails">failed</span>' in html
    assert "a.b.c &lt;= 1</code> 2 is more" in html
    assert "a.b.d" not in html


def test_samples_are_spread_over_classes_and_a_quarter_is_misclassified() -> None:
    labels = [0] * 50 + [1] * 30 + [2] * 20
    prediction = list(labels)
    for wrong in (3, 55, 56, 90):
        prediction[wrong] = (labels[wrong] + 1) % 3
    facts = {"label": labels, "prediction": prediction, "status": ["bad"] + [""] * 99}
    chosen = gallery.choose(facts, 12)
    assert [labels[row] for row in chosen[:9]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert chosen[9:] == [3, 55, 90]
    assert 0 not in chosen
    assert gallery.choose(facts, 0) == []


def decoded(picture: pictures.Picture) -> np.ndarray:
    content = base64.b64decode(picture.uri.split(",", 1)[1])
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def test_signed_maps_are_symmetric_about_zero_and_white_there() -> None:
    values = np.zeros((4, 4))
    values[0, 0], values[3, 3] = 2.0, -1.0
    heat = pictures.heat_map(values, 64, is_signed=True)
    assert heat is not None
    assert heat.low == -heat.high
    pixels = decoded(heat.picture).astype(int)
    assert pixels[1, 1].min() > 240
    assert pixels[0, 0, 0] > pixels[0, 0, 2]  # red for
    assert pixels[3, 3, 2] > pixels[3, 3, 0]  # blue against


def test_maps_without_a_zero_are_shown_from_their_least_to_their_greatest_value() -> None:
    values = np.linspace(0.964, 0.982, 16).reshape(4, 4)
    heat = pictures.heat_map(values, 64, is_signed=False, has_zero=False)
    assert heat is not None
    assert heat.low == values.min()
    pixels = decoded(heat.picture).astype(int)
    assert pixels[0, 0].max() < 10
    assert pixels[3, 3].min() > 180
    assert "1.8001" in pictures.bar(1.8001, 1.8004, "unsigned")


def test_maps_of_zeros_have_a_picture_and_maps_of_nan_have_none() -> None:
    assert pictures.heat_map(np.zeros((3, 4, 4)), 64, is_signed=True) is not None
    assert pictures.heat_map(np.full((4, 4), np.nan), 64, is_signed=True) is None


def test_large_pictures_are_averaged_down() -> None:
    heat = pictures.heat_map(np.random.default_rng(0).random((3, 300, 200)), 50, is_signed=False)
    assert heat is not None
    assert (heat.picture.width, heat.picture.height) == (33, 50)
    assert np.allclose(pictures.shrink(np.ones((300, 200)), 50), 1.0)


@pytest.mark.slow
def test_24_photographs_under_five_explainers_stay_below_10_megabytes() -> None:
    generator = np.random.default_rng(0)
    side = gallery._side(24 * 6)
    n_bytes = 0
    for _ in range(24):
        photograph = pictures.photograph(generator.random((3, 224, 224)), side)
        assert photograph is not None
        n_bytes += len(photograph.uri)
        for _ in range(5):
            heat = pictures.heat_map(generator.normal(size=(3, 224, 224)), side, is_signed=True)
            assert heat is not None
            n_bytes += len(heat.picture.uri)
    assert n_bytes < 9e6  # noise: the worst case for compression


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (0.0, "0"),
        (12345.6, "12\N{NARROW NO-BREAK SPACE}346"),
        (-0.5, "\N{MINUS SIGN}0.500"),
        (1.5e-7, "1.50e-7"),
        (float("nan"), formats.MISSING),
        (float("inf"), "\N{INFINITY}"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert formats.number(value) == text


def test_a_mean_has_the_digits_that_its_interval_leaves() -> None:
    assert formats.interval(0.123456, 0.0234) == ("0.123", "0.023")
    assert formats.interval(12.3456, 1.7) == ("12.3", "1.7")
    assert formats.interval(float("nan"), 1.0) == (formats.MISSING, "")


def test_sections_are_modules_with_a_title_and_an_order() -> None:
    found = discover()
    assert all(isinstance(section, ModuleType) for section in found)
    assert [section.order for section in found] == sorted(section.order for section in found)


def test_the_failed_sample_is_not_in_the_gallery(html: str) -> None:
    part = html[html.index('id="gallery"') : html.index('id="outliers"')]
    assert f"{FAILED:06d}" not in part


@pytest.mark.slow
def test_with_many_explainers_each_has_a_row_of_classes(tmp_path: Path) -> None:
    entries = {f"g{n}": {"method": "gradient"} for n in range(classes.MANY + 1)}
    run = explained(tmp_path, explainers=entries, metrics={"sparseness": {}})
    evaluate(run)
    table = (classes.render(run) or "").split("<tbody>")
    assert len(table) == 2
    assert re.findall(r'<tr><th scope="row">(\w+)</th>', table[1]) == list(entries)
    assert re.sub(r"\s+", " ", table[0]).count("<small>") == 3  # classes, with their counts


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("predicted", "the predicted class"),
        (7, "class 7"),
        ({"layer": "conv2", "unit": 3}, "unit 3 of conv2"),
        ({"layer": "conv2", "unit": [0, 1]}, "unit (0, 1) of conv2"),
        ({"weights": [1.0, 0.0]}, "weighted outputs"),
    ],
)
def test_targets_are_said_in_words(spec: object, words: str) -> None:
    assert naming.target_in_words(spec) == words


def test_what_rounds_to_nothing_has_no_sign() -> None:
    assert formats.percent(-1e-9) == "0.0 %"
    assert formats.number(-0.0) == "0"


def test_statistics_read_what_has_the_form_of_an_input_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classes = {label: {"mean": np.zeros((3, 6, 6))} for label in range(4)}
    result = {
        "mean": np.ones((3, 6, 6)),
        "factor": np.ones((30, 3, 6, 6)),
        "layer": {"heatmap": np.zeros((2, 3, 3, 6, 6)), "per_class": classes, "n": 4},
    }
    results.write(tmp_path, "relmax", result)
    stored = results.stored(tmp_path, "relmax")
    read: list[tuple[int, ...]] = []
    part = StoredResult.part

    def noted(self: StoredResult, key: Any, index: Any) -> Any:
        read.append(part(self, key, index).shape)
        return part(self, key, index)

    monkeypatch.setattr(StoredResult, "part", noted)
    found = list(statistics._arrays(stored, (3, 6, 6), str))
    assert [caption for caption, _, _ in found[:2]] == ["mean", "eigen-image 1"]
    assert len(found) == 1 + statistics.N_LEADING
    assert read == [(3, 6, 6), (statistics.N_LEADING, 3, 6, 6)]
