"""Pages of concepts: what they show is what the scans found, and they need nothing else."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from pipeline import atlas
from pipeline.atlas import cards, classes, page, samples, searching, strips, tiles, views
from pipeline.data import python
from pipeline.errors import StoreError
from pipeline.report.sections import concepts
from pipeline.store import open_run
from tests.pipeline.atlas_run import LAYERS, N_REFERENCES, SILENT, K, layers, listed_run
from tests.pipeline.explained import FAILED

if TYPE_CHECKING:
    from pipeline.store import Run

BLANK = tiles.BLANK


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return listed_run(tmp_path_factory.mktemp("listed"))


@pytest.fixture(scope="module")
def built(run: Run) -> Path:
    return Path(atlas.build(run, kinds={"conv1": "Convolution"})).parent


class Checker(HTMLParser):
    """Collects addresses, pictures without a text, and identities."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.silent_pictures = 0
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in {"meta", "link", "img", "br", "input"}:
            self.open.append(tag)
        self.addresses += [found[name] or "" for name in ("src", "href") if name in found]
        self.silent_pictures += tag == "img" and not found.get("alt")
        self.ids += [found["id"] or ""] if "id" in found else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def pages(built: Path) -> list[Path]:
    return [built / "index.html", *sorted((built / "layers").glob("*.html"))]


def test_every_layer_has_a_page_and_every_concept_a_card_and_a_picture(built: Path) -> None:
    slugs = page.slugs(LAYERS)
    for layer, n in LAYERS.items():
        html = (built / "layers" / f"{slugs[layer]}.html").read_text()
        assert re.findall(r'id="c(\d+)"', html) == [str(channel) for channel in range(n)]
        found = {path.stem for path in (built / "layers" / slugs[layer]).glob("*.webp")}
        assert found == {*map(str, range(n)), "previews"}


def test_an_atlas_is_current_until_results_are_others(run: Run, built: Path) -> None:
    assert atlas.is_current(run)
    summary = built / "atlas.json"
    content = summary.read_text()
    summary.write_text(content.replace('"results": "', '"results": "0'))
    assert not atlas.is_current(run)
    summary.write_text("{")  # cut short
    assert not atlas.is_current(run)
    summary.write_text(content)


def test_pages_are_well_formed_and_whatever_they_name_lies_beside_them(built: Path) -> None:
    for path in pages(built):
        html = path.read_text()
        checker = Checker()
        checker.feed(html)
        assert checker.open == []
        assert checker.silent_pictures == 0
        assert len(checker.ids) == len(set(checker.ids))
        assert not re.search(r"https?:|//www|@import|url\((?!data:)", html)
        for address in checker.addresses:
            name, _, anchor = unquote(address).partition("#")
            if address.startswith("data:"):
                continue
            target = path.parent / name if name else path
            assert target.is_file()
            assert not anchor or f'id="{anchor}"' in target.read_text()


@pytest.mark.parametrize("name", ["atlas.css", "atlas.js", "search.js"])
def test_what_pages_share_asks_for_nothing(built: Path, name: str) -> None:
    assert not re.search(r"https?:|@import|url\(|fetch\(|XMLHttp", (built / name).read_text())


def test_what_a_user_named_is_escaped(built: Path) -> None:
    for path in pages(built):
        html = path.read_text()
        assert "<b>bee</b>" not in html
        assert "conv<2>" not in html
    assert "&lt;b&gt;bee&lt;/b&gt;" in html or "ant &amp; co" in html
    assert "block.0/conv&lt;2&gt;" in (built / "index.html").read_text()


def test_the_index_says_what_layers_are(built: Path) -> None:
    html = re.sub(r"\s+", " ", (built / "index.html").read_text())
    assert "Convolution · 4 concepts, 1 of them silent · redundancy 0.25" in html
    assert "ActMax beside RelMax" in html


def test_the_search_index_finds_layers_and_the_concepts_of_classes(built: Path, run: Run) -> None:
    script = (built / "search.js").read_text()
    index = json.loads(script.removeprefix("window.xpipeAtlas=").removesuffix(";\n"))
    # the network is not known here: layers are in the order of their names
    assert [(each["name"], each["n"]) for each in index["layers"]] == sorted(LAYERS.items())
    assert {each["name"] for each in index["classes"]} == {"ant & co", "<b>bee</b>", "cat"}
    every = {tuple(place) for each in index["classes"] for place in each["concepts"]}
    assert every == {(at, c) for at, (_, n) in enumerate(sorted(LAYERS.items())) for c in range(n)}
    assert max(len(each["concepts"]) for each in index["classes"]) <= searching.N_CONCEPTS


@pytest.mark.slow
def test_each_sample_is_read_once(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    load = python.Python.load

    def counted(self: python.Python, record: object) -> object:
        read.append(record.index)
        return load(self, record)

    monkeypatch.setattr(python.Python, "load", counted)
    atlas.build(run, tmp_path / "again")
    shown = {
        int(sample)
        for view in views.views_of(run)
        for layer in view.layers
        for sample in views.shown_samples(view, layer, 8).ravel()
    }
    assert sorted(read) == sorted(shown)


@pytest.mark.slow
def test_a_second_build_gives_the_same_files_and_leaves_no_others(
    run: Run, built: Path, tmp_path: Path
) -> None:
    out = tmp_path / "atlas"
    atlas.build(run, out, kinds={"conv1": "Convolution"})
    (out / "layers" / "gone.html").write_text("of a layer that is there no more")
    atlas.build(run, out)  # what layers are is kept from the atlas before it

    def content(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    assert content(out) == content(built)


def test_a_folder_of_something_else_is_left_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="no atlas"):
        atlas.build(run, tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_a_run_without_lists_is_refused(tmp_path: Path) -> None:
    run = listed_run(tmp_path, {"statistics": {"mean": np.zeros(3)}})
    assert not atlas.is_wanted(run)
    assert concepts.render(run) is None
    with pytest.raises(StoreError, match="no lists"):
        atlas.build(run)


def test_views_are_named_and_activations_come_first(run: Run) -> None:
    assert [view.title for view in views.views_of(run)] == ["ActMax", "RelMax"]
    assert atlas.is_wanted(run)


@pytest.mark.slow
def test_each_of_several_targets_is_a_view(tmp_path: Path) -> None:
    found = {"label": layers(0), "runner_up": layers(1)}
    run = listed_run(tmp_path, {"relmax": found, "mine": layers(2, has_references=False)})
    titles = [view.title for view in views.views_of(run)]
    assert titles == ["RelMax of the true class", "RelMax of the runner-up", "mine"]
    html = (Path(atlas.build(run)).parent / "layers" / "conv1.html").read_text()
    assert html.count('class="sheet heated"') == 2 * LAYERS["conv1"]
    assert html.count('class="sheet"') == LAYERS["conv1"]


def test_inputs_that_are_no_pictures_have_cards_without(run: Run, tmp_path: Path) -> None:
    sequences = open_run(run.path)
    sequences.__dict__["plan"] = replace(run.plan, input_shape=(6,))
    atlas.build(sequences, tmp_path / "atlas")
    assert not list(tmp_path.rglob("*.webp"))
    assert "<img" not in (tmp_path / "atlas" / "layers" / "conv1.html").read_text()


def shown_of(run: Run, layer: str) -> list[cards.Shown]:
    return [cards.Shown.of(view, layer, 8) for view in views.views_of(run)]


def test_cards_say_which_samples_both_lists_hold(run: Run) -> None:
    labels = run.manifest.labels
    taken = np.where(np.arange(len(labels)) == 2, 0, labels)
    names = cards.Names(run.manifest.sample_ids, labels, taken, str)
    shown = shown_of(run, "conv1")
    made = cards.Cards(shown, names)
    for channel in range(LAYERS["conv1"]):
        left, right = (each.lists.sample[:, channel].tolist() for each in shown)
        card = made.card(channel)
        assert card.overlap == (len(set(left) & set(right)), K)
        assert [tile.is_shared for tile in card.columns[0].tiles] == [
            sample in right for sample in left[:N_REFERENCES]
        ]
        assert [tile.sample_id for tile in card.columns[1].tiles] == [
            f"{sample:06d}" for sample in right[:N_REFERENCES]
        ]
        assert card.is_silent == (channel == SILENT)
        for tile in card.columns[1].tiles:
            assert tile.said == ("0" if tile.sample_id == "000002" else "")


def test_classes_are_ranked_by_the_mean_of_their_best(run: Run) -> None:
    view = views.views_of(run)[1]
    found = classes.by_class(view, "conv1")
    assert found is not None
    held = layers(0)["conv1"]["per_class"]
    for channel in range(LAYERS["conv1"]):
        means = {
            index: float(np.nanmean(held[index]["sum_normed"]["value"][:, channel]))
            for index in held
        }
        best = found.best_classes(channel)
        assert [index for index, _ in best] == sorted(means, key=lambda index: -means[index])
        # float32 against float64
        assert np.allclose([mean for _, mean in best], sorted(means.values(), reverse=True))


def test_without_lists_per_class_the_classes_of_the_best_samples_are_counted() -> None:
    labels = np.array([0, 1, 1, -1, 2])
    assert classes.among_best(labels, np.array([1, 2, 0, 3, -1])) == [(1, 2), (0, 1)]


def test_a_strip_shows_crops_and_whole_pictures_with_their_heat(run: Run) -> None:
    view = views.views_of(run)[0]
    chosen = views.shown_samples(view, "conv1", 8)
    references = views.references(view, "conv1", 8, slice(None))
    assert references is not None
    with samples.read(run, np.unique(chosen)) as pictures:
        assert pictures is not None
        side = pictures.side
        assert side == 66  # six pixels, enlarged eleven times
        channel = 2
        strip = strips.strip(pictures, chosen[:, channel], references, channel, N_REFERENCES + 1)
        tile = strip.reshape(strips.HEATED, side, N_REFERENCES + 1, side, 3).swapaxes(1, 2)
        for rank, sample in enumerate(chosen[:, channel]):
            if sample == FAILED:
                assert (tile[:, rank] == BLANK).all()
                continue
            whole = pictures.whole[pictures.place[sample]]
            top, left, bottom, right = references.crop[rank, channel]
            # each pixel of a crop of three by three is a square of 22
            expected = np.kron(whole[top:bottom, left:right], np.ones((22, 22, 1), np.uint8))
            assert (tile[0, rank] == expected).all()
            heat = references.heatmap[rank, channel].astype(np.float32)
            is_for = np.kron(heat > 0.2, np.ones((11, 11), bool))
            assert (tile[3, rank][is_for][:, 0] > tile[3, rank][is_for][:, 2]).all()
        assert (tile[:, N_REFERENCES] == BLANK).all()


def test_a_sample_that_cannot_be_read_has_a_blank_tile(run: Run) -> None:
    with samples.read(run, np.array([4, FAILED])) as pictures:
        assert pictures is not None
        strip = strips.strip(pictures, np.array([FAILED, 4, -1]), None, 0, 3)
        blank, shown, none = np.split(strip, 3, axis=1)
        assert (blank == BLANK).all()
        assert (none == BLANK).all()
        assert (shown == pictures.small[0]).all()


def test_crops_are_widened_to_squares_within_the_picture() -> None:
    boxes = np.array([[0, 0, 2, 6], [5, 6, 10, 8], [3, 3, 3, 3], [-1, -1, -1, -1], [4, 4, 5, 5]])
    found = tiles.squared(boxes, (10, 8))
    assert found.tolist() == [
        [0, 0, 6, 6],
        [5, 3, 10, 8],
        [0, 0, 10, 8],
        [0, 0, 10, 8],
        [4, 4, 5, 5],
    ]


def test_pictures_keep_their_proportions() -> None:
    found = tiles.fitted(np.zeros((1, 100, 200, 3), np.uint8), 64)
    assert (found[0, :16] == BLANK).all()
    assert (found[0, 16:48] == 0).all()
    assert np.isnan(tiles.fitted(np.zeros((1, 100, 200), np.float32), 64)[0, :16]).all()


def test_heat_maps_that_were_averaged_are_as_large_as_their_pictures() -> None:
    heat = np.zeros((2, 50, 100), np.float32)
    heat[1, :25] = 1
    found = tiles.enlarged(heat, (100, 200))
    assert found.shape == (2, 100, 200)
    assert found.dtype == np.float32
    assert not found[0].any()
    assert (found[1, :49] == 1).all()
    assert (found[1, 51:] == 0).all()
    assert tiles.enlarged(heat, (50, 100)) is heat


def test_heat_maps_have_a_scale_each_and_no_colour_at_zero() -> None:
    heat = np.zeros((3, 8, 8), np.float32)
    heat[0, 0, 0], heat[1, 0, 0] = 5.0, -1e-4
    found = tiles.coloured(heat).astype(int)
    assert found[:, 4, 4].min() > 240
    assert found[0, 0, 0, 0] > found[0, 0, 0, 2]  # red for
    assert found[1, 0, 0, 2] > found[1, 0, 0, 0]  # blue against
    assert (found[2] > 240).all()
    assert tiles.coloured(heat[:0]).shape == (0, 8, 8, 3)  # of a concept, no sample can be read


def test_pictures_are_dark_where_heat_is_weak() -> None:
    small = np.full((2, 64, 64, 3), 200, np.uint8)
    heat = np.zeros((2, 64, 64), np.float32)
    heat[0, 10:20, 10:20] = -1.0
    found = tiles.dimmed(small, heat)
    assert (found[0, 12:18, 12:18] == 200).all()
    assert (found[0, 40:] == int(200 * tiles.DIMMED)).all()
    assert (found[1] == 200).all()


def test_layers_have_file_names_of_their_own() -> None:
    names = ["a", "A", "a/b", "a_b", "../x", "#", "", "conv#1", "l" * 300]
    found = page.slugs(names)
    assert len({slug.lower() for slug in found.values()}) == len(names)
    assert all(re.fullmatch(r"[\w.-]{1,110}", slug) and slug[0] != "." for slug in found.values())


def test_pictures_are_webp(built: Path) -> None:
    content = (built / "layers" / "conv1" / "0.webp").read_bytes()
    image = Image.open(BytesIO(content))
    assert image.format == "WEBP"
    assert image.size == (66 * N_REFERENCES, 66 * 2 * strips.HEATED)


def test_the_report_links_to_the_atlas_with_the_concepts_of_classes(run: Run, built: Path) -> None:
    html = concepts.render(run) or ""
    assert '<a href="atlas/index.html">' in html
    assert re.findall(r'href="(atlas/layers/[^"#]+)#c\d+"', html)
    assert all((built.parent / name).is_file() for name in re.findall(r'href="([^"#]+)', html))
    assert "&lt;b&gt;bee&lt;/b&gt;" in html
    assert "<b>bee" not in html


def told(scans: dict[str, list[str]], **asked: dict[str, Any]) -> Any:
    """Return a run whose scans have lists of these layers, and ask for this."""
    best = {"sum_normed": {"sample": np.zeros((1, 1)), "value": np.zeros((1, 1))}}
    return SimpleNamespace(
        scans={scan: dict.fromkeys(names, best) for scan, names in scans.items()},
        config=SimpleNamespace(explainers=asked),
    )


def pages_of(run: Any, **kinds: str) -> list[list[str]]:
    return [list(view.layers) for view in views.views_of(run, kinds)]


def test_concepts_of_unlike_kinds_have_pages_of_their_own() -> None:
    run = told(
        {"one": ["a", "b", "c"], "two": ["a", "b", "c"], "three": ["a", "c"]},
        one={"concepts": {"a": "channels"}},
        two={"concepts": {"a": {"directions": "of/d.npy"}, "type:Linear": "tokens", "*": "heads"}},
        three={"concepts": {"a": {"directions": "e/d.npy"}, "*": {"directions": [[1.0]]}}},
    )
    found = pages_of(run, a="Convolution", b="Linear", c="Convolution")
    assert found == [
        ["a", "b", "c"],
        ["a · directions d", "b · tokens", "c · heads"],
        ["a · directions d (2)", "c · directions"],
    ]
    assert [views.layer_of(page) for page in found[1]] == ["a", "b", "c"]
    # without the network, what an operator is remains unknown: never a page of channels
    assert pages_of(run)[1][1:] == ["b · tokens", "c · tokens"]


def test_pages_are_in_the_order_of_the_network() -> None:
    # results are stored by name, so that the order of a view says nothing
    run = told({"one": ["block.10", "block.9", "stem"], "two": ["block.10", "head"]})
    found = views.views_of(run)
    order = ["stem", "block.9", "block.10", "head"]
    assert views.pages_of(found, order) == order
    # where the network is not known, numbers count as numbers
    assert views.pages_of(found) == ["block.9", "block.10", "head", "stem"]
    assert views.pages_of(found, order[:2]) == ["block.9", "block.10", "head", "stem"]


@pytest.mark.slow
def test_directions_beside_channels_of_a_layer_are_shown_apart(tmp_path: Path) -> None:
    found = {"relmax": layers(0), "mine": layers(1)}
    found["mine"] = {"conv1": found["mine"]["block.0/conv<2>"]}
    concepts_of = {"concepts": {"conv1": {"directions": "d.npy"}}, "layers": "conv1"}
    run = listed_run(tmp_path, found, mine={"method": "activation_maximization", **concepts_of})
    kinds = {"conv1": "Convolution", "block.0/conv<2>": "Convolution"}
    written = Path(atlas.build(run, kinds=kinds)).parent
    summary = json.loads((written / "atlas.json").read_text())
    assert [(entry["name"], entry["n_concepts"]) for entry in summary["layers"]] == [
        ("conv1", 4),
        ("conv1 · directions d", 3),
        ("block.0/conv<2>", 3),
    ]
    assert {entry["kind"] for entry in summary["layers"][:2]} == {"Convolution"}
    for entry in summary["layers"]:
        assert "in both lists<" not in (written / f"layers/{entry['slug']}.html").read_text()


def test_what_goes_without_saying_is_not_in_the_report(run: Run, tmp_path: Path) -> None:
    small = open_run(run.path)
    small.__dict__["plan"] = replace(run.plan, input_shape=(6,), n_classes=3)
    atlas.build(small, tmp_path / "atlas")
    top = json.loads((tmp_path / "atlas" / "atlas.json").read_text())["top"]
    assert top["layer"] == "conv1"
