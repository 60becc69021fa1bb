"""Against the library itself, which takes seconds to import: all of these are slow."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import open_run
from pipeline.config import load
from pipeline.data import read_masks
from pipeline.data.huggingface import HuggingFace
from pipeline.errors import PlanError
from pipeline.manifest import Manifest
from pipeline.run import run
from tests.pipeline.pictured import is_same, pixels, png, read_all, source_of

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data import Source

pytestmark = pytest.mark.slow

N = 10
ARRAY = {"input_column": "array"}
WORDS = ("[UNK]", "[CLS]", "[SEP]", "good", "film")
TEXTS = ["good film", "", "a good film", "film", None, "good good film"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("huggingface")


@pytest.fixture(autouse=True)
def datasets(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, with a cache of its own and no network, whatever the environment says."""
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    for place in (datasets.config, constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    datasets.utils.disable_progress_bars()
    yield datasets
    datasets.utils.enable_progress_bars()


def table(datasets: Any) -> Any:
    images = pixels(N)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["ant", "bee"]),
            "array": datasets.Array2D((2, 3), "float32"),
            "mask": datasets.Image(),
            "name": datasets.Value("string"),
        }
    )
    columns = {
        "image": [Image.fromarray(image) for image in images],
        "label": [at % 2 if at else -1 for at in range(N)],
        "array": [np.full((2, 3), at) for at in range(N)],
        "mask": [Image.fromarray(image[..., 0] // 128) for image in images],
        "name": [f"image {at}" for at in range(N)],
    }
    return datasets.Dataset.from_dict(columns, features=features)


def source(base: Path, path: str = "saved", **fields: Any) -> Source:
    return source_of("huggingface", base, path, **fields)


def test_saved_sets_are_read_by_position(datasets: Any, tmp_path: Path) -> None:
    made = table(datasets)
    shuffled = made.shuffle(seed=0)
    datasets.DatasetDict({"train": made, "test": shuffled}).save_to_disk(str(tmp_path / "saved"))
    fields = {"input_column": "image", "mask_column": "mask", "id_column": "name"}
    train = source(tmp_path, split="train", **fields)
    records = train.records()
    assert [record.label for record in records] == [-1, 1, 0, 1, 0, 1, 0, 1, 0, 1]
    assert records[3].sample_id == "image 3"
    assert train.class_names == ("ant", "bee")
    assert is_same(read_all(pickle.loads(pickle.dumps(train))), pixels(N))
    masks = torch.from_numpy(pixels(N)[..., 0] >= 128)
    assert torch.equal(read_masks(train, records, (6, 5)), masks)
    arrays = read_all(source(tmp_path, split="test", input_column="array"))
    assert [float(each[1, 2]) for each in arrays] == [row[1][2] for row in shuffled["array"]]
    with pytest.raises(PlanError, match="has the splits train, test, got None"):
        source(tmp_path).records()
    with pytest.raises(PlanError, match="got 'valid'"):
        source(tmp_path, split="valid").records()
    with pytest.raises(PlanError, match="2 columns of images"):
        source(tmp_path, split="train").records()
    with pytest.raises(PlanError, match=r"no column 'class'; its columns are image .*, name"):
        source(tmp_path, split="train", label_column="class", **fields).records()
    with pytest.raises(PlanError, match="holds texts, and there is no tokenizer"):
        source(tmp_path, split="train", input_column="name").records()
    with pytest.raises(PlanError, match="int64, which is no input"):
        source(tmp_path, split="train", input_column="label").records()


def test_a_split_that_was_saved_by_itself_is_the_one_that_is_asked_for(
    datasets: Any, tmp_path: Path
) -> None:
    made = table(datasets).select_columns(["image", "label"])
    datasets.DatasetDict({"test": made}).save_to_disk(str(tmp_path / "saved"))
    made.save_to_disk(str(tmp_path / "one"))
    datasets.Dataset.from_dict({"array": [[1.0], [2.0]]}, split="train").save_to_disk(
        str(tmp_path / "told")
    )
    assert len(source(tmp_path, "saved/test", split="test").records()) == N
    fields = {"split": "train", "input_column": "array"}
    assert len(source(tmp_path, "told", **fields).records()) == 2
    with pytest.raises(PlanError, match="holds one split, and does not say which; got 'test'"):
        source(tmp_path, "one", split="test").records()
    with pytest.raises(PlanError, match="holds one split, and is 'train'; got 'test'"):
        source(tmp_path, "told", split="test").records()
    for field in ("config", "revision"):
        with pytest.raises(PlanError, match=f"was saved, and has no {field} to choose; got 'x'"):
            source(tmp_path, "one", **{field: "x"}).records()


def test_other_tables_make_other_samples(datasets: Any, tmp_path: Path) -> None:
    def planned(path: str) -> str:
        return Manifest(source(tmp_path, path, input_column="array").records()).digest()

    def save(path: str, value: float) -> str:
        rows = {"array": [[1.0, value], [3.0, 4.0]], "name": ["a", None]}
        datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / path))
        return planned(path)

    before = save("one", 2.0)
    assert save("one", 2.0) == before
    shutil.copytree(tmp_path / "one", tmp_path / "copied" / "one")
    assert planned("copied/one") == before
    # of the same size
    assert save("one", 5.0) != before
    named = source(tmp_path, "one", id_column="name", **ARRAY).records()
    assert [record.sample_id for record in named] == ["a", "000001"]


def test_other_pictures_in_a_folder_make_other_samples(datasets: Any, tmp_path: Path) -> None:
    def planned(path: str, *contents: bytes) -> str:
        folder = tmp_path / path / "images"
        folder.mkdir(parents=True, exist_ok=True)
        for at, content in enumerate(contents):
            (folder / f"{at}.png").write_bytes(content)
        return Manifest(source(tmp_path, f"{path}/images").records()).digest()

    one, two = map(png, pixels(2))
    before = planned("a", one, two)
    # other places and times are no other pictures
    assert planned("b", one, two) == before
    assert planned("a", one, two + b"x") != before


def test_folders_of_images_and_of_parquet_are_read(datasets: Any, tmp_path: Path) -> None:
    images = pixels(4)
    for at, image in enumerate(images):
        folder = tmp_path / "images" / ("ant", "bee")[at // 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at}.png").write_bytes(png(image) if at else png(image)[:40])
    found = source(tmp_path, "images")
    assert [record.label for record in found.records()] == [0, 0, 1, 1]
    bad, *good = read_all(found)
    assert "unreadable" in bad
    assert is_same(good, images[1:])
    (tmp_path / "exported").mkdir()
    table(datasets).remove_columns("mask").to_parquet(tmp_path / "exported" / "train.parquet")
    assert is_same(read_all(source(tmp_path, "exported")), pixels(N))
    # and the source of Parquet files knows what the library wrote into them
    direct = source_of("parquet", tmp_path, "exported", label_column="label")
    assert direct.class_names == ("ant", "bee")
    assert is_same(read_all(direct), pixels(N))
    arrays = read_all(source_of("parquet", tmp_path, "exported", input_column="array"))
    assert [each.tolist() for each in arrays] == table(datasets)["array"][:]


def test_nothing_is_downloaded_unless_it_may_be(
    datasets: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    seen: list[tuple[bool, bool]] = []

    def load(*names: Any, **options: Any) -> Any:
        seen.append((datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE))
        return table(datasets).to_iterable_dataset()

    for fields in ({}, {"download": True}):
        monkeypatch.setattr(datasets, "load_dataset", load)
        with pytest.raises(PlanError, match="streams") as raised:
            source(tmp_path, "someone/images", **fields).records()
        assert "save_to_disk" in raised.value.fix
    assert seen == [(True, True), (False, False)]
    assert (datasets.config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE) == (False, False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(PlanError, match="streams"):
        source(tmp_path, "someone/images", download=True).records()
    assert seen[-1] == (True, False)
    monkeypatch.undo()
    with pytest.raises(PlanError, match="cannot load the data set 'someone/none'") as raised:
        source(tmp_path, "someone/none").records()
    assert "download: true" in raised.value.fix


def test_a_missing_library_is_named_by_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PlanError) as raised:
        HuggingFace(path="x").records()
    assert "xpipe-xai[huggingface]" in raised.value.fix


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(folder)


def test_texts_are_inputs_by_name_as_long_as_they_are(datasets: Any, tmp_path: Path) -> None:
    rows = {"text": TEXTS, "label": [1, 0, 1, 0, 0, 1]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    tokenizer(tmp_path / "tokens")
    fields = {"tokenizer": "tokens", "label_column": "label"}
    found = source(tmp_path, **fields)
    records = found.records()
    assert [record.length for record in records] == [4, None, 5, 3, None, 5]
    good = read_all(found)[2]
    assert good["input_ids"].tolist() == [1, 0, 3, 4, 2]
    assert good["attention_mask"].tolist() == [True] * 5
    assert "no text" in read_all(found)[4]
    assert found.tokens(records[2]) == ("[CLS]", "<a>", "good", "film", "[SEP]")
    assert {file.name for file in found.code_files()} >= {"tokenizer.json"}
    cut = source(tmp_path, max_length=4, **fields)
    assert [record.length for record in cut.records()] == [4, None, 4, 3, None, 4]
    with pytest.raises(PlanError, match="cannot load the tokenizer"):
        source(tmp_path, tokenizer="someone/none").records()


MODEL = """
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask):
        held = self.words(input_ids) * attention_mask[:, :, None]
        return self.last(torch.tanh(held).sum(dim=1))


def load():
    torch.manual_seed(0)
    return Reader().eval()
"""


def test_a_run_explains_the_texts_of_a_saved_set(datasets: Any, tmp_path: Path) -> None:
    rows = {"text": TEXTS, "label": [1, 0, 1, 0, 0, 1]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(tmp_path / "saved"))
    tokenizer(tmp_path / "tokens")
    (tmp_path / "reader.py").write_text(MODEL)
    sections = {
        "name": "reader",
        "model": {"source": "python", "name": "reader.py:load"},
        "data": {"source": "huggingface", "path": "saved", "tokenizer": "tokens"},
        "explainers": {"saliency": {}},
        "output": {"path": str(tmp_path / "out")},
        "engine": {"kind": "serial"},
    }
    (tmp_path / "run.yaml").write_text(json.dumps(sections))
    summary = run(load(tmp_path / "run.yaml"))
    assert (summary.n_samples, summary.n_failed) == (6, 2)
    maps = open_run(tmp_path / "out").array("saliency", "relevance.input_ids")
    assert maps.shape == (6, 5)
    assert np.isfinite(maps.values).sum(axis=1).tolist() == [4, 0, 5, 3, 0, 5]
