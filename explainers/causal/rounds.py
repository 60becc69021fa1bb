"""What follows from the rounds so far: the graph as far as it is known, and the next round."""

from __future__ import annotations

import fnmatch
import math
from typing import TYPE_CHECKING, Any

import torch

from explainers.base import Round
from explainers.causal import tally
from explainers.causal.asking import Task
from explainers.causal.choosing import Choosing, Chosen
from explainers.causal.concluding import Concluding, Exact, Found
from explainers.causal.deciding import Rule, decided
from explainers.causal.outline import Outline
from explainers.causal.results import HOW, NOT_REACHED, result_of
from explainers.causal.screening import Screening, screened
from explainers.causal.tallying import Statistics
from explainers.causal.testing import Testing
from explainers.registry import suggest
from explainers.sampling.counted import seed_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from explainers.base import Result
    from explainers.scan.causal_graph import CausalGraph

SAMPLES, GRAPH, EXACT = "samples", "graph", "edges"
"""Names of rounds; those of levels are ``level_<n>`` and ``level_<n>.screen``."""
_WIDTH = 0.01
"""Of the interval that soft interventions are drawn from, as the original has it."""


class Progress:
    """A graph as far as it is known; made anew from the results of rounds, whoever has them.

    What a round is asked for, and so its name, follows from the results before it alone.

    Parameters
    ----------
    scan
        What was asked for.
    results
        Of the rounds so far, of which there is one at least.
    """

    def __init__(self, scan: CausalGraph, results: Mapping[str, Result]) -> None:
        found = results[SAMPLES]
        self.scan, self.results = scan, results
        self.outline = Outline.read(found)
        self.chosen = Chosen.of(found, choosing(scan), scan.n_samples, scan.n_held_out)
        self.rule = _rule(scan, self.outline)
        self._seed = int(found["seed"]) if "seed" in found else 0
        n = self.chosen.counts(self.chosen.for_selection)
        self._is_enough = n >= self.rule.fewest
        self.effects = self.outline.begun(self.chosen.classes)
        for channels in self.effects.values():
            channels &= self._is_enough[:, None]
        self.facts: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, Task] = {}
        self.next = self._levels() or self._behind()
        """The next round."""

    def result(self) -> Result:
        """Return the scan's result."""
        return result_of(self.chosen, self.outline, self.effects, self.facts)

    def _levels(self) -> Round | None:
        """Go through the levels as far as they are known, and return the round of the next."""
        names = named(self.scan, [each.name for each in self.outline.layers])
        for number, layers in enumerate(self.outline.levels(names)):
            tasks = {name: self._task(name) for name in layers}
            asked = {name: task for name, task in tasks.items() if task.effects.any()}
            following = self._level(number, asked) if asked else None
            if following is not None:
                return following
            known = self.results.get(f"level_{number}", {})
            for name in layers:
                self.facts[name] = dict(known[name]) if name in known else self._blank(name)
                self._note(name)
        return None

    def _level(self, number: int, tasks: dict[str, Task]) -> Round | None:
        """Return the round of a level, or of its screening; None if both are done."""
        scan, name = self.scan, f"level_{number}"
        if scan.screening is not None:
            key = f"{name}.screen"
            if key not in self.results:
                which = self.chosen.for_selection
                return self._round(key, Screening(self.chosen, which, tasks))
            found = self.results[key]
            for layer, task in tasks.items():
                tasks[layer] = screened(
                    task,
                    found[layer],
                    screening=scan.screening,
                    share=scan.audit,
                    seed=self._seed,
                    layer=layer,
                    classes=self.chosen.classes,
                )
        self.tasks |= tasks
        if name in self.results:
            return None
        which = self.chosen.for_selection
        if self.rule.is_compat:
            which = which | self.chosen.is_following
        statistics = Statistics(self.rule, scan.n_bootstrap, self._seed)
        test = Testing(self.chosen, which, tasks, statistics)
        return self._round(name, test)

    def _behind(self) -> Round | None:
        """Return the rounds that follow the levels; None if all are done."""
        scan, chosen = self.scan, self.chosen
        layers = self._layers()
        has_held_out = bool(chosen.is_held_out.any()) and any(
            bool(each.sign.any()) for each in layers.values()
        )
        has_edges = scan.edges != "none" and any(bool(each.sign.any()) for each in layers.values())
        if not layers or not (has_held_out or has_edges or scan.sweep):
            self._complete({})
            return None
        if GRAPH not in self.results:
            which = chosen.for_selection | chosen.is_held_out
            if self.rule.is_compat and scan.sweep:
                which = which | chosen.is_following
            most = scan.max_edges if scan.edges != "none" else 0
            return self._round(
                GRAPH, Concluding(chosen, which, layers, self.rule, tuple(scan.sweep), most)
            )
        found = self.results[GRAPH]
        edges = {name: each["edges"] for name, each in found.items() if "edges" in each}
        if scan.edges == "exact" and edges:
            if EXACT not in self.results:
                asked = Exact(chosen, chosen.for_selection, layers, edges)
                return self._round(EXACT, asked)
            exact = self.results[EXACT]
            found = {name: {**each, **exact.get(name, {})} for name, each in found.items()}
        self._complete(found)
        return None

    @property
    def _swept(self) -> set[str]:
        """The layers that other values of u are tried in, as far as they are tested."""
        if not self.scan.sweep:
            return set()
        names = [each.name for each in self.outline.layers]
        return set(named(self.scan, names, "sweep_layers") or names)

    def _layers(self) -> dict[str, Found]:
        """Return the layers that something was found in, or that are swept."""
        found = {
            name: Found(task, self.facts[name]["sign"], name in self._swept)
            for name, task in self.tasks.items()
        }
        return {name: each for name, each in found.items() if each.sign.any() or each.is_swept}

    def _complete(self, found: Mapping[str, Result]) -> None:
        """Add to each layer what the last rounds found, or that they found nothing."""
        n_classes = len(self.chosen.classes)
        for name, facts in self.facts.items():
            shape = facts["sign"].shape
            blank = torch.full(shape, torch.nan, dtype=torch.float64)
            facts |= {
                "held_out_te": blank,
                "held_out_p": blank,
                "held_out_q": blank,
                "is_confirmed": blank,
                "n_held_out": torch.zeros(n_classes, dtype=torch.int64),
                "u": torch.full((n_classes,), self._u(name), dtype=torch.float64),
            }
            if self.scan.edges != "none":
                none = torch.zeros(0, dtype=torch.int64)
                facts["edges"] = dict.fromkeys(("member", "cause", "effect"), none) | {
                    "weight": torch.zeros(0, dtype=torch.float64)
                }
            if name in self._swept:
                facts["sweep"] = _unswept(self.scan.sweep, shape)
            facts |= found.get(name, {})
            if name in self._swept:
                how = facts["sweep"]["how"]
                few = HOW.index("too few samples")
                facts["sweep"]["how"] = how.masked_fill(~self._is_enough[:, None], few)

    def _task(self, name: str) -> Task:
        return Task(self.effects[name], self._u(name), self.outline.layer(name).n_neurons)

    def _u(self, name: str) -> float:
        """Return what the weights of a layer are set to."""
        if self.scan.beta is None:
            return self.scan.u
        bits = seed_of(f"{self._seed}\0u\0{name}") & ((1 << 53) - 1)
        return self.scan.beta + _WIDTH * math.ldexp(bits, -53)

    def _blank(self, name: str) -> dict[str, Tensor]:
        """Return what is known of a layer that nobody reaches."""
        n_classes, n_neurons = len(self.chosen.classes), self.outline.layer(name).n_neurons
        state = tally.empty(n_classes, n_neurons, 0, is_compat=self.rule.is_compat)
        nobody = torch.zeros(n_classes, dtype=torch.bool)
        found = decided([state], self.rule, n_neurons, nobody)
        if self.scan.screening is not None:
            none = torch.full((n_classes,), torch.nan, dtype=torch.float64)
            zeros = torch.zeros(n_classes, dtype=torch.int64)
            found |= dict.fromkeys(("recall", "recall_of_strongest", "screen_correlation"), none)
            found["n_audited"] = zeros
        return found

    def _note(self, name: str) -> None:
        """Go on with what was selected in a layer."""
        facts = self.facts[name]
        facts["how"] = facts["how"].masked_fill(~self._is_enough, HOW.index("too few samples"))
        sign = facts["sign"]
        selected = sign != 0 if self.scan.follow == "both" else sign > 0
        self.outline.pass_on(name, selected, self.effects)

    def _round(self, name: str, scan: Screening | Testing | Concluding | Exact) -> Round:
        return Round(name, scan, scan.samples)


def choosing(scan: CausalGraph) -> Choosing:
    """Return the first round's scan."""
    classes = None if scan.classes == "all" else tuple(sorted(scan.classes))
    further = max(scan.n_held_out, int(scan.rule == "compat"))
    return Choosing(scan.n_samples + further, classes)


def named(
    scan: CausalGraph, layers: Sequence[str], parameter: str = "layers"
) -> tuple[str, ...] | None:
    """Return which layers a parameter's patterns name; None where it names none.

    Raises
    ------
    LookupError
        If a pattern fits no layer.
    """
    given = getattr(scan, parameter)
    if given is None:
        return None
    patterns = (given,) if isinstance(given, str) else tuple(given)
    for pattern in patterns:
        if not fnmatch.filter(layers, pattern):
            raise LookupError(
                f"{parameter}: no {'weighted' if parameter == 'layers' else 'tested'} layer "
                f"matches {pattern!r}; {suggest(pattern, layers)}"
            )
    return tuple(
        name for name in layers if any(fnmatch.fnmatchcase(name, each) for each in patterns)
    )


def _rule(scan: CausalGraph, outline: Outline) -> Rule:
    most = scan.compat_max_inputs if scan.rule == "compat" else None
    return Rule(scan.rule, scan.level, outline.dtype, most)


def _unswept(values: Sequence[float], shape: torch.Size) -> dict[str, Tensor]:
    """Return what is said of values of u where no class was reached."""
    n_classes, n_neurons = shape
    given = torch.tensor(tuple(values), dtype=torch.float64).expand(n_classes, -1)
    nan, none = torch.nan, torch.zeros(given.shape, dtype=torch.int64)
    return {
        "u": given,
        "how": torch.full(given.shape, NOT_REACHED),
        "n_causes": none,
        "n_negative_causes": none,
        "jaccard": torch.full(given.shape, nan, dtype=torch.float64),
        "nogueira": torch.full((n_classes,), nan, dtype=torch.float64),
        "frequency": torch.full((n_classes, n_neurons), nan, dtype=torch.float64),
    }
