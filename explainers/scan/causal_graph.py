"""Causal graphs of a network: which neurons each class depends on, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from explainers import numeric, register
from explainers.base import Cost, Round, Scan
from explainers.causal import results as form
from explainers.causal.decision import LEAST
from explainers.causal.effort import bytes_of, effort_of, largest
from explainers.causal.outline import Outline, check_tested, dtype_of
from explainers.causal.rounds import SAMPLES, Progress, choosing, named
from explainers.causal.structure import structure_of
from explainers.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from explainers.base import Result, Samples, State
    from explainers.causal.choosing import Choosing
    from explainers.network import Network
    from explainers.trace import Trace

_COARSE = 1e-4
"""Rounding of numbers of which users are told: that of half precision."""
_MUCH = 1 << 30
"""Bytes of which users are told."""


@register("causal_graph")
@dataclass(frozen=True)
class CausalGraph(Scan):
    r"""A graph of causes for each class, learned by interventions on weights (arXiv:2305.08950).

    For a class c, an intervention do(n, u) on a neuron n of a layer sets the weights of n in all
    channels of an effect set E to u. With Y the logit of the class and Y' the same under the
    intervention, its effect on a sample is :math:`TE = Y' - Y`; beside it are
    :math:`Y' / Y - 1` and :math:`KL(P' \| P)` of the probabilities, in nats. The neurons whose
    effects are not due to chance, over `n_samples` samples that are classified as c, are the
    causes of E: positive ones, without which the logit is lower, and negative ones. E of the last
    layer is the class's output, and E of any other the channels that the causes in the layers that
    read it are made of. The layers, neurons and channels are those of
    `explainers.causal.structure`.

    Rule ``paired`` is a two-sided paired t test of TE with the procedure of Benjamini and Hochberg
    (1995, doi:10.1111/j.2517-6161.1995.tb02031.x) among the neurons of a class and layer; rule
    ``compat`` is the original's one-sided, unpaired z test at 1.65, with its fallback.

    The result has ``[class][layer]``, layers in execution order, with

    - ``causes``, ``negative_causes`` (neurons) and ``effects`` (channels), int64, ascending; these
      alone of layers that read the input only, or that `layers` leaves out;
    - for each neuron: ``tested`` (bool), ``sign`` (int8; 1 a positive cause, -1 a negative one),
      ``te`` with the 95 % interval ``te_low`` to ``te_high`` of a Poisson bootstrap, ``relative``,
      ``divergence``, ``statistic``, ``p``, ``q``, ``margin``, ``frequency`` (share of bootstrap
      replicates that select it with its sign), ``is_borderline`` (bool: rounding could change what
      was decided), and of causes on samples that they were not selected on ``held_out_te``,
      ``held_out_p``, ``held_out_q`` and ``is_confirmed`` (1 or 0), all three NaN elsewhere;
    - for each edge: ``edge_cause``, ``edge_effect`` and ``edge_weight``, the mean effect on the
      logit if the weights of one effect alone are set;
    - plain values: ``how`` (``paired``, ``z``, ``fallback``, ``one sample``, ``too few samples`` or
      ``not reached``), ``u``, ``n``, ``n_held_out``, and over bootstrap replicates ``jaccard``, the
      mean index to what was selected (NaN without a test), and ``nogueira``, the stability (JMLR
      18(174), 2018);
      with `screening` ``recall``, ``recall_of_strongest`` (see `explainers.causal.audit`),
      ``n_audited`` and ``screen_correlation`` (Spearman, of estimated and exact effects of what was
      verified);
    - with a sweep ``sweep``: ``u``, ``how``, ``n_causes``, ``n_negative_causes`` and ``jaccard`` to
      the graph, one for each value, and over the values ``nogueira`` and, for each neuron,
      ``frequency``, of its sign in the graph, or, where it has none, of the more frequent one;
    - ``jaccard`` and ``nogueira`` are of sets of neurons with their signs.

    Beside the classes there is ``samples``: ``sample`` (indices), ``label`` and ``is_held_out`` of
    those chosen, and of each class how many were ``seen`` and how many of these ``correct``.
    """

    classes: tuple[int, ...] | Literal["all"] = "all"
    """Whose graphs are learned."""
    n_samples: int = 100
    """Samples of each class on which causes are selected; rule `paired` takes two at least."""
    n_held_out: int = 50
    """Further samples, as far as there are any, on which what was selected is tested again."""
    rule: Literal["paired", "compat"] = "paired"
    """By which causes are selected; `compat` is the original's."""
    level: float = 0.05
    """Bound of the false discovery rate."""
    u: float = 0.0
    """What weights are set to; 0 removes the neuron."""
    beta: float | None = None
    """If given, weights are set to a number drawn for each layer from (beta, beta + 0.01)."""
    follow: Literal["positive", "both"] = "positive"
    """Which causes become effects of the layers below."""
    layers: str | tuple[str, ...] | None = None
    """Names, or patterns, of layers down to which graphs go; None for all that can be tested."""
    screening: float | None = None
    """Share of the neurons of a layer, those with the strongest first-order estimates, that are
    verified by exact interventions; None for all. Of rule `paired` alone."""
    audit: float = 0.02
    """Share of the others that are verified as well, by lot, to measure how many were missed."""
    n_bootstrap: int = 100
    """Replicates of the bootstrap; 0 for none. Ends of intervals are rarer the fewer samples there
    are, and take at least 43 of 100 samples, 62 of 20 and 116 of 10; with fewer they are NaN."""
    edges: Literal["gradient", "exact", "none"] = "gradient"
    """How weights of edges are found; `exact` intervenes on those that gradients say are the
    strongest."""
    max_edges: int = 1000
    """How many edges are kept of a class and layer, the strongest."""
    sweep: tuple[float, ...] = ()
    """Further values of u that all neurons are tested with, given the graph's effects."""
    sweep_layers: str | tuple[str, ...] | None = None
    """Names, or patterns, of those tested layers where that is done; None for all."""
    compat_max_inputs: int = 600
    """Neurons of a layer above which rule `compat` tests a fifth of them, as the original does."""

    has_graphs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, least in (("n_samples", 1), ("n_held_out", 0), ("n_bootstrap", 0)):
            numeric.check_whole(name, getattr(self, name), least)
        numeric.check_whole("max_edges", self.max_edges)
        numeric.check_whole("compat_max_inputs", self.compat_max_inputs)
        for name, options in (
            ("rule", ("paired", "compat")),
            ("follow", ("positive", "both")),
            ("edges", ("gradient", "exact", "none")),
        ):
            given = getattr(self, name)
            if given not in options:
                raise ValueError(f"got {name} {given!r}; {suggest(str(given), options)}")
        _check_share("level", self.level)
        for name in ("screening", "audit"):
            if getattr(self, name) is not None:
                _check_share(name, getattr(self, name), least_is_in=name == "audit")
        if self.rule == "paired" and self.n_samples == 1:
            raise ValueError("got n_samples=1 and rule='paired', expected two samples for a t test")
        if self.rule == "compat" and self.screening is not None:
            raise ValueError(
                f"got rule='compat' and screening={self.screening}, expected one of them alone: "
                "the original screens by compat_max_inputs; leave screening out"
            )
        self._check_constants()
        _check_names("layers", self.layers)
        _check_names("sweep_layers", self.sweep_layers)
        if self.sweep_layers is not None and not len(self.sweep):
            raise ValueError(
                f"got sweep_layers={self.sweep_layers!r} and no sweep, expected sweep: the values "
                "of u that these layers are tested with; or leave sweep_layers out"
            )
        if self.classes != "all":
            self._check_classes()

    def _check_constants(self) -> None:
        numeric.check_finite("u", self.u, -1e30)
        if self.beta is not None:
            numeric.check_finite("beta", self.beta, -1e30)
            if self.u:
                raise ValueError(f"got u={self.u} and beta={self.beta}, expected one of them alone")
        if isinstance(self.sweep, str) or not isinstance(self.sweep, Sequence):
            raise TypeError(f"got sweep={self.sweep!r}, expected a list of numbers, such as [0.1]")
        for value in self.sweep:
            numeric.check_finite("sweep", value, -1e30)

    def _check_classes(self) -> None:
        if isinstance(self.classes, str) or not isinstance(self.classes, Sequence):
            raise TypeError(f"got classes={self.classes!r}, expected 'all' or a list of numbers")
        if not len(self.classes):
            raise ValueError("got no classes, expected 'all' or a list of numbers")
        for each in self.classes:
            numeric.check_whole("classes", each, 0)
        if len({*self.classes}) < len(self.classes):
            raise ValueError(f"got classes {self.classes!r}, expected each once")

    @property
    def cost(self) -> Cost:
        """Forward passes of the rounds at least; `notes` tells what interventions take."""
        return Cost(forward=float("nan"))

    def check(self, network: Network) -> None:
        """Refuse a network without structure, and classes and layers that cannot be tested."""
        if not network.is_program:
            raise NotImplementedError(
                f"{self.name} needs the layers of the network, and this model could not be read "
                f"as a program: {network.reason}; change the model"
            )
        if self.classes != "all" and max(self.classes) >= network.n_outputs:
            raise ValueError(
                f"got class {max(self.classes)}, expected 0 to {network.n_outputs - 1}, which the "
                "network's outputs are"
            )
        structure = structure_of(network)
        names = [each.name for each in structure.layers]
        if all(each.is_root for each in structure.layers):
            raise ValueError(
                f"{self.name} needs a weighted layer that reads another one, and this network has "
                f"{', '.join(names) or 'none'} alone"
            )
        named(self, names)
        named(self, self.tested(network), "sweep_layers")
        check_tested(network, self.tested(network))

    def notes(self, network: Network) -> tuple[str, ...]:
        """Return how much is done for each chosen sample, and what is not tested."""
        layers = self.tested(network)
        share = 1.0 if self.screening is None else min(1.0, self.screening + self.audit)
        effort = effort_of(network, layers, share)
        found = [
            f"for each chosen sample {effort.n_interventions} interventions in {len(layers)} "
            f"layers, about as much as {effort.n_passes:.3g} forward passes"
        ]
        if effort.roots:
            found.append(f"not tested, as they read the input only: {', '.join(effort.roots)}")
        alone = [name for name in named(self, _names(network)) or () if name in effort.roots]
        if alone:
            found.append(f"layers names {', '.join(alone)}, so all layers behind are tested")
        eps = torch.finfo(dtype_of(network)).eps
        if eps > _COARSE:
            found.append(
                f"effects of less than {100 * LEAST * eps:.2g} % of the largest logit of a class "
                "are none, as they may be rounding: graphs may be empty; take float32"
            )
        if network.has_softmax:
            found.append("the network ends with a softmax; effects are on the logits before it")
        size = largest(network, self, layers)
        if size > _MUCH:
            found.append(
                f"statistics of the widest layer take {size / 2**30:.1f} GiB of memory; fewer "
                "classes, or a smaller n_bootstrap, take less"
            )
        return tuple(found)

    def stored_bytes(self, network: Network, n_samples: int, n_shards: int) -> Mapping[str, int]:
        """Return about how many bytes statistics and graphs take."""
        return bytes_of(network, self, self.tested(network), n_samples, n_shards)

    def tested(self, network: Network) -> tuple[str, ...]:
        """Return the layers that are tested."""
        outline = Outline.of(network)
        names = named(self, _names(network))
        return tuple(name for level in outline.levels(names) for name in level)

    def init(self) -> State:
        """Return what the first round starts from."""
        return self._first.init()

    def update(self, state: State, trace: Trace, samples: Samples) -> State:
        """Return the first round's state with one batch added."""
        return self._first.update(state, trace, samples)

    def merge(self, left: State, right: State) -> State:
        """Return the first round's state of both parts."""
        return self._first.merge(left, right)

    def finalise(self, state: State) -> Result:
        """Return what the first round found."""
        return self._first.finalise(state)

    def rounds(self, results: Mapping[str, Result]) -> Round | None:
        """Return the choice of samples, then each level's tests, then what follows from them."""
        return Progress(self, results).next if results else Round(SAMPLES, self._first)

    def conclude(self, results: Mapping[str, Result]) -> Result:
        """Return the graphs of all classes."""
        return Progress(self, results).result()

    def stored(self, result: Result) -> Result:
        """Return a result with classes alike; see `explainers.causal.results.stored`."""
        return form.stored(result)

    def axes(self, path: Sequence[Any], n_axes: int, beside: Collection[Any]) -> Sequence[str]:
        """Return what the axes of stored arrays are called."""
        return form.axes(path, n_axes, beside)

    def attributes(self, path: Sequence[Any]) -> Mapping[str, Any]:
        """Return what codes in stored arrays mean."""
        return form.attributes(path)

    def graphs(self, result: Result, network: Network) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the graph of each class as a document."""
        from explainers.causal.documents import documents

        facts = {"rule": self.rule, "level": self.level}
        yield from documents(result, structure_of(network), facts)

    @property
    def _first(self) -> Choosing:
        return choosing(self)


def _names(network: Network) -> list[str]:
    return [each.name for each in structure_of(network).layers]


def _check_names(name: str, given: Any) -> None:
    names = (given,) if isinstance(given, str) else given
    if given is None:
        return
    if not isinstance(names, Sequence) or not all(isinstance(each, str) for each in names):
        raise TypeError(f"got {name}={given!r}, expected the name of a layer, or a list of names")
    if not names:
        raise ValueError(f"got {name} without a name, expected one at least; leave it out for all")


def _check_share(name: str, value: float, *, least_is_in: bool = False) -> None:
    numeric.check_finite(name, value)
    if value > 1 or (value == 0 and not least_is_in) or (name == "level" and value == 1):
        raise ValueError(f"got {name}={value}, expected a share between 0 and 1")
