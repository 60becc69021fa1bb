"""The report's pictures and sentences of hierarchies, on trees that are known."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.data import open_source
from pipeline.data.python import Python
from pipeline.report import build, outlines, pictures, sentences, trees
from pipeline.report.sections import gallery, hierarchies
from tests.pipeline.hierarchy_run import GROWN, NODES, make_run
from tests.pipeline.test_report import Checker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.store import Run

WORDS = ("a", "<film>", "that", "is", "not", "bad")
MINUS = "\N{MINUS SIGN}"
CELLS = (3, 3)
PIXELS = (5, 6)
"""Cells of two pixels; those of the last row are one high."""


@pytest.fixture(scope="module")
def picture_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("pictures")
    return make_run(folder, PIXELS, CELLS, names=("acd", "build_up"), sweep=2)


@pytest.fixture(scope="module")
def html(picture_run: Run) -> str:
    return hierarchies.render(picture_run) or ""


@pytest.fixture(scope="module")
def words_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("words"), (6,), (6,), subtract=False)


def tables_of(html: str) -> list[list[tuple[str, list[tuple[int, str]]]]]:
    """Each table as its lines: their name, and span and text of each cell."""
    return [
        [
            (
                re.findall('<th scope="row">(.*?)</th>', line)[0],
                [
                    (int(span or 1), " ".join(unescape(re.sub("<[^>]*>", " ", text)).split()))
                    for span, text in re.findall(
                        r'<td(?: colspan="(\d+)")?[^>]*>(.*?)</td>', line, re.DOTALL
                    )
                ],
            )
            for line in re.findall("<tr>(.*?)</tr>", table, re.DOTALL)
        ]
        for table in re.findall(r'<table class="words">(.*?)</table>', html, re.DOTALL)
    ]


def test_what_is_whole_at_a_level_is_what_the_components_say(picture_run: Run) -> None:
    first, second = trees.read(picture_run, [0, 2])
    assert (first.name, second.name) == ("acd", "build_up")
    assert (first.grid, first.size, first.side) == (CELLS, PIXELS, 2)
    assert first.trees.keys() == {0, 2}
    tree = first.trees[2]
    for level, cells in enumerate(GROWN):
        owner = {cell: node.number for node in tree.whole(level) for cell in node.members}
        assert owner == cells
    # node 2, which speaks against the first class
    assert tree.limit == 2.0


@pytest.mark.parametrize(
    ("classes", "scores", "value"),
    [
        ("all", [1.0, 2.0], 2.0),
        ("target", [3.0], 3.0),
        ([1], [4.0], 4.0),
        ([2, 1], [5.0, 6.0], 6.0),
    ],
)
def test_the_value_is_the_score_of_the_target(
    classes: Any, scores: list[float], value: float
) -> None:
    row = {"node": 0, "parent": -1, "level": 0, "members": [0], "scores": scores}
    assert trees.node_of(row, classes, target=1, is_difference=False).value == value
    # a unit of a layer, say, is no class
    elsewhere = trees.node_of(row, classes, target=-1, is_difference=False).value
    assert np.isnan(elsewhere) == (classes != "target")
    alone = trees.node_of({**row, "scores": [7.0]}, "all", target=-1, is_difference=True)
    assert alone.value == 7.0


def test_two_classes_are_subtracted_where_growth_was_driven_by_the_difference() -> None:
    found = trees.node_of(NODES[0], "all", target=1, is_difference=True)
    assert found.value == -2.0
    assert found.scores == {0: 1.0, 1: -1.0}


def test_a_picture_is_there_once_and_drawn_over_at_each_level(html: str) -> None:
    assert html.count("<image ") == 3
    # all levels, level 0, level 1, root; of three samples and two explainers
    captions = re.findall("<figcaption>([^&]*?)</figcaption>", html)
    assert captions == ["all levels", "level 0", "level 1", "root"] * 6
    assert html.count('<use href="#sample1"/>') == 8
    assert html.count('class="area"') == (2 + 2 + 1) * 6


def test_areas_say_their_scores_and_those_of_misclassified_the_true_class(html: str) -> None:
    first, second, _ = html.split("<article")[1:]
    chips = re.findall(r"color:#\w+\">([^<]*)</span>", first)
    assert [chip.split() for chip in chips[:5]] == [
        ["1.0"],
        [f"{MINUS}2.0"],
        ["2.0"],
        [f"{MINUS}2.0"],
        ["1.2"],
    ]
    assert f"2.0 / {MINUS}1.5" in second
    said = unescape(re.findall("<title>(.*?)</title>", first, re.DOTALL)[2])
    assert said == f"node 3, from level 1 on: 2 cells\ncat & co: 2.00\ndog: {MINUS}1.50"


def test_misclassified_samples_can_be_filtered_without_scripts(html: str) -> None:
    assert re.findall('<article class="(.*?)"', html) == ["right", "wrong", "right"]
    assert "&lt;second&gt;" in html
    assert "predicted <b>cat &amp; co</b>" in html


def test_the_page_with_hierarchies_is_well_formed(picture_run: Run, tmp_path: Path) -> None:
    html = build(picture_run, tmp_path / "page.html").read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert all(address.startswith(("data:", "#")) for address in checker.addresses)
    assert "only misclassified samples" in html
    names = re.findall(r' id="(.*?)"', html)
    assert len(names) == len(set(names))
    assert "<script" not in html


def test_a_sentence_is_a_line_for_each_level_with_the_root_on_top(
    words_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Python, "tokens", lambda *_: WORDS)
    tables = tables_of(hierarchies.render(words_run) or "")
    assert len(tables) == 3
    assert tables[0] == [
        # the score is there once, of however many pieces
        ("root", [(1, "a"), (2, "<film> that 1.2"), (1, "is"), (1, "not"), (1, "bad")]),
        (
            "level 1",
            [
                (1, "a"),
                (2, "<film> that 2.0"),
                (1, "is"),
                (1, "not"),
                (1, f"bad {MINUS}2.0"),
            ],
        ),
        (
            "level 0",
            [
                (1, "a"),
                (1, "<film> 1.0"),
                (1, "that"),
                (1, "is"),
                (1, "not"),
                (1, f"bad {MINUS}2.0"),
            ],
        ),
        (
            "words",
            [
                (1, "a"),
                (1, "<film> 1.0"),
                (1, "that 0.50"),
                (1, "is"),
                (1, "not"),
                (1, f"bad {MINUS}2.0"),
            ],
        ),
    ]


def test_a_level_that_shows_what_the_words_show_is_left_out() -> None:
    nodes = [NODES[0], {**NODES[1], "level": 0}, NODES[2], *NODES[3:]]
    tree = trees.Tree(
        tuple(trees.node_of(node, "all", target=0, is_difference=False) for node in nodes)
    )
    assert [line.name for line in sentences.lines(tree, WORDS, str)] == ["root", "level 1", "words"]


def test_without_words_there_are_tokens_and_of_long_texts_the_first(
    words_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hierarchies, "MOST_WORDS", 4)
    html = hierarchies.render(words_run) or ""
    source = open_source(words_run.config.data, words_run.config.base)
    tokens = source.load(words_run.manifest.slice(1, 2)[0])
    assert isinstance(tokens, torch.Tensor)
    name, cells = tables_of(html)[1][-1]
    assert name == "words"
    assert [text.split()[0] for _, text in cells] == [str(each) for each in tokens[:4].tolist()]
    assert "The first 4 words; 2 more" in " ".join(html.split())


def test_outlines_go_along_the_border_and_end_with_the_picture() -> None:
    grid = outlines.Grid(3, 3, *PIXELS, step_down=2, step_across=2)
    drawn = outlines.nested([[tree_node((4, 7, 8))]], grid, 1.0, None)
    (way,) = set(re.findall(r' d="(.*?)"', drawn))
    pieces = set(re.findall("M[^M]*", way))
    assert pieces == {"M2 2H4", "M4 4H6", "M2 5H6", "M2 2V5", "M4 2V4", "M6 4V5"}
    filled = outlines.areas([tree_node((4, 7, 8))], grid, 1.0, str, None)
    assert re.findall('class="area" d="(.*?)"', filled) == ["M2 2H4V4H2zM2 4H6V5H2z"]


def tree_node(members: tuple[int, ...]) -> trees.Node:
    return trees.Node(0, -1, 0, members, {0: 1.0}, 1.0)


def test_colours_are_signed_and_what_has_no_score_is_grey() -> None:
    red, blue, pale = (pictures.colour(value, 1.0) for value in (1.0, -1.0, 0.0))
    assert (red.ink, blue.ink, pale.ink) == ("#ffffff", "#ffffff", "#1d1f23")
    assert int(red.ground[1:3], 16) > int(red.ground[5:], 16)
    assert int(blue.ground[1:3], 16) < int(blue.ground[5:], 16)
    for value, limit in ((float("nan"), 1.0), (0.0, 0.0)):
        assert pictures.colour(value, limit).ground == pictures.NO_VALUE


@pytest.mark.parametrize(
    ("levels", "n_grown", "shown"),
    [
        (range(3), 5, [0, 1, 2]),
        (range(9), 5, [0, 1, 2, 3, 4, 8]),
        (range(12), 3, [0, 1, 2, 3, 7, 11]),
        (range(26), 25, [0, 6, 12, 18, 24, 25]),
        ([7], 5, [7]),
    ],
)
def test_levels_of_growth_are_shown_before_those_of_merging(
    levels: Sequence[int], n_grown: int, shown: list[int]
) -> None:
    assert hierarchies._few(levels, n_grown) == shown


def test_misclassified_samples_take_the_places_that_are_left() -> None:
    facts: dict[str, list[Any]] = {
        "label": [0] * 6,
        "prediction": [0, 0, 1, 1, 1, 1],
        "status": [""] * 6,
    }
    assert gallery.choose(facts, 6) == [0, 1, 2, 3, 4, 5]
    facts["prediction"].reverse()
    # all of them: twins stay beside each other
    assert gallery.choose(facts, 6) == [0, 1, 2, 3, 4, 5]
    facts["prediction"].reverse()
    assert gallery.choose(facts, 4) == [0, 1, 2, 3]
    assert gallery.choose(facts, 2) == [0, 2]


def test_a_run_without_hierarchies_has_no_such_section(
    words_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words_run, "arrays", lambda _: ("relevance",))
    assert hierarchies.render(words_run) is None
