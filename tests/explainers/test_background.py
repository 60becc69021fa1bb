"""The scan `background`: the same draw whatever the shards."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load, save

import explainers
from explainers.base import Samples
from explainers.scan.background import Background, _ranks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers.base import State

INPUTS = torch.arange(400.0)[:, None, None].expand(-1, 2, 3).contiguous()


def batches(index: torch.Tensor, size: int, seed: int = 0) -> Iterator[tuple[Any, Samples]]:
    """Traces that have inputs and a seed and nothing else: a forward pass would fail."""
    for rows in index.split(size):
        trace = SimpleNamespace(parts={"": INPUTS[rows]}, seed=seed)
        yield trace, Samples(rows, torch.zeros_like(rows))


def folded(scan: Background, shards: list[torch.Tensor], size: int = 7) -> State:
    state = scan.init()
    for shard in shards:
        # Through bytes, as the pipeline does it.
        state = scan.merge(state, load(save(scan.fold(batches(shard, size)))))
    return state


def equal(left: dict[str, Any], right: dict[str, Any]) -> bool:
    same = [torch.equal(left[name], right[name]) for name in left]
    return left.keys() == right.keys() and all(same)


def test_the_draw_depends_on_neither_shards_nor_batches_nor_their_order() -> None:
    scan, index = Background(n_samples=9), torch.arange(400)
    expected = scan.finalise(folded(scan, [index], 400))
    shuffled = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    for order in (index, index.flip(0), shuffled):
        shards = list(order.split([3, 0, 150, 1, 246]))
        assert equal(scan.finalise(folded(scan, shards)), expected)
        assert equal(scan.finalise(folded(scan, shards[::-1])), expected)


def test_merge_is_commutative_and_has_a_neutral_element() -> None:
    scan = Background(n_samples=5)
    left, right = (scan.fold(batches(part, 8)) for part in torch.arange(60).split([20, 40]))
    assert equal(scan.merge(left, right), scan.merge(right, left))
    assert equal(scan.merge(scan.init(), left), left)
    assert equal(scan.merge(left, scan.init()), left)


def test_rows_are_those_of_their_samples_and_none_comes_twice() -> None:
    scan = Background(n_samples=32)
    result = scan.finalise(folded(scan, [torch.arange(400)]))
    assert result["inputs"].shape == (32, 2, 3)
    assert len(result["sample"].unique()) == 32
    assert torch.equal(result["inputs"], INPUTS[result["sample"]])


def test_a_smaller_draw_is_the_beginning_of_a_larger_one() -> None:
    index = [torch.arange(400)]
    small, large = (folded(Background(n_samples=n), index) for n in (4, 16))
    assert torch.equal(small["sample"], large["sample"][:4])


def test_a_data_set_smaller_than_the_draw_is_kept_whole() -> None:
    scan = Background()
    result = scan.finalise(folded(scan, [torch.arange(3), torch.arange(3, 5)]))
    assert sorted(result["sample"].tolist()) == [0, 1, 2, 3, 4]
    assert scan.finalise(scan.init())["inputs"].shape == (0,)


def test_every_sample_is_drawn_equally_often_over_seeds() -> None:
    # 2,000 draws of 10 of 40: each count is binomial with mean 500 and deviation 19
    counts = torch.zeros(40)
    for seed in range(2000):
        counts[_ranks(torch.arange(40), seed).argsort()[:10]] += 1
    assert float((counts - 500).abs().max()) < 5 * 19.4


def test_ranks_are_the_mixers() -> None:
    # with no bits flipped, the outputs of the C code for states 1, 2 and 3
    found = _ranks(torch.tensor([1, 2, 3]) ^ _flipped(5), 5)
    assert found.tolist() == [_mixed(state) for state in (1, 2, 3)]
    many = _ranks(torch.arange(100_000), 0)
    assert len(many.unique()) == len(many)


def _flipped(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(str(seed).encode()).digest()[:8], "little", signed=True)


def _mixed(state: int) -> int:
    mask = (1 << 64) - 1
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
    state ^= state >> 31
    return state - (1 << 64) if state >> 63 else state


def test_the_library_scans_a_loader() -> None:
    model = torch.nn.Linear(3, 2)
    loader = [torch.randn(5, 3), torch.randn(4, 3)]
    found = explainers.scan(model, "background", loader, n_samples=6, seed=2)
    assert torch.equal(found["inputs"], torch.cat(loader)[found["sample"]])


@pytest.mark.parametrize("n_samples", [0, 2.5])
def test_a_draw_of_no_whole_number_is_refused(n_samples: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"expected .*at least 1"):
        explainers.build("background", n_samples=n_samples)
