"""A scan of two rounds: the brightest samples of parts of a picture, then their pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch

import explainers
from explainers import Cost, Result, Round, Samples, Scan, State, Trace

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

QUARTERS = {
    "layer.a": (slice(0, 4), slice(0, 4)),
    "layer.b": (slice(4, 8), slice(4, 8)),
}


class ByQuarter(Scan):
    """What both rounds share: entries are ``<layer>/<name>``, in the order of samples."""

    @property
    def cost(self) -> Cost:
        return Cost(forward=1)

    def init(self) -> State:
        return {}

    def merge(self, left: State, right: State) -> State:
        names = sorted({*left, *right})
        joined = {
            name: torch.cat([part[name] for part in (left, right) if name in part])
            for name in names
        }
        groups = {name.partition("/")[0] for name in names}
        orders = {group: joined[f"{group}/sample"].argsort() for group in groups}
        return {name: joined[name][orders[name.partition("/")[0]]] for name in names}

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        return self.merge(state, self.seen(trace, samples))

    def seen(self, trace: Trace, samples: Samples) -> State:
        raise NotImplementedError

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        wanted = sorted({name.partition("/")[0] for name in names})
        return [[name for name in names if name.startswith(f"{group}/")] for group in wanted]


@dataclass(frozen=True)
class Pictures(ByQuarter):
    """The second round: pictures of the samples that it is told of."""

    brightest: dict[str, list[int]]

    def seen(self, trace: Trace, samples: Samples) -> State:
        state: State = {}
        for layer, wanted in self.brightest.items():
            rows = torch.isin(samples.index, torch.tensor(wanted)).nonzero()[:, 0]
            if len(rows):
                state[f"{layer}/sample"] = samples.index[rows]
                state[f"{layer}/picture"] = trace.inputs[rows].half()
                state[f"{layer}/batch"] = torch.full((len(rows),), trace.n_rows)
        return state

    def finalise(self, state: State) -> Result:
        found: Result = {}
        for name, value in state.items():
            layer, _, entry = name.partition("/")
            found.setdefault(layer, {}).setdefault("pictures", {})[entry] = value
        return found


@dataclass(frozen=True)
class Brightest(ByQuarter):
    """Brightness of all samples, kept of each; then pictures of the brightest."""

    n: int = 3
    """How many."""

    def seen(self, trace: Trace, samples: Samples) -> State:
        state: State = {}
        for layer, value in _brightness(trace).items():
            state |= {f"{layer}/sample": samples.index, f"{layer}/value": value}
        return state

    def records(self, trace: Trace, samples: Samples) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {"relevance": trace.inputs.flatten(1).sum(1)}
        for layer, value in _brightness(trace).items():
            found[f"{layer}/total"] = torch.stack([value, -value], 1).float()
            found[f"{layer}/position"] = samples.index[:, None].expand(-1, 2)
        return found

    def finalise(self, state: State) -> Result:
        ((layer, value),) = [
            (name.removesuffix("/value"), state[name]) for name in state if name.endswith("/value")
        ]
        best = value.argsort(descending=True)[: self.n]
        per_class = {
            label: {"sample": state[f"{layer}/sample"][label : label + 2]} for label in (0, 2)
        }
        samples = state[f"{layer}/sample"][best]
        return {layer: {"sample": samples, "value": value[best], "per_class": per_class}}

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        if not results:
            return Round("lists", self)
        if len(results) > 1:
            return None
        best = {layer: found["sample"].tolist() for layer, found in results["lists"].items()}
        wanted = torch.tensor(sorted({each for found in best.values() for each in found}))
        return Round("pictures", Pictures(best), samples=wanted, is_large=True)


def _brightness(trace: Trace) -> dict[str, Tensor]:
    return {
        layer: trace.inputs[:, 0, rows, columns].sum((1, 2)).double()
        for layer, (rows, columns) in QUARTERS.items()
    }


@pytest.fixture(scope="module")
def _two_rounds() -> Iterator[None]:
    """Let run files name the scan `brightest` for the time of a module's tests."""
    explainers.methods.names()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explainers.methods, "_things", dict(explainers.methods._things))
        explainers.register("brightest")(Brightest)
        yield
    Brightest.name = ""
