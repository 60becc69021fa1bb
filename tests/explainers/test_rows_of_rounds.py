"""What the driver of scans reads, and computes, for several rounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from explainers import driver
from explainers.base import Cost, Round, Scan
from explainers.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping

    from explainers.base import Result, Samples, State
    from explainers.trace import Trace

FEW = torch.tensor([1, 4])


@dataclass(frozen=True)
class Sums(Scan):
    """Adds logits up, in several rounds."""

    n_rounds: int = 3
    cost = Cost(forward=1)

    def init(self) -> State:
        return {"sum": torch.zeros(2, dtype=torch.float64)}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        return {"sum": state["sum"] + trace.output.sum(0) + samples.index.sum()}

    def merge(self, left: State, right: State) -> State:
        return {"sum": left["sum"] + right["sum"]}

    def finalise(self, state: State) -> Result:
        return dict(state)

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        if len(results) == self.n_rounds:
            return None
        return Round(f"round_{len(results)}", self, samples=FEW if results else None)

    def conclude(self, results: Mapping[str, Result]) -> Result:
        return {name: each["sum"] for name, each in results.items()}


@pytest.mark.slow
@pytest.mark.parametrize(("held", "n_forward"), [(driver.HELD, 3 + 2), (0, 3 + 2 + 2)])
def test_samples_of_the_round_before_are_computed_once_if_they_are_few(
    held: int, n_forward: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    inputs = torch.randn(6, 3, dtype=torch.float64)
    network = Network(model, inputs)
    plain, seen = network.run, []

    def run(given: Tensor, **others: Any) -> Any:
        seen.append(len(given))
        return plain(given, **others)

    monkeypatch.setattr(network, "run", run)
    monkeypatch.setattr(driver, "HELD", held)
    monkeypatch.setattr(driver, "build", lambda name: Sums())
    found = driver.scan(network, "sums", list(inputs.split(2)))
    assert len(seen) == n_forward
    expected = model(inputs[FEW]).sum(0) + FEW.sum()
    for name in ("round_1", "round_2"):
        # sums in float64, in two orders
        torch.testing.assert_close(found[name], expected.detach(), atol=1e-12, rtol=0)
