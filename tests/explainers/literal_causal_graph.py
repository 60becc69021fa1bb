"""The published learning of a causal graph, one weight edit and one forward pass at a time.

Every step as the published algorithm (arXiv:2305.08950) and its implementation take it: samples
one by one, for each neuron and sample an edit of the live weights and a forward pass of one
sample, the one-sided unpaired z test against a reference that counts one sample more, the
fallback, the odd rule of a single sample, and the sub-sampling of wide layers. Not done as there:
which modules are layers, and how features group into channels at a flatten, is said by the caller
instead of being guessed from names; weights are put back exactly; random numbers are the caller's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Z = 1.65
FALLBACK = -0.001
ONLY_ONE = 0.05
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """What the network says of the samples of a class when nothing is edited."""

    kept: list[Tensor]
    logits: Vector
    outputs: list[Vector]
    mean: float
    deviation: float

    @property
    def n(self) -> int:
        """Return the number of samples on which interventions are made."""
        return len(self.kept)


@dataclass(frozen=True)
class Tested:
    """One layer's causes, and per neuron and sample what the interventions did."""

    causes: list[int]
    effects: list[int]
    how: str
    """``z``, ``fallback``, ``single``, ``root`` or ``not reached``."""
    tested: list[int] = field(default_factory=list)
    te: Vector = field(default_factory=lambda: np.empty((0, 0)))
    """``(tested, samples)``, and so the two below."""
    relative: Vector = field(default_factory=lambda: np.empty((0, 0)))
    divergence: Vector = field(default_factory=lambda: np.empty((0, 0)))
    bound: Vector = field(default_factory=lambda: np.empty(0))
    """Mean logit below which the z test calls a tested neuron causal, ``(tested,)``."""
    means: Vector = field(default_factory=lambda: np.empty(0))


def learn(
    model: nn.Module,
    layers: Sequence[nn.Module],
    samples: Sequence[Tensor],
    label: int,
    n_samples: int,
    *,
    u: Sequence[float] | float = 0.0,
    channels: Mapping[int, int] | None = None,
    max_inputs: int = 600,
) -> list[Tested]:
    """Return the graph of one class, layer by layer from the first to the last.

    Parameters
    ----------
    model
        Returns logits ``(1, classes)``.
    layers
        Every module with weights, in order of definition; the first is the root. Norms and
        depthwise convolutions may be among them: effects pass through.
    samples
        Inputs of the class, each ``(1, ...)``, in the order in which they are read.
    label
        The class.
    n_samples
        After so many that are classified as the class, reading stops.
    u
        The weight of an intervention, of all layers or of each.
    channels
        By position of a layer that reads a flatten: how many channels were flattened.
    max_inputs
        Of layers with more neurons one fifth is tested.

    """
    constants = [u] * len(layers) if isinstance(u, float) else list(u)
    reference = read(model, samples, label, n_samples)
    graph = [Tested([], [], "not reached") for _ in layers]
    effects = [label]
    for position in reversed(range(len(layers))):
        weight = weight_of(layers[position])
        if position == 0:
            graph[0] = Tested([0], effects, "root")
        elif weight.ndim == 1 or (weight.ndim > 2 and weight.shape[1] == 1):
            graph[position] = Tested(effects, effects, "passed through")
        else:
            n_channels = (channels or {}).get(position, weight.shape[1])
            neurons = chosen(weight, effects[-1], n_channels, max_inputs)
            graph[position] = one_layer(
                model, weight, reference, label, effects, neurons, n_channels, constants[position]
            )
            effects = graph[position].causes
            if not effects:
                break
    return graph


def weight_of(layer: nn.Module) -> nn.Parameter:
    """Return the live weight of a layer."""
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def read(model: nn.Module, samples: Sequence[Tensor], label: int, n_samples: int) -> Reference:
    """Return the samples kept; the reference has one more if there is one more."""
    kept: list[Tensor] = []
    logits: list[float] = []
    outputs: list[Vector] = []
    for sample in samples:
        answer = forward(model, sample)
        if int(answer.argmax()) != label:
            continue
        logits.append(float(answer[label]))
        if len(kept) == n_samples:
            break
        kept.append(sample)
        outputs.append(answer)
    deviation = float(np.std(logits, ddof=1)) if len(logits) > 1 else float("nan")
    values = np.array(logits)
    return Reference(kept, values[: len(kept)], outputs, float(values.mean()), deviation)


def chosen(weight: Tensor, last_effect: int, n_channels: int, max_inputs: int) -> list[int]:
    """Return the neurons that are tested: of many, one fifth by the last effect's weights.

    One tenth with the largest weights, one twentieth with the smallest and one twentieth around
    the median, each number rounded down; the weight of a channel is the sum over its kernel.
    """
    if n_channels <= max_inputs:
        return list(range(n_channels))
    own = weight[last_effect].detach().reshape(n_channels, -1).sum(1)
    order = torch.argsort(own, stable=True).tolist()
    largest, part = int(0.10 * n_channels), int(0.05 * n_channels)
    middle = n_channels // 2 - part // 2
    picked = order[-largest:] + order[:part] + order[middle : middle + part]
    return sorted(picked)


def one_layer(
    model: nn.Module,
    weight: nn.Parameter,
    reference: Reference,
    label: int,
    effects: list[int],
    neurons: list[int],
    n_channels: int,
    u: float,
) -> Tested:
    """Return which neurons of one layer are causes of the effects."""
    size = weight.shape[1] // n_channels
    logits, divergences = [], []
    for neuron in neurons:
        own_logits, own_divergences = [], []
        for sample, before in zip(reference.kept, reference.outputs, strict=True):
            after = edited(model, weight, sample, effects, neuron * size, size, u)
            own_logits.append(after[label])
            own_divergences.append(divergence(after, before))
        logits.append(own_logits)
        divergences.append(own_divergences)
    moved = np.array(logits)  # (tested, samples)
    relative = moved / reference.logits - 1
    causes, how, bound = decided(moved, relative, reference)
    return Tested(
        [neurons[at] for at in causes],
        list(effects),
        how,
        neurons,
        moved - reference.logits,
        relative,
        np.array(divergences),
        bound,
        moved.mean(1),
    )


def decided(moved: Vector, relative: Vector, reference: Reference) -> tuple[list[int], str, Vector]:
    """Return positions of the causes, by which rule, and the z test's bounds."""
    n = reference.n
    if n == 1:
        return np.flatnonzero(relative[:, 0] < ONLY_ONE).tolist(), "single", np.empty(0)
    means, deviations = moved.mean(1), moved.std(1, ddof=1)
    error = np.sqrt(deviations**2 / n + reference.deviation**2 / n)
    bound = reference.mean - Z * error
    causes = np.flatnonzero(means < bound).tolist()
    if causes:
        return causes, "z", bound
    return np.flatnonzero(relative.mean(1) < FALLBACK).tolist(), "fallback", bound


def edited(
    model: nn.Module,
    weight: nn.Parameter,
    sample: Tensor,
    effects: list[int],
    first: int,
    size: int,
    u: float,
) -> Vector:
    """Return the logits of a sample while the weights of all effects are ``u`` at one neuron."""
    before = weight.detach().clone()
    with torch.no_grad():
        for effect in effects:
            weight[effect, first : first + size] = u
    after = forward(model, sample)
    with torch.no_grad():
        weight.copy_(before)
    return after


@torch.no_grad()
def forward(model: nn.Module, sample: Tensor) -> Vector:
    """Return the logits of one sample, ``(classes,)``."""
    logits: Vector = model(sample)[0].double().cpu().numpy()
    return logits


def divergence(after: Vector, before: Vector) -> float:
    """Return KL(after || before) of the probabilities of two vectors of logits, in nats."""
    p, q = (np.exp(logits - logits.max()) for logits in (after, before))
    p, q = p / p.sum(), q / q.sum()
    return float(sum(p[i] * np.log(p[i] / q[i]) for i in range(len(p)) if p[i] > 0))


def stability(
    model: nn.Module,
    layer: nn.Module,
    samples: Sequence[Sequence[Tensor]],
    label: int,
    effects: list[int],
    draws: Sequence[float],
    n_channels: int | None = None,
) -> list[list[int]]:
    """Return one layer's causes learned anew for each draw of ``u``, each from samples of its own.

    The published routine draws ``u`` from ``(0, beta)``, ten times for each of 51 values of beta.
    """
    found, weight = [], weight_of(layer)
    count = n_channels or weight.shape[1]
    for u, own in zip(draws, samples, strict=True):
        reference = read(model, own, label, len(own))
        tested = one_layer(model, weight, reference, label, effects, list(range(count)), count, u)
        found.append(tested.causes)
    return found
