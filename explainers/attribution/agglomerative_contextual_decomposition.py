"""Which parts of a sample act together: hierarchies of components, from cells to one root."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from explainers import baselines, numeric, reference
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.cut import ends_inside
from explainers.decomposition import STRICT_PASSES, Decomposition
from explainers.hierarchies.cells import Cells, cells_of
from explainers.hierarchies.collapse import collapsed
from explainers.hierarchies.merging import merged
from explainers.hierarchies.picture import Growth
from explainers.hierarchies.scoring import (
    SCORES,
    Decomposed,
    Driven,
    Forwards,
    Places,
    Score,
    driving,
    seeds,
)
from explainers.hierarchies.sequence import SequenceGrowth
from explainers.hierarchies.tree import Tree
from explainers.rules.decomposition.carrying import check as check_rules

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from explainers.features import Partition
    from explainers.hierarchies.levels import Level
    from explainers.hierarchies.scoring import Scorer
    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Told = Literal["all", "target"]


@register("agglomerative_contextual_decomposition")
@dataclass(frozen=True)
class AgglomerativeContextualDecomposition(Attribution):
    """Hierarchy of the parts of a sample that matter to the target, most important first.

    Cells are squares of a picture, or tokens. Those with the highest scores are selected, and in
    rounds their neighbours of which the score of a component gains most, so that components grow;
    what is left in the end is merged, two at a time, until one is left: ACD (Singh, Murdoch and Yu
    2019, arXiv:1806.05337). The score of a union of cells is by default its relevant part by
    contextual decomposition.

    The map is the target's score of each cell by itself. The table, named like the entry, holds
    the nodes of each sample's tree: ``node``, ``parent`` (-1: the root, which is the last),
    ``level`` (at which it is first there: levels of growth from 0 on, then one for each merge),
    ``members`` (numbers of cells, row by row) and ``scores`` of the classes. Leaves are cells;
    those that are never selected are in no node. The array ``components``, int64 ``(batch, level,
    row, column)`` of cells of a picture or ``(batch, level, position)`` of all positions of a
    sequence, is the node that holds each at each level of growth, and in the end the root; -1 for
    none.
    """

    score: Score = "cd"
    """Of a union of cells: `cd` the relevant part of the output, `build_up` the output where all
    else is at the baseline, `break_down` the output of the sample minus that where the union is,
    `occlusion` minus the latter alone for pictures and the same as `break_down` for sequences, as
    in the authors' code. Single cells compete with what neighbours add to a component; in
    `build_up`, and `occlusion` of pictures, their scores have the output of nothing, or minus that
    of the sample, on top, which decides between the two."""
    sweep: int | None = None
    """Side of a cell, in values; by default a sixteenth of the shorter side of a picture, at
    least 1, and one token."""
    percentile: float | None = None
    """Of the scores of the cells that are left: those that reach it are selected, 0 to 100. By
    default 99.5 for sequences, 99 for cells of one value and 95 for larger ones."""
    n_iterations: int | None = None
    """Rounds of growth; by default 5 for pictures and 25 for sequences."""
    baseline: baselines.Baseline = 0.0
    """What cells are replaced by, for other scores than `cd`: 0 for values and token 0 by
    default; see `baselines.resolve`."""
    statistics: baselines.Statistics = None
    """Result of the scan `moments`; what the baseline ``data_mean`` is taken from."""
    smooth: bool = True
    """Of pictures, whether cells are selected three of whose sides are."""
    subtract: bool | None = None
    """Whether growth is driven by the target's score minus that of the other class, where there
    are two; by default for sequences."""
    absolute: bool | None = None
    """Whether cells of scores far below zero are selected as well as those far above; by default
    for sequences."""
    collapse: bool = True
    """Of sequences, whether the table's levels are one above the highest of a node's children, and
    0 for a token, in place of those of growth."""
    strict: bool = False
    """Whether `cd` carries both parts by themselves, as the published code does."""
    output_bias: bool = True
    """Whether `cd` shares out the bias of the last linear map; the published code for text leaves
    it out."""
    classes: Told | tuple[int, ...] = "all"
    """Whose scores the table holds: of `all` classes, of the `target`, or of a list. Where the
    target is a unit of a layer, of that alone."""

    tasks = frozenset({"image", "tabular", "text"})
    needs: ClassVar[Mapping[str, str]] = {"statistics": "moments"}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "acd_imagenet": {"sweep": 14, "percentile": 95.0, "n_iterations": 5},
        "acd_mnist": {"sweep": 1, "percentile": 99.0, "n_iterations": 5},
        "acd_text": {
            "sweep": 1,
            "percentile": 99.5,
            "n_iterations": 25,
            "subtract": True,
            "absolute": True,
            "output_bias": False,
        },
    }

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"got score={self.score!r}, expected one of {', '.join(SCORES)}")
        for name in ("sweep", "n_iterations"):
            if getattr(self, name) is not None:
                numeric.check_whole(name, getattr(self, name))
        if self.percentile is not None:
            numeric.check_finite("percentile", self.percentile)
            if self.percentile > 100:
                raise ValueError(f"got percentile={self.percentile}, expected 0 to 100")
        self._check_used()
        self._check_classes()

    def _check_used(self) -> None:
        """Refuse parameters that the score does not look at; presets may bring `output_bias`."""
        has_baseline = not isinstance(self.baseline, (int, float)) or self.baseline != 0
        if self.score == "cd" and has_baseline:
            raise ValueError(
                f"got baseline={self.baseline!r} for score='cd', which replaces nothing; leave it "
                "out, or take one of build_up, occlusion, break_down"
            )
        if self.score != "cd" and self.strict:
            raise ValueError(
                f"got strict=True for score={self.score!r}, which splits nothing in two parts; "
                "leave it out, or take score='cd'"
            )

    def _check_classes(self) -> None:
        if isinstance(self.classes, str):
            if self.classes not in ("all", "target"):
                raise ValueError(
                    f"got classes={self.classes!r}, expected 'all', 'target' or a list of classes"
                )
            return
        if not self.classes:
            raise ValueError("got classes=[], expected one class or more, or 'target'")
        for one in self.classes:
            numeric.check_whole("classes", one, 0)

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the scan `moments` where the baseline is the mean of the data."""
        return baselines.needs_of(parameters)

    @property
    def only_replaces(self) -> bool:
        """Whether unions are scored by outputs alone."""
        return self.score != "cd"

    @property
    def cost(self) -> Cost:
        """Forward passes alone; how many depends on the number of cells."""
        return Cost(forward=math.nan)

    def cost_on(self, network: Network) -> Cost:
        """Return about how many unions of cells are scored, each by a forward pass."""
        cells = self.cells(network)
        each = STRICT_PASSES if self.strict else 1
        # a unit of a layer has scores of its own
        shared = 1.0 if ends_inside(network) else 1.0 + each * cells.count
        return Cost(forward=1 + each * (cells.count + self._n_joined(cells)), shared=shared)

    def _n_joined(self, cells: Cells) -> int:
        """Return about how many unions of several cells are scored."""
        if cells.is_sequence:
            # of each position, what it is joined to on both sides
            return 2 * cells.count
        # blobs have about two neighbours for each of their cells
        per_round = 2 * self._n_selected(cells)
        rounds = range(1, self._rounds(cells))
        return sum(min(cells.count, number * per_round) for number in rounds)

    def check(self, network: Network) -> None:
        """Refuse inputs without cells, operators without a rule and classes that there are not."""
        self.cells(network)
        if self.score == "cd":
            check_rules(network)
        reference.check(self.baseline, network, self.statistics)
        if ends_inside(network):
            self._check_unit()
            return
        n_classes = network.n_outputs
        if self.subtract and n_classes != 2:
            raise ValueError(
                f"got subtract=True for {n_classes} outputs, expected 2: the score of the other "
                "class is subtracted; leave it out"
            )
        for one in () if isinstance(self.classes, str) else self.classes:
            if one >= n_classes:
                raise ValueError(f"got class {one} of {n_classes}; expected 0 to {n_classes - 1}")

    def _check_unit(self) -> None:
        if self.subtract or not isinstance(self.classes, str):
            raise ValueError(
                "got subtract or a list of classes for a target that is a unit of a layer, which "
                "has no other classes; leave them out"
            )

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return how many cells there are, and that passes are about so many."""
        cells = self.cells(network)
        shape = f"{cells.count}" if cells.is_sequence else f"{cells.shape[0]} x {cells.shape[1]}"
        notes: tuple[str, ...] = (
            f"{shape} cells of a side of {cells.size}, {self._rounds(cells)} rounds; passes are "
            "about as many as unions that are scored",
        )
        if cells.is_numbered:
            notes += (
                "components grow along the numbers of values: a neighbour is the value before or "
                "after, which means something only if their order does",
            )
        if self.score != "cd" and not self.output_bias:
            notes += (f"score {self.score} takes outputs as they are, whatever output_bias says",)
        if self._kind(cells) in ("build_up", "occlusion"):
            notes += (
                f"scores {self.score} have an offset: maps are not around 0, and single cells do "
                "not compete fairly with what neighbours add; cd and break_down have none",
            )
        return notes

    def axes(self, dims: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Return what the dimensions of `components` are called."""
        if len(dims) == 3:
            return {"components": ("level", "row", "column")}
        # of vectors, positions are either axis; where they are tokens, its name says so
        along = dims if len(dims) == 1 else [name for name in dims if name.startswith("token")]
        return {"components": ("level", *(along or ["position"])[:1])}

    def stored_bytes(self, network: Network) -> int:
        """Return the bytes of `components`, and about those of a table of nodes."""
        cells = self.cells(network)
        n_levels = self._rounds(cells) + 1
        n_told = network.n_outputs if self.classes == "all" else len(self._told_classes)
        n_nodes = 2 * min(cells.count, n_levels * self._n_selected(cells))
        return 8 * (n_levels * max(cells.count, cells.length) + n_nodes * (n_told + n_levels))

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield few large cells, and one round."""
        cells = self.cells(network)
        if cells.are_tokens:
            yield {"n_iterations": 1}
            return
        longest = max(cells.shape) * cells.size
        yield {"sweep": -(-longest // 4), "n_iterations": 1}

    def cells(self, network: Network) -> Cells:
        """Return how samples are cut into cells."""
        return cells_of(network, self.source_layer, self.sweep)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the scores of cells, the table of nodes and ``components``."""
        with torch.no_grad():
            weights = trace.cotangent(target)
            if ends_inside(trace.network):
                self._check_unit()
                ground, weights = self._prepared(trace, weights), weights.new_ones(len(weights), 1)
            else:
                ground = self._ground(trace)
            levels, n_growth = self._levels(ground, weights)
            tree = Tree(levels, ground.seeds)
            shown = ground.cells.spread(tree.components(n_growth, self._rounds(ground.cells)))
            relevance = ground.partition.map((ground.seeds * weights[:, None]).sum(2))
        return Explained(
            relevance, {"components": shown}, {"": self._table(tree, ground.cells, weights)}
        )

    def _ground(self, trace: Trace) -> _Ground:
        # self is kept, so that its address is no other method's while the batch is
        key = ("hierarchies", id(self), trace.namespace)
        return trace.once(key, lambda: (self._prepared(trace), self))[0]

    def _prepared(self, trace: Trace, weights: Tensor | None = None) -> _Ground:
        cells = self.cells(trace.network)
        partition = cells.partition(trace, self.source_layer)
        scorer = self._scorer(trace, Places(partition), cells)
        if weights is not None:
            # as many outputs as the layer has values, of which one is asked for
            scorer = Driven(scorer, weights)
        own = seeds(scorer, trace.n_rows, cells.count, trace.inputs.device)
        return _Ground(cells, partition, scorer, own)

    def _scorer(self, trace: Trace, places: Places, cells: Cells) -> Scorer:
        if self.score == "cd":
            made = Decomposition(trace, strict=self.strict, output_bias=self.output_bias)
            return Decomposed(made, places)
        baseline = trace.baseline(baselines.settled(self.baseline, self.statistics))
        return Forwards(trace, places, baseline, self._kind(cells))

    def _kind(self, cells: Cells) -> Score:
        is_other = self.score == "occlusion" and cells.is_sequence
        return "break_down" if is_other else self.score

    def _levels(self, ground: _Ground, weights: Tensor) -> tuple[list[Level], int]:
        """Return the levels of growth and of merging, and how many are of growth."""
        cells = ground.cells
        drive = self._drive(cells, weights)
        percentile, n_rounds = self._percentile(cells), self._rounds(cells)
        if cells.is_sequence:
            absolute = self.absolute is not False
            along = SequenceGrowth(percentile, n_rounds, absolute=absolute)
            levels = along.levels(ground.scorer, drive, ground.seeds)
        else:
            absolute = bool(self.absolute)
            growth = Growth(percentile, n_rounds, smooth=self.smooth, absolute=absolute)
            levels = growth.levels(ground.scorer, drive, cells.shape, ground.seeds)
        return [*levels, *merged(levels[-1], ground.scorer, drive)], len(levels)

    def _drive(self, cells: Cells, weights: Tensor) -> Tensor:
        has_two = weights.shape[1] == 2
        subtracts = cells.is_sequence if self.subtract is None else self.subtract
        return weights - weights.flip(1) if subtracts and has_two else weights

    def _table(self, tree: Tree, cells: Cells, weights: Tensor) -> list[dict[str, Any]]:
        def told(scores: Tensor, rows: Tensor) -> Tensor:
            if self.classes == "all":
                return scores
            if self.classes == "target":
                return driving(scores, weights, rows)[:, None]
            return scores[:, list(self._told_classes)]

        levels = collapsed(tree) if self.collapse and cells.is_sequence else None
        return tree.rows(told, levels)

    @property
    def _told_classes(self) -> tuple[int, ...]:
        return (0,) if isinstance(self.classes, str) else self.classes

    def _rounds(self, cells: Cells) -> int:
        return self.n_iterations or (25 if cells.is_sequence else 5)

    def _percentile(self, cells: Cells) -> float:
        if self.percentile is not None:
            return self.percentile
        if cells.is_sequence:
            return 99.5
        return 99.0 if cells.size == 1 else 95.0

    def _n_selected(self, cells: Cells) -> int:
        """Return about how many cells are selected in a round."""
        return 1 + int(cells.count * (100 - self._percentile(cells)) / 100)


@dataclass(frozen=True, eq=False)
class _Ground:
    """What the targets of a batch share."""

    cells: Cells
    partition: Partition
    scorer: Scorer
    seeds: Tensor
    """Scores of single cells, ``(batch, cells, classes)``."""
