"""Results of the scan `causal_graph` whose effects are made up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from explainers import Network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from explainers.causal.structure import Structure, WeightedLayer

FACTS = {"rule": "paired", "level": 0.05}
CLASSES = (0, 2)


def network() -> Network:
    """A convolution, one that reads it, and two linear layers."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 6),
        nn.ReLU(),
        nn.Linear(6, 3),
    ).eval()
    return Network(model, torch.zeros(2, 2, 8, 8))


def graph_result(
    structure: Structure,
    classes: Sequence[int] = CLASSES,
    *,
    seed: int = 0,
    least: float = 0.4,
    **changes: Any,
) -> dict[Any, Any]:
    """A result as the scan gives it.

    Parameters
    ----------
    structure
        Of the network.
    classes
        Which have a graph.
    seed
        Of the effects.
    least
        Smallest effect of a cause.
    changes
        Replace values of every layer that is tested.
    """
    generator = torch.Generator().manual_seed(seed)
    result: dict[Any, Any] = {}
    for label in classes:
        effects = {name: rows[0] for name, rows in structure.starts(torch.tensor([label])).items()}
        result[label] = {}
        for layer in reversed(structure.layers):
            below = torch.zeros(layer.n_outputs, dtype=torch.bool)
            values = _layer(layer, effects.get(layer.name, below), generator, least, changes)
            result[label][layer.name] = values
            selected = torch.zeros(1, layer.n_neurons, dtype=torch.bool)
            selected[0, values["causes"]] = True
            for name, passed in structure.passed_on(layer.name, selected).items():
                effects[name] = effects[name] | passed[0] if name in effects else passed[0]
        result[label] = dict(reversed(result[label].items()))
    n = len(classes)
    result["samples"] = {
        "sample": torch.arange(3 * n),
        "label": torch.tensor(classes).repeat_interleave(3),
        "is_held_out": torch.tensor([False, False, True]).repeat(n),
        "seen": torch.full((n,), 9),
        "correct": torch.full((n,), 8),
    }
    return result


def _layer(
    layer: WeightedLayer,
    effects: torch.Tensor,
    generator: torch.Generator,
    least: float,
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    none = torch.zeros(0, dtype=torch.int64)
    linked = effects.nonzero()[:, 0]
    if layer.is_root:
        return {"causes": none, "negative_causes": none, "effects": linked}
    n = layer.n_neurons
    te = torch.randn(n, generator=generator, dtype=torch.float64)
    sign = (-te.sign() * (te.abs() > least)).to(torch.int8)
    if not len(linked):
        sign, te = torch.zeros_like(sign), torch.full_like(te, torch.nan)
    cause, edge = torch.meshgrid(sign.nonzero()[:, 0], linked, indexing="ij")
    weight = te[cause] * torch.rand(cause.shape, generator=generator, dtype=torch.float64)
    is_retested = sign != 0
    values = {
        "causes": (sign > 0).nonzero()[:, 0],
        "negative_causes": (sign < 0).nonzero()[:, 0],
        "effects": linked,
        "sign": sign,
        "tested": torch.ones(n, dtype=torch.bool),
        "te": te,
        "te_low": te - 0.1,
        "te_high": te + 0.1,
        "relative": te / 10,
        "divergence": te.abs(),
        "statistic": te * 3,
        "p": 1 - te.abs().clamp(max=1),
        "q": 1 - te.abs().clamp(max=0.9),
        "frequency": te.abs().clamp(max=1),
        "is_borderline": te.abs().sub(least).abs() < 0.05,
        "held_out_te": torch.where(is_retested, te * 0.9, torch.nan),
        "held_out_p": torch.where(is_retested, 0.01, torch.nan),
        "is_confirmed": is_retested & (te.abs() > 0.5),
        "u": 0.0,
        "how": "paired" if len(linked) else "not reached",
        "n": 2,
        "n_held_out": 1,
        "jaccard": float(torch.rand((), generator=generator)),
        "nogueira": float(torch.rand((), generator=generator)),
        "edge_cause": cause.flatten(),
        "edge_effect": edge.flatten(),
        "edge_weight": weight.flatten(),
    }
    return {**values, **changes}
