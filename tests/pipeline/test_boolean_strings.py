from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from configs.boolean_strings import load
from pipeline.config import DataConfig
from pipeline.data import open_source, read_batch, read_masks
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.data import Source

BACKGROUNDS = ("zero", "alternating", "bernoulli", "almost_block")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path


def strings(base: Path, **fields: Any) -> Source:
    return open_source(DataConfig(source="boolean_strings", **fields), base)


def read(source: Source) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Strings and masks, each (n, dimension), and labels."""
    records = source.records()
    dimension = source.dimension  # type: ignore[attr-defined]
    inputs, positions, _ = read_batch(source, records, (1, 1, dimension))
    assert positions == list(range(len(records)))
    assert isinstance(inputs, torch.Tensor)
    masks = read_masks(source, records, (1, dimension))
    return inputs.flatten(1), masks.flatten(1), [record.label for record in records]


def written(bits: torch.Tensor) -> str:
    return "".join(str(int(bit)) for bit in bits > 0.5)


def blocks(bits: str, size: int = 5) -> list[int]:
    return [start for start in range(len(bits)) if bits[start : start + size] == "1" * size]


@pytest.mark.parametrize(
    ("fields", "expected", "start"),
    [
        ({"seed": 1, "p": 0.05}, "1001011111000000", 5),
        ({"background": "almost_block"}, "0110110010111110", 10),
    ],
)
def test_first_strings_are_those_of_the_original_experiment(
    base: Path, fields: dict[str, Any], expected: str, start: int
) -> None:
    inputs, masks, labels = read(strings(base, n_samples=1, **fields))
    assert written(inputs[0]) == expected
    assert masks[0].nonzero().flatten().tolist() == list(range(start, start + 5))
    assert labels == [1]


def test_nothing_is_drawn_before_the_bits_of_a_string_without_a_block(base: Path) -> None:
    inputs, _, _ = read(strings(base, n_samples=1, block=False, seed=3, p=0.3))
    drawn = np.random.RandomState(3).binomial(1, 0.3, 16)
    assert written(inputs[0]) == "".join(map(str, drawn))


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_there_is_one_block_where_the_mask_is_or_none(
    base: Path, background: str, eta: float
) -> None:
    fields = {"background": background, "eta": eta, "block": "both", "p": 0.3}
    inputs, masks, labels = read(strings(base, n_samples=12, **fields))
    assert labels == [1, 0] * 6
    for bits, mask, label in zip(inputs, masks, labels, strict=True):
        assert blocks(written(bits)) == ([int(mask.int().argmax())] if label else [])
        assert int(mask.sum()) == 5 * label
    low, high = (1 - eta) / 2, (1 + eta) / 2
    # strings are stored in float32
    assert ((inputs <= low + 1e-7) | (inputs >= high - 1e-7)).all()
    # the network with a ramp as wide as the gap, or without, gives the label, to rounding
    answers = load(None if eta == 1 else eta)(inputs[:, None, None])
    torch.testing.assert_close(
        answers, torch.eye(2)[torch.tensor(labels)], atol=2e-6, rtol=0, check_dtype=False
    )


def test_the_network_knows_all_strings() -> None:
    network = load(dimension=8, block_size=3, n_outputs=1)
    every = list(itertools.product((0.0, 1.0), repeat=8))
    expected = [float(bool(blocks(written(torch.tensor(bits)), 3))) for bits in every]
    assert network(torch.tensor(every)[:, None, None]).flatten().tolist() == expected


def test_strings_are_drawn_by_seed_and_position_alone(base: Path) -> None:
    few, _, _ = read(strings(base, n_samples=3, seed=4, eta=0.5))
    many, _, _ = read(strings(base, n_samples=5, seed=4, eta=0.5))
    other, _, _ = read(strings(base, n_samples=3, seed=5, eta=0.5))
    assert torch.equal(few, many[:3])
    assert not torch.equal(few, other)
    source = strings(base, seed=4)
    again = pickle.loads(pickle.dumps(source))
    assert torch.equal(again.load(again.records()[7]), source.load(source.records()[7]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dimension": 4}, "dimension of at least 5"),
        ({"dimension": 14, "background": "almost_block"}, "dimension of at least 15"),
        ({"eta": 0.0}, "expected a width above 0"),
        ({"p": 1.0}, "expected a probability below 1"),
        ({"skip": 1}, "got skip 1, expected at least 2"),
        ({"background": "ones"}, "background"),
    ],
)
def test_strings_that_cannot_be_made_are_refused(
    base: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        strings(base, **fields)


def test_backgrounds_that_always_hold_a_block_are_refused(base: Path) -> None:
    source = strings(base, dimension=300, p=0.7)
    with pytest.raises(ValueError, match="without a block of 5 by chance"):
        source.load(source.records()[0])
