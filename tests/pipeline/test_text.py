from __future__ import annotations

import gzip
import json
import pickle
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DataConfig
from pipeline.data import open_source, read_one
from pipeline.data.tokenizing import Pretrained, Words
from pipeline.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data.source import Source

VOCABULARY = ("<unk>", "a", "film", "great", "is", "it's", ".")
ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "A GREAT film.", "label": "positive", "split": "test"},
    {"id": "b", "text": '"Bad" is a film', "label": "negative", "split": "train"},
    {"id": "c", "text": "it's great", "label": "positive", "split": "test"},
    {"id": "d", "text": " ", "label": "", "split": "test"},
]
COLUMNS = ("id", "text", "label", "split")
CLASSES = ["negative", "positive"]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    lines = ["\t".join(COLUMNS), *("\t".join(row.values()) for row in ROWS)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def opened(base: Path, **given: Any) -> Source:
    given = {"path": "texts.tsv", "tokenizer": {"vocabulary": "words.txt"}} | given
    return open_source(DataConfig(source="text", **given), base)


def ids(source: Source) -> list[list[int]]:
    found = [read_one(source, record) for record in source.records()]
    return [[] if isinstance(each, str) else each.tolist() for each in found]  # type: ignore[union-attr]


def test_texts_become_the_numbers_of_their_words(base: Path) -> None:
    assert ids(opened(base)) == [[1, 3, 2, 6], [0, 0, 0, 4, 1, 2], [5, 3], []]
    assert ids(opened(base, max_length=2)) == [[1, 3], [0, 0], [5, 3], []]


def test_records_say_label_length_and_id(base: Path) -> None:
    source = opened(base, label_column="label", id_column="id", classes=CLASSES)
    records = source.records()
    assert [record.sample_id for record in records] == ["a", "b", "c", "d"]
    assert [record.label for record in records] == [1, 0, 1, -1]
    assert [record.length for record in records] == [4, 6, 2, None]
    assert source.class_names == ("negative", "positive")


def test_rows_are_chosen_by_their_columns(base: Path) -> None:
    records = opened(base, where={"split": "test"}, id_column="id").records()
    assert [(record.index, record.sample_id) for record in records] == [
        (0, "a"),
        (1, "c"),
        (2, "d"),
    ]
    with pytest.raises(PlanError, match="none of 4 rows"):
        opened(base, where={"split": "tset"}).records()


def test_people_are_shown_words_as_written_and_which_ones_the_model_does_not_know(
    base: Path,
) -> None:
    source = opened(base)
    first, second, *_ = source.records()
    assert source.tokens(first) == ("A", "GREAT", "film", ".")
    assert source.tokens(second) == ('<">', "<Bad>", '<">', "is", "a", "film")


def test_an_empty_text_is_a_failed_sample(base: Path) -> None:
    source = opened(base)
    assert "row 3 has no text" in str(read_one(source, source.records()[3]))
    sparse = opened(base, tokenizer={"vocabulary": "words.txt", "pattern": "[a-z]{5}"})
    assert [record.length for record in sparse.records()] == [None, None, 1, None]


def test_words_can_be_looked_up_as_they_are_written(base: Path) -> None:
    words = Words(str(base / "words.txt"), lowercase=False, unknown=".", pattern=r"\S+")
    assert words("A great film.").ids == (6, 3, 6)


def written_as(kind: str, base: Path) -> str:
    rows = ROWS[:3]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), base / "texts.parquet")
    if kind == "jsonl":
        # one row without a split, and an empty line
        lines = [json.dumps(rows[0]), "", json.dumps(rows[1]), json.dumps(rows[2] | {"n": 1})]
        (base / "texts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if kind == "csv":
        quoted = [[value.replace('"', '""') for value in row.values()] for row in rows]
        lines = [",".join(COLUMNS), *(",".join(f'"{value}"' for value in row) for row in quoted)]
        (base / "texts.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    if kind == "tsv.gz":
        (base / "texts.tsv.gz").write_bytes(gzip.compress((base / "texts.tsv").read_bytes()))
    return f"texts.{kind}"


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "tsv.gz"])
def test_all_formats_hold_the_same(base: Path, kind: str) -> None:
    given: dict[str, Any] = {"label_column": "label", "classes": CLASSES, "id_column": "id"}
    expected, found = opened(base, **given), opened(base, path=written_as(kind, base), **given)
    assert found.records()[:3] == expected.records()[:3]
    assert ids(found)[:3] == ids(expected)[:3]


@pytest.mark.parametrize("path", ["file://{}/texts.tsv", "{}/texts.tsv"])
def test_a_table_may_be_anywhere(base: Path, path: str) -> None:
    source = opened(base, path=path.format(base))
    assert ids(source) == ids(opened(base))
    # what is on the disk is part of the run's digest
    assert (base / "words.txt") in source.code_files()
    assert len(source.code_files()) == (1 if path.startswith("file") else 2)


def test_labels_may_be_indices(base: Path) -> None:
    lines = [{"text": "a", "y": label} for label in (1, "0", 2.0, None, float("nan"), True)]
    text = "\n".join(json.dumps(line) for line in lines)
    (base / "texts.jsonl").write_text(text, encoding="utf-8")
    for classes in (None, ["x", "y", "z"]):
        source = opened(base, path="texts.jsonl", label_column="y", classes=classes)
        assert [record.label for record in source.records()] == [1, 0, 2, -1, -1, 1]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"path": "no.tsv"}, PlanError, "there is no file"),
        ({"path": "texts.txt"}, PlanError, "expected a name that ends in"),
        ({"path": "broken.jsonl"}, PlanError, "line 2 is no JSON"),
        ({"path": "list.jsonl"}, PlanError, "line 1 holds list, expected an object"),
        ({"path": "broken.csv"}, PlanError, "cannot read the table"),
        ({"path": "broken.parquet"}, PlanError, "cannot read the table"),
        ({"text_column": "sentence"}, PlanError, "no 'sentence'"),
        ({"label_column": "label"}, PlanError, "row 0 has label 'positive', expected a whole"),
        ({"label_column": "label", "classes": ["x"]}, PlanError, "whole number or one of x"),
        ({"tokenizer": {"vocabulary": "no.txt"}}, PlanError, "cannot read the vocabulary"),
        ({"tokenizer": {"vocabulary": "twice.txt"}}, PlanError, "holds 'a' twice"),
        (
            {"tokenizer": {"vocabulary": "words.txt", "unknown": "?"}},
            PlanError,
            "no line '\\?' for words",
        ),
        (
            {"tokenizer": {"vocabulary": "words.txt", "pattern": "("}},
            ConfigError,
            "data.tokenizer: got pattern",
        ),
        (
            {"tokenizer": {"vocabulary": "words.txt", "lowercas": True}},
            ConfigError,
            "data.tokenizer.lowercas: .*lowercase",
        ),
        (
            {"tokenizer": {"file": "a", "vocabulary": "words.txt"}},
            ConfigError,
            "'file' does not go with the fields beside it",
        ),
        ({"tokenizer": {"file": "a", "name": "b"}}, ConfigError, "expected one of them"),
        ({"path": "columns.tsv"}, PlanError, "several columns 'text'"),
        ({"id_column": "split"}, PlanError, "column 'split' of .* has 'test' in 3 rows"),
        ({"tokenizer": {}}, ConfigError, "expected one of them"),
        ({"tokenizer": "words.txt"}, ConfigError, "data.tokenizer"),
        ({"max_length": 0}, ConfigError, "expected at least 1"),
        ({"classes": ["x", "x"]}, ConfigError, "every name once"),
        ({"classes": ["1", "2"]}, ConfigError, "names that are no numbers"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    base: Path, given: dict[str, Any], error: type[Exception], said: str
) -> None:
    (base / "broken.jsonl").write_text('{"text": "a"}\n{"text"\n')
    (base / "list.jsonl").write_text("[1]\n")
    (base / "broken.csv").write_text("text,id\na,1\nb\n")
    (base / "broken.parquet").write_text("PAR")
    (base / "columns.tsv").write_text("text\ttext\na\tb\n")
    (base / "twice.txt").write_text("<unk>\na\na\n")
    with pytest.raises(error, match=said):
        opened(base, **given).records()


def test_a_mistake_in_a_parameter_is_told_its_own_fields(base: Path) -> None:
    for tokenizer in (
        {"vocabulary": "words.txt", "lowercas": True},
        {"vocabulary": "words.txt", "pattern": "("},
    ):
        with pytest.raises(ConfigError) as caught:
            opened(base, tokenizer=tokenizer)
        assert caught.value.fix == ("its parameters are: vocabulary, lowercase, unknown, pattern")


def test_lines_of_the_vocabulary_end_with_line_feeds_alone(base: Path) -> None:
    content = "\ufeff<unk>\r\na\u2028b\r\n\u2028\r\nfilm\r\n"
    (base / "odd.txt").write_bytes(content.encode())
    assert Words(str(base / "odd.txt"))("A film").ids == (0, 3)


def test_patterns_that_match_nothing_find_words_alone(base: Path) -> None:
    assert Words(str(base / "words.txt"), pattern=r"\w*")("a great film").ids == (1, 3, 2)


def test_rows_of_one_column_may_be_empty(base: Path) -> None:
    for kind in ("tsv", "csv"):
        (base / f"one.{kind}").write_text("text\na film\n\ngreat\n")
        source = opened(base, path=f"one.{kind}")
        assert [record.length for record in source.records()] == [2, None, 1]


def test_rows_are_chosen_by_numbers_of_any_type(base: Path) -> None:
    table = pa.table({"text": ["a", "film", "great"], "y": pa.array([1.0, 0.0, None])})
    pq.write_table(table, base / "numbers.parquet")
    records = opened(base, path="numbers.parquet", where={"y": 1}).records()
    assert [record.source for record in records] == ["0"]


def test_tokens_that_the_vocabulary_lacks_are_told(base: Path) -> None:
    source = opened(base)
    source.records()
    assert source.notes() == ("25 % of the 12 tokens are unknown to the vocabulary",)
    (base / "cased.txt").write_text("<unk>\nA\nGREAT\n<PAD>\nfilm\nis\nit's\n")
    cased = opened(base, tokenizer={"vocabulary": "cased.txt"})
    _, lines = cased.notes()
    assert "2 of 7 lines of the vocabulary are not in lower case, such as 'A'" in lines
    (base / "other.txt").write_text("<unk>\nelsewhere\n")
    with pytest.raises(PlanError, match="all 12 tokens of the texts are unknown"):
        opened(base, tokenizer={"vocabulary": "other.txt"}).notes()


def test_what_was_read_stays_behind_when_pickled(base: Path) -> None:
    source = opened(base)
    n_bytes = len(pickle.dumps(source))
    found = ids(source)
    assert len(pickle.dumps(source)) == n_bytes
    assert ids(pickle.loads(pickle.dumps(source))) == found


def test_sources_of_other_things_have_no_tokens() -> None:
    source = open_source(DataConfig(source="boolean_strings"), None)  # type: ignore[arg-type]
    assert source.tokens(source.records()[0]) is None


def test_without_the_library_its_tokenizers_are_refused(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PlanError, match="not installed") as caught:
        opened(base, tokenizer={"file": "tokenizer.json"}).records()
    assert "xpipe-xai[text]" in caught.value.fix


@pytest.fixture
def pieces(base: Path) -> dict[str, str]:
    """A tokenizer of Hugging Face with pieces of words and special tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    names = ("[UNK]", "[CLS]", "[SEP]", "a", "great", "film", "un", "##great")
    numbers = {name: number for number, name in enumerate(names)}
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece(numbers, unk_token="[UNK]"))
    made.normalizer = tokenizers.normalizers.Lowercase()
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    # as many files have it; lengths are those of the texts all the same
    made.enable_padding(length=32)
    made.save(str(base / "tokenizer.json"))
    return {"file": "tokenizer.json"}


def test_pieces_are_those_of_the_library(base: Path, pieces: dict[str, Any]) -> None:
    source = opened(base, tokenizer=pieces)
    # a full stop and the word it's are unknown
    assert ids(source)[0] == [1, 3, 4, 5, 0, 2]
    assert source.tokens(source.records()[0]) == ("[CLS]", "A", "GREAT", "film", "<.>", "[SEP]")
    assert ids(opened(base, tokenizer=pieces, max_length=4))[0] == [1, 3, 4, 2]
    bare = opened(base, tokenizer=pieces | {"special_tokens": False})
    assert ids(bare)[0] == [3, 4, 5, 0]
    assert ids(pickle.loads(pickle.dumps(source))) == ids(source)


def test_pieces_are_shown_as_they_are_written(base: Path, pieces: dict[str, str]) -> None:
    found = Pretrained(file=str(base / pieces["file"]))("A Ungreat thing")
    assert found.words == ("[CLS]", "A", "Un", "great", "<thing>", "[SEP]")
    assert found.ids == (1, 3, 6, 7, 0, 2)


def test_a_length_does_not_outlast_the_text_it_was_given_for(
    base: Path, pieces: dict[str, str]
) -> None:
    cut = Pretrained(file=str(base / pieces["file"]))
    assert [len(cut("a great film", n).ids) for n in (None, 3, None)] == [5, 3, 5]


def test_a_length_without_room_for_a_word_is_refused(base: Path, pieces: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="more than the 2 special tokens"):
        opened(base, tokenizer=pieces, max_length=2).records()
    bare = opened(base, tokenizer=pieces | {"special_tokens": False}, max_length=1)
    assert [record.length for record in bare.records()] == [1, 1, 1, None]


def test_what_is_no_tokenizer_is_refused(base: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(PlanError, match="cannot read the tokenizer"):
        opened(base, tokenizer={"file": "words.txt"}).records()
