"""Samples for which each concept is most relevant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from explainers import register
from explainers.base import Cost
from explainers.composites.composed import Composed
from explainers.concepts.kinds.parts import Parts
from explainers.concepts.scores import Scores
from explainers.kept import Kept, unread_by_gradients
from explainers.maximization.scan import Maximization
from explainers.maximization.scored import Scored
from explainers.registry import suggest
from explainers.rules.accounting import Unaccounted
from explainers.rules.walking import Course
from explainers.targets import Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

    from explainers.base import Samples
    from explainers.concepts.kinds import Concepts
    from explainers.maximization.scan import Found, Reader
    from explainers.network import Network
    from explainers.trace import Trace

WORDS = ("label", "predicted", "runner_up")


@register("relevance_maximization")
@dataclass(frozen=True)
class RelevanceMaximization(Composed, Maximization):
    """Samples for which each concept is most relevant (RelMax, Achtibat et al. 2023).

    arXiv:2206.03208. The explained output is handed back by the rules of a composite (as by `lrp`:
    what starts is the output itself, not a probability), and what arrives at each layer's value is
    scored. Lists of a class are of the samples for which it is the class that is explained. The
    walk back ends at the lowest layer that is asked for. With several targets the results have
    ``[target]`` in front, of an index too as a string; they share the forward pass.
    """

    target: str | int | tuple[str | int, ...] | None = "label"
    """Which output is explained: `label`, `predicted` (as null is), `runner_up`, the index of a
    class, or a list of these. Samples without a label have no `label`; set `target: predicted`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self._given
        for each in given:
            is_index = isinstance(each, int) and not isinstance(each, bool) and each >= 0
            if not is_index and each not in WORDS:
                raise ValueError(
                    f"got target {each!r}, expected the index of a class, or "
                    f"{suggest(str(each), WORDS)}"
                )
        if not given or len(set(given)) < len(given):
            raise ValueError(f"got targets {given!r}, expected at least one, each once")
        _ = self.resolved

    @property
    def _given(self) -> tuple[str | int, ...]:
        if self.target is None:
            return ("predicted",)
        return (self.target,) if isinstance(self.target, str | int) else tuple(self.target)

    @property
    def cost(self) -> Cost:
        """A forward pass, its denominators, and a walk back for each target."""
        return Cost(forward=2, backward=len(self._given))

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Each target where there are several."""
        return tuple(map(str, self._given)) if len(self._given) > 1 else ("",)

    def check(self, network: Network) -> None:
        """Refuse what is not a program, operators without a rule, and what has no such target."""
        for each in self._given:
            Target.parse(each).check(network)
        super().check(network)
        self.check_composite(network, self.layers_at(network))

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return which of its rules cannot conserve relevance, and how large lists may become."""
        return (*self.notes_of_composite(network, self.layers_at(network)), *super().notes(network))

    def reader(self, network: Network) -> Reader:
        """Return what scores the relevances of batches."""
        targets = dict(zip(self.prefixes, map(Target.parse, self._given), strict=True))
        return _Relevances(self, network, targets)


class _Relevances:
    """Carries relevance of batches back to layers and scores it there, as it passes."""

    def __init__(
        self, scan: RelevanceMaximization, network: Network, targets: dict[str, Target]
    ) -> None:
        self._targets = targets
        self._concepts = scan.concepts_of(network)
        self._layers_at = scan.layers_at(network)
        choose = scan.resolved.choose(network, self._layers_at)
        self._course = Course(network, choose, ends=self._layers_at)
        rules = scan.resolved.rules(network, self._layers_at)
        self._unread = _unread(network, rules, self._concepts.values())

    def __call__(self, trace: Trace, samples: Samples) -> Found:
        """Return the scores of a batch."""
        values = trace.once("values", lambda: self._computed(trace))
        return {
            prefix: Scored(
                samples.index, _classes(trace, target), self._scores(trace, target, values)
            )
            for prefix, target in self._targets.items()
        }

    def _computed(self, trace: Trace) -> Kept:
        network = trace.network
        inputs = network.structure.filled(tuple(trace.parts.values()))
        return Kept(network, network.run(inputs, unread=self._unread))

    @torch.no_grad()
    def _scores(self, trace: Trace, target: Target, values: Kept) -> dict[str, Scores]:
        found: dict[str, Scores] = {}

        def seen(name: str, relevance: Tensor) -> None:
            for layer, concepts in self._layers_at[name].items():
                value = None if isinstance(concepts, Parts) else values[name]
                found[layer] = concepts.scores(relevance, value)

        start = trace.cotangent(target) * trace.output
        starts = {trace.network.output_name: start}
        self._course.carry(Unaccounted(values), starts, self._layers_at, {}, seen)
        return {
            layer: found[layer] if layer in found else _none(concepts, start)
            for layer, concepts in self._concepts.items()
        }


def _unread(
    network: Network, rules: Mapping[str, str], concepts: Iterable[Concepts]
) -> frozenset[str]:
    """Return the operators whose values a walk with these rules does not look at.

    They go into a ReLU alone, which passes relevance, and their own rule looks at the input, or the
    walk ends before it.
    """
    wanted = {one.operator for one in concepts if not isinstance(one, Parts)}
    return frozenset(
        name
        for name in unread_by_gradients(network) - wanted
        if rules.get(name) in (None, *_LOOKING_AT_INPUTS)
    )


_LOOKING_AT_INPUTS = ("flat", "z_plus", "z_plus.nonnegative")


def _classes(trace: Trace, target: Target) -> Tensor:
    """Return the class that is explained for each row.

    Raises
    ------
    ValueError
        If it is the label, and some row has none.
    """
    samples = trace.samples
    if target.kind == "label" and samples is not None and bool((samples.label < 0).any()):
        raise ValueError(
            "target 'label' needs a label for every sample, got some without (-1); "
            "set target: predicted"
        )
    return trace.cotangent(target).argmax(1)


def _none(concepts: Concepts, like: Tensor) -> Scores:
    """Return the scores of a layer that no relevance reaches."""
    zeros = like.new_zeros(len(like), concepts.n)
    return Scores(zeros, zeros, torch.zeros_like(zeros, dtype=torch.int64))
