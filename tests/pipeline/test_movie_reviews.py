"""The template of movie reviews: its sentences are fetched, so that others stand in for them."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from pipeline import models, templates, user_code
from pipeline.config import load
from pipeline.data import open_source
from pipeline.entries import build_explainers
from pipeline.report import pictures
from pipeline.report.sections import texts
from pipeline.run import run
from pipeline.store import open_run

TEMPLATE = Path(str(files("configs") / "movie_reviews"))
NAMES = ("film", "plot", "cast", "story", "music", "ending", "camera", "script", "cast", "idea")
PRAISE = [
    f"A  moving and wonderful {name}, one of the best ''{n}''." for n, name in enumerate(NAMES)
]
BLAME = [f"The {name} is dull, stupid and a waste of {n} hours" for n, name in enumerate(NAMES)]


def rated() -> bytes:
    """Lines as in the archive, with a neutral sentence and one that comes twice."""
    scored = [(2.5, text) for text in PRAISE] + [(-1.5, text) for text in BLAME]
    scored += [(0.25, "A film"), (-2.0, PRAISE[0])]
    lines = [f"{number}\t{score}\t{text}" for number, (score, text) in enumerate(scored, start=1)]
    return ("\r\n".join(lines) + "\r\n").encode()


def packed(content: bytes, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def package(path: Path) -> Path:
    """The source distribution, as a zip file or a tar archive, with only what is taken from it."""
    inner = packed(rated(), "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
    name = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, inner)
    else:
        path.write_bytes(packed(inner, name))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The template with stand-ins for the sentences."""
    mine = tmp_path / "mine"
    templates.copy("movie_reviews", mine)
    prepare = {name: user_code.find(f"prepare.py:{name}", mine) for name in ("sentences", "write")}
    prepare["write"](prepare["sentences"](rated()), mine / "sentences.tsv")
    return mine


def test_sentences_are_not_shipped() -> None:
    names = {path.name for path in TEMPLATE.iterdir() if path.is_file()}
    expected = {"run.yaml", "model.py", "prepare.py", "train.py", "vocabulary.txt"}
    assert names - {"sentences.tsv"} == expected | {"movie_reviews.safetensors"}
    build_explainers(load(TEMPLATE / "run.yaml"))


@pytest.mark.parametrize("name", ["vaderSentiment-0.5.zip", "vadersentiment-0.5.tar.gz"])
def test_ratings_are_taken_out_of_the_package(tmp_path: Path, name: str) -> None:
    ratings = user_code.find("prepare.py:ratings", TEMPLATE)
    assert ratings(package(tmp_path / name)) == rated()


def test_clear_sentences_are_kept_once_and_a_fifth_of_each_class_is_held_out() -> None:
    sentences = user_code.find("prepare.py:sentences", TEMPLATE)
    found = sentences(rated())
    assert len({each.text for each in found}) == len(found) == 20
    assert found[0].text == 'A moving and wonderful film, one of the best "0".'
    assert [each.label for each in found] == ["positive"] * 10 + ["negative"] * 10
    held_out = [each.label for each in found if each.split == "held_out"]
    assert sorted(held_out) == ["negative"] * 2 + ["positive"] * 2
    assert sentences(rated()) == found
    assert sentences(rated(), seed=1) != found
    assert len(sentences(rated(), margin=2.0)) == 10


def test_the_run_file_reads_what_was_prepared_and_the_model_judges_it(folder: Path) -> None:
    config = load(folder / "run.yaml")
    source = open_source(config.data, config.base)
    records = source.records()
    assert len(records) == 4
    assert source.class_names == ("negative", "positive")
    model = models.load_model(config.model, config.base)
    for record in records:
        words = source.load(record)
        assert record.length == len(words) == len(source.tokens(record) or ())
        with torch.no_grad():
            assert int(model(words[None]).argmax()) == record.label


def test_the_shipped_weights_say_how_good_they_are() -> None:
    with safe_open(TEMPLATE / "movie_reviews.safetensors", "pt") as weights:
        facts = weights.metadata()
        n_words = weights.get_slice("embedding.weight").get_shape()[0]
    assert n_words == len((TEMPLATE / "vocabulary.txt").read_text("utf-8").splitlines())
    right, most = float(facts["held_out_accuracy"]), float(facts["held_out_majority"])
    assert right > 0.75 > 0.55 > most
    said = (TEMPLATE / "run.yaml").read_text("utf-8")
    assert f"{right:.1%}".replace("%", " %") in said
    assert f"{most:.1%}".replace("%", " %") in said


@pytest.mark.slow
def test_what_was_prepared_can_be_run(folder: Path, tmp_path: Path) -> None:
    with (folder / "sentences.tsv").open("a", encoding="utf-8") as file:
        file.write("99\tpositive\theld_out\t \n")
    settings = [f"output.path={tmp_path / 'out'}", "engine.kind=serial", "engine.batch_size=2"]
    entries = ("hierarchy", "contextual_decomposition", "input_x_gradient")
    summary = run(load(folder / "run.yaml", settings), only=entries)
    assert (summary.n_done, summary.n_failed) == (5, 1)
    opened = open_run(tmp_path / "out")
    (*_, table) = sorted((tmp_path / "out" / "tables" / "hierarchy").iterdir())
    rows = pq.read_table(table).to_pylist()
    roots = [row for row in rows if row["parent"] == -1]
    lengths = {record.index: record.length for record in opened.manifest}
    assert roots
    assert all(len(row["members"]) == lengths[row["sample"]] for row in roots)
    for name, maps in opened.maps.items():
        n_known = np.isfinite(maps.values).sum(axis=-1)
        assert n_known.tolist() == [lengths[index] or 0 for index in range(5)], name
    html = (tmp_path / "out" / "report.html").read_text("utf-8")
    part = html[html.index('id="texts"') : html.index('id="hierarchies"')]
    shown = [record for record in opened.manifest if record.length]
    source = open_source(opened.config.data, opened.config.base)
    for word in {word for record in shown for word in source.tokens(record) or ()} - {"'", '"'}:
        assert f">{word.replace('<', '&lt;').replace('>', '&gt;')}</span>" in part
    # what has words has no strips of colours besides
    assert 'id="gallery"' not in html


def test_a_line_of_words_has_the_colours_of_its_own_scale() -> None:
    # the map is longer than the text
    relevance = np.array([0.5, -1.0, np.nan], np.float32)
    line = texts._line("name", relevance, ("fine", "<odd>"))
    assert (line.name, line.limit) == ("name", 1.0)
    assert [word.written for word in line.words] == ["fine", "<odd>"]
    assert line.words[1].colour == pictures.colour(-1.0, 1.0)


def test_training_takes_sentences_of_one_length_together(folder: Path) -> None:
    parts = {name: user_code.find(f"train.py:{name}", folder) for name in ("vocabulary", "batches")}
    words = parts["vocabulary"]([*PRAISE, *BLAME])
    # four quotation marks in every sentence of praise
    assert words[:2] == ["<unk>", "'"]
    assert "wonderful" in words
    assert "music" not in words
    config = load(folder / "run.yaml", ["data.where.split=train"])
    source = open_source(config.data, config.base)
    found = [(source.load(record), record.label) for record in source.records()]
    batches = list(parts["batches"](found, torch.Generator().manual_seed(0)))
    rows = [
        (tokens.tolist(), int(label))
        for batch in batches
        for tokens, label in zip(*batch, strict=True)
    ]
    assert sorted(rows) == sorted((tokens.tolist(), label) for tokens, label in found)


@pytest.mark.long
def test_training_writes_a_vocabulary_and_weights_that_fit(folder: Path) -> None:
    (folder / "vocabulary.txt").unlink()
    quick = (folder / "train.py").read_text("utf-8").replace("EPOCHS = 20", "EPOCHS = 1")
    (folder / "train.py").write_text(quick, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, folder / "train.py"], check=True, capture_output=True, text=True
    )
    assert "of 4 held-out sentences right" in done.stdout
    words = (folder / "vocabulary.txt").read_text("utf-8").splitlines()
    assert words[0] == "<unk>"
    assert {"dull", "wonderful", ","} <= set(words)
    assert "music" not in words
    models.load_model(load(folder / "run.yaml").model, folder)
