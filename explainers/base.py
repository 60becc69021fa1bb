"""What an explainer is: an attribution (a map per sample) or a scan (a fold over a data set)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from explainers.network import Network
    from explainers.targets import Target
    from explainers.trace import Trace

Kind = Literal["attribution", "scan"]
State = dict[str, "Tensor"]
"""One element of a scan's monoid: flat, tensors only, so that safetensors can hold it."""

Result = dict[str, Any]
"""What a scan finalises to: names to tensors, or to further such mappings."""


_COUNTS = ("n_steps", "n_samples")
"""Fields that multiply passes; two of each find the same mistakes as fifty."""


@dataclass(frozen=True)
class Cost:
    """Passes through the network per explained sample, of one explainer on its own.

    In a run, the forward and the gradient that several explainers want are shared. What depends on
    the shape of the inputs is NaN until `Explainer.cost_on` is asked.
    """

    forward: float = 0.0
    """Forward passes, that of the sample itself among them."""
    backward: float = 0.0
    """Backward passes (of any rule table) to the input."""
    steps: int = 0
    """Optimiser steps."""
    shared: float = 0.0
    """Of the forward passes, how many are made once for all targets of a sample."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.forward + other.forward,
            self.backward + other.backward,
            self.steps + other.steps,
            self.shared + other.shared,
        )


@dataclass(frozen=True)
class Explained:
    """Relevance with whatever a method finds beside it."""

    relevance: Tensor
    """The map, ``(batch, ...)``; where `explaining.explained` has several inputs a tuple or dict of
    maps, as the inputs are, None for what has none."""
    arrays: Mapping[str, Tensor] = field(default_factory=dict)
    """Further arrays per sample, ``(batch, ...)`` each: standard errors, convergence deltas."""
    tables: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Rows per sample; each row has a field ``row``, the sample's position in the batch. The name
    ``""`` is that of a method's one table."""


@dataclass(frozen=True)
class Samples:
    """Who the rows of a batch are."""

    index: Tensor
    """Position in the manifest, int64, ``(batch,)``; unique within a data set."""
    label: Tensor
    """Class index, int64, ``(batch,)``; -1 where it is not known."""


class Explainer(ABC):
    """What attributions and scans share: a name, a cost and declared requirements.

    Subclasses are frozen dataclasses: their fields are the hyper-parameters.
    """

    name: ClassVar[str] = ""
    kind: ClassVar[Kind]
    requires: ClassVar[frozenset[str]] = frozenset()
    """Rule tables (``gradient``, ``lrp``) and facts (``labels``, ``masks``) it has to have."""
    tasks: ClassVar[frozenset[str]] = frozenset({"image", "tabular"})
    needs: ClassVar[Mapping[str, str]] = {}
    """Parameter to the scan method whose finalised result it can take."""
    stochastic: ClassVar[bool] = False
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Another implementation's name to the parameters that give its defaults."""

    @classmethod
    def needs_of(cls, parameters: Mapping[str, Any]) -> Mapping[str, str]:
        """Return those of `needs` that are wanted where these parameters are given.

        Parameters
        ----------
        parameters
            Names to what a run file says of them, not checked yet; of a parameter that takes a
            result, the name of a scan's entry.
        """
        return cls.needs

    @classmethod
    def parameters_of_needs(cls, parameters: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        """Return what a scan has to be asked for so that its result serves.

        Parameters
        ----------
        parameters
            As `needs_of` takes them.

        Returns
        -------
        Mapping[str, Mapping[str, Any]]
            Parameter of `needs_of` to parameters of the scan's entry, where that is added because
            nobody listed one; what is not said is left at its default.
        """
        return {}

    @property
    @abstractmethod
    def cost(self) -> Cost:
        """Passes per sample."""

    def cost_on(self, network: Network) -> Cost:
        """Return the passes per sample of a network, whose inputs have a shape."""
        return self.cost

    def check(self, network: Network) -> None:  # noqa: B027 - most explainers accept any network
        """Refuse a network that this explainer cannot serve, before any sample is read.

        Raises
        ------
        LookupError
            If a named layer does not exist.
        NotImplementedError
            If an operator has no rule in the tables that are required.
        ValueError
            If parameters and network do not fit.
        """

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return what a reader of results on this network should know; for most, nothing."""
        return ()


@dataclass(frozen=True)
class Attribution(Explainer):
    """A map per sample."""

    kind: ClassVar[Kind] = "attribution"

    has_zero: ClassVar[bool] = True
    """Whether zero is no relevance; if not, reports show maps from their least value up."""

    layer: str | None = field(default=None, kw_only=True)
    """Layer whose value is explained in place of the input: the map is then shaped like it."""

    @property
    def source_layer(self) -> str | None:
        """Layer that takes the input's place; None for a method that uses its layer otherwise."""
        return self.layer

    def dims(self, input_shape: tuple[int, ...]) -> tuple[str, ...]:
        """Names of the map's dimensions after ``sample``, for one input of this shape."""
        if len(input_shape) == 3:
            return ("channel", "height", "width")
        return tuple(f"feature_{axis}" for axis in range(len(input_shape)))

    @property
    def leading(self) -> Mapping[str, int]:
        """Dimensions of the map between ``sample`` and `dims`, with their sizes; for most, none.

        A method has them that finds several maps of each sample.
        """
        return {}

    @property
    def only_replaces(self) -> bool:
        """Whether it looks at outputs alone, where values are the sample's or what is filled in.

        That is all that can be done with tokens of a model that is no program.
        """
        return False

    def axes(self, dims: tuple[str, ...]) -> Mapping[str, tuple[str, ...]]:
        """Names of the dimensions after ``sample`` of arrays beside the map, whose own are `dims`.

        Those of other arrays are the map's where they have its shape, and numbered otherwise.
        """
        return {}

    def stored_bytes(self, network: Network) -> int:
        """Return the bytes of the arrays beside the map, of a sample and target, if they are large.

        Plans take the larger of this and of what a trial finds, which may have been a brief one.
        """
        return 0

    def briefer(self, network: Network) -> Iterator[Mapping[str, Any]]:
        """Yield changes of parameters with which fewer passes are taken, for trials.

        What is found then means nothing, but mistakes in the other parameters still show. A change
        may be one that this method refuses.
        """
        few = {each.name: 2 for each in fields(self) if each.init and each.name in _COUNTS}
        if few:
            yield few

    def check_rows(self, trace: Trace) -> None:
        """Refuse by a ValueError what shows on samples alone, such as their number of features."""

    def check_scans(self, scans: Mapping[str, Scan], network: Network) -> None:
        """Refuse by a ValueError scans, by parameter, whose results would not serve."""

    @abstractmethod
    def relevance(self, trace: Trace, target: Target) -> Tensor | Explained:
        """Relevance of each input value to the target, shaped as the inputs."""


class Scan(Explainer):
    """A fold over the data set whose states form a commutative monoid."""

    kind: ClassVar[Kind] = "scan"
    has_graphs: ClassVar[bool] = False
    """Whether `graphs` has any."""

    @abstractmethod
    def init(self) -> State:
        """Return the neutral element."""

    @abstractmethod
    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the state with one batch added."""

    @abstractmethod
    def merge(self, left: State, right: State) -> State:
        """Return the state of both parts; ``left`` comes first in shard order."""

    def merged(self, states: Iterable[State]) -> State:
        """Return the state of all parts, which come in shard order and are let go as they are used.

        By default they are merged one after the other.
        """
        found: State | None = None
        for state in states:
            found = state if found is None else self.merge(found, state)
        return self.init() if found is None else found

    @abstractmethod
    def finalise(self, state: State) -> Result:
        """Return the result of a complete fold."""

    def fold(self, batches: Iterable[tuple[Trace, Samples]]) -> State:
        """Return the state of one shard; the worker calls this once per shard and round."""
        state = self.init()
        for trace, samples in batches:
            state = self.update(state, trace, samples)
        return state

    def records(self, trace: Trace, samples: Samples) -> Mapping[str, Tensor]:
        """Return what is kept of each sample beside the state: ``(batch, ...)`` each, by name.

        Asked for each batch after it was folded; what the fold found is best remembered by
        `trace.once`. A name may have a group in front: ``layer4.1.conv2/total``.
        """
        return {}

    def groups(self, names: Collection[str]) -> Sequence[Collection[str]]:
        """Return which entries of a state go together, given the names of all.

        States are merged and finalised group by group, so that no more than one is in memory, and
        the result is the union of what `finalise` returns for each: of nested mappings, too. By
        default there is one group; an entry may be in several.
        """
        return [names]

    def finalised(self, state: State) -> Result:
        """Return the result of a state that is in memory: the union of those of its groups."""
        groups = self.groups(state.keys())
        return united(self.finalise({name: state[name] for name in group}) for group in groups)

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        """Return the next round, or None when all are done.

        Parameters
        ----------
        results
            Finalised results of the rounds so far, by round name, in order; empty at first.
        """
        return None if results else Round("all", self)

    def gist(self, result: Result) -> Result:
        """Return what later rounds need of a result, or a group of one, that is large.

        See `Round.is_large`; by default nothing.
        """
        return {}

    def briefer(self) -> Scan:
        """Return a scan that does less and makes the same mistakes, for trials; by default itself.

        What it finds means nothing.
        """
        return self

    def axes(self, path: Sequence[Any], n_axes: int, beside: Collection[Any]) -> Sequence[str]:
        """Return what the axes of an array in the result are called; by default they have no names.

        Parameters
        ----------
        path
            Keys that lead to it. They may lead to a mapping from integers as well, which is stored
            as one axis, with arrays of the same path: then what its keys are.
        n_axes
            How many names are expected.
        beside
            Keys of the mapping that it is in.
        """
        return ()

    def attributes(self, path: Sequence[Any]) -> Mapping[str, Any]:
        """Return what is said beside a stored array, as of codes CF's flag_values and -meanings."""
        return {}

    def stored_bytes(self, network: Network, n_samples: int, n_shards: int) -> Mapping[str, int]:
        """Return about how many bytes all its rounds store: ``states`` and ``results``.

        What is not said is taken to be as large as that of a few samples.
        """
        return {}

    def conclude(self, results: Mapping[str, Result]) -> Result:
        """Return the scan's result from those of its rounds; by default their union.

        Of large rounds the results may be missing here, and are joined to it later.
        """
        return united(results.values())

    def stored(self, result: Result) -> Result:
        """Return a result, or a part of one, in the form in which it is written to a store.

        By default it is written as it is. A result whose classes hold arrays of different lengths
        is stored as one array for all of them once the lengths are made equal here.
        """
        return result

    def graphs(self, result: Result, network: Network) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield graphs that a scan found, as documents to be written beside its result.

        Parameters
        ----------
        result
            As `conclude` returns it.
        network
            What was scanned.

        Yields
        ------
        tuple[str, dict[str, Any]]
            A name that a file can have, such as the class; and strings, finite numbers, None, lists
            and mappings of these.
        """
        yield from ()


@dataclass(frozen=True)
class Round:
    """One pass of a scan over the data set."""

    name: str
    """Names the pass: ``<scan>.<name>``."""
    scan: Scan
    """What folds this round; it carries what earlier rounds decided, and is pickled to workers."""
    samples: Tensor | None = None
    """Those that it wants to see, their indices ascending, int64; None for all. Others are not
    read."""
    is_large: bool = False
    """Whether its result is stored group by group and never in memory as a whole."""
    is_needed: bool = False
    """Whether later rounds look at a large result; then they are given what `Scan.gist` keeps of
    each group, else nothing."""


def united(results: Iterable[Result]) -> Result:
    """Return one mapping of several; where several have a mapping under a name, of these too."""
    found: Result = {}
    for result in results:
        for name, value in result.items():
            known = found.get(name)
            is_nested = isinstance(known, dict) and isinstance(value, dict)
            found[name] = united([known, value]) if is_nested else value  # type: ignore[list-item]
    return found
