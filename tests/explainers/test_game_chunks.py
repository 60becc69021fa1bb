"""How many rows go through a network at once: by the cache, or by memory that is measured."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from explainers import Network, Target, Trace
from explainers.features import resolve
from explainers.perturbing import valuation
from explainers.perturbing.fills import Fixed
from explainers.perturbing.game import Game
from explainers.sampling import chunks, forward_chunks
from tests.explainers.zoo import small, small_network

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class FakeMemory:
    """A device on which a row takes `per_row` bytes, beside a constant of the first pass."""

    size: int
    per_row: int
    n_measured: int = 0
    n_released: int = 0
    passes: list[int] = field(default_factory=list)

    def total(self) -> int:
        return self.size

    def taken(self, run: Callable[[], object]) -> int:
        before = len(self.passes)
        run()
        self.n_measured += 1
        return self.per_row * max(self.passes[before:])

    def release(self) -> None:
        self.n_released += 1


@functools.cache
def tiny() -> tuple[Network, Tensor]:
    inputs = torch.rand(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return Network(opaque, inputs), inputs


def opaque(inputs: Tensor) -> Tensor:
    return torch.stack([inputs.prod(1), inputs.sum(1)], 1) * (1 if inputs.sum() < 1e9 else -1)


def played(
    memory: FakeMemory, monkeypatch: pytest.MonkeyPatch, largest: int = 10**9
) -> tuple[Network, Game]:
    """Return a game on a device with this memory, where passes of more than `largest` rows fail."""
    network, inputs = tiny()
    real = valuation.outputs_at

    def outputs_at(trace: Trace, points: Tensor, rows: Tensor) -> Tensor:
        if len(points) > largest:
            raise torch.OutOfMemoryError("no memory left")
        memory.passes.append(len(points))
        return real(trace, points, rows)

    monkeypatch.setattr(valuation, "outputs_at", outputs_at)
    monkeypatch.setattr(forward_chunks, "memory_of", lambda device: memory)
    monkeypatch.setattr(forward_chunks, "_limits", {})
    trace = Trace(network, inputs)
    game = Game(trace, Target.parse(0), resolve(None, trace), Fixed(trace.baseline(None)))
    return network, game


def coalitions(n: int) -> Tensor:
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(1)) < 0.5


def test_memory_is_measured_once_and_a_quarter_of_it_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    memory = FakeMemory(size=20_000, per_row=100)
    network, game = played(memory, monkeypatch)
    game.values(coalitions(100))
    # fifty rows fit into a quarter of it; a power of two
    assert forward_chunks._limits[network] == 32
    assert memory.n_measured == 1
    probes = [1, forward_chunks.PROBE_ROWS]
    assert memory.passes[:2] == probes
    assert memory.passes[2:] == [30] * 10
    game.values(coalitions(100))
    assert memory.n_measured == 1


def test_a_pass_without_memory_halves_those_that_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = played(FakeMemory(size=10**6, per_row=1), monkeypatch)[1]
    expected = roomy.values(coalitions(40))
    memory = FakeMemory(size=20_000, per_row=100)
    network, game = played(memory, monkeypatch, largest=10)
    found = game.values(coalitions(40))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert forward_chunks._limits[network] == 8
    assert memory.n_released == 2


def test_memory_for_no_row_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _, game = played(FakeMemory(size=10, per_row=100), monkeypatch)
    game.values(coalitions(2))

    def outputs_at(trace: Trace, points: Tensor, rows: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("no memory left")

    monkeypatch.setattr(valuation, "outputs_at", outputs_at)
    with pytest.raises(torch.OutOfMemoryError, match="no memory left"):
        game.values(coalitions(2))


def limit_of(network: Network, rows: Tensor) -> int:
    return forward_chunks.forward_rows(network, rows, _never)


def _never(n_rows: int) -> None:
    raise AssertionError("nothing is to be measured on the CPU")


def widest_and_share() -> tuple[int, float]:
    """Return the bytes of the widest operator for a row, and rows with as many values as weights.

    The widest adds two values of 6 x 8 x 8 doubles to a third.
    """
    network, inputs = small_network(), small()[1]
    values = network.run(inputs)
    n_values = sum(values[op.name].numel() for op in network.operators) / len(inputs)
    # the second convolution is there with its norm taken in, and without
    n_weights = 6 * 3 * 9 + 6 + 2 * (6 * 6 * 9 + 6) + 5 * 96 + 5
    return 3 * 6 * 64 * 8, n_weights / n_values


@pytest.mark.parametrize(
    ("cache", "most", "share", "expected"),
    [
        (50, 1, 2.0, 50),
        (5, 999, 100.0, None),
        (5, 30, 1e3, 30),
        (10**6, 1, 2.0, 2048),
        (0, 0, 0, 1),
    ],
)
def test_on_the_cpu_cache_and_weights_decide(
    cache: int, most: int, share: float, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    widest, rows = widest_and_share()
    monkeypatch.setattr(forward_chunks, "CACHE_BYTES", cache * widest)
    monkeypatch.setattr(forward_chunks, "MOST_BYTES", most * widest)
    monkeypatch.setattr(forward_chunks, "WEIGHT_SHARE", share)
    monkeypatch.setattr(forward_chunks, "_limits", {})
    expected = round(share * rows) if expected is None else expected
    assert limit_of(small_network(), small()[1]) == expected


def test_an_opaque_network_is_judged_by_its_inputs() -> None:
    network, inputs = tiny()
    forward_chunks._limits.pop(network, None)
    assert limit_of(network, inputs) == chunks.rows_at_once(inputs)
