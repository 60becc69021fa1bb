"""Networks whose layers have random weights: one after the other, or one at a time."""

from __future__ import annotations

import copy
import fnmatch
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch

from explainers.cut import Cut, ended
from explainers.inference import outside_inference_mode
from explainers.registry import suggest
from explainers.reweighted import graph_of, tensors_of
from explainers.sampling.counted import seed_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor, nn

    from explainers.network import Network

Order = Literal["top_down", "bottom_up", "independent"]

_MOST_KEPT = 2
"""Ways to randomise one network that are kept; each holds about one copy of its weights."""


@dataclass(frozen=True)
class Randomisation:
    """Which layers get random weights, in which order."""

    order: Order = "top_down"
    """``top_down``: from the output, layers stay random; ``bottom_up``: from the input;
    ``independent``: from the output, each step alone."""
    layers: tuple[str, ...] = ()
    """Paths of modules, or patterns of them; all by default."""
    n_steps: int | None = None
    """At most so many networks: neighbouring layers are then randomised together."""
    seed: int = 0
    """Of the weights, together with the path of the layer."""
    compat: Literal["quantus"] | None = None
    """``quantus``: layers and weights as Quantus 0.6 takes them: every module that has a method
    ``reset_parameters``, in order of registration (``top_down``: in reverse), all drawn from the
    seed after `seed`, whether the network uses them or not."""


@dataclass(frozen=True, eq=False)
class Step:
    """A network at some step of its randomisation."""

    layers: tuple[str, ...]
    """What is random in it and was not in the one before."""
    network: Network


@outside_inference_mode
def randomised(network: Network, how: Randomisation) -> tuple[Step, ...]:
    """Return networks with ever more random layers; made once, as long as the network lives.

    A layer is a module that has parameters of its own and is used on the way to the output. It is
    initialised anew by its own ``reset_parameters`` (running statistics of norms too); parameters
    that this leaves as they are, or that have no such method, are drawn from the normal
    distribution of mean and standard deviation of their values. Weights are drawn on the CPU, each
    layer's from a seed of its own: they do not depend on the device, nor on order and steps.

    The model is exported once, if it is a program, and read once for each step, which takes
    milliseconds. Steps share every tensor that is the same, so that all of them together take as
    much memory as one more network; those of two randomisations are kept.

    Parameters
    ----------
    network
        Whole, or the part of one that ends at a layer.
    how
        Which layers, in which order.

    Raises
    ------
    LookupError
        If a pattern matches no layer.
    ValueError
        If there is nothing to randomise.
    """
    root = network.root
    end = network.end if isinstance(network, Cut) else None
    known = _made.setdefault(root, {})
    key = (how, end)
    if key not in known:
        while len(known) >= _MOST_KEPT:
            del known[next(iter(known))]
        known[key] = _steps(root, how, end)
    return known[key]


_made: WeakKeyDictionary[Network, dict[tuple[Randomisation, str | None], tuple[Step, ...]]]
_made = WeakKeyDictionary()


def _steps(root: Network, how: Randomisation, end: str | None) -> tuple[Step, ...]:
    graph = graph_of(root)
    groups = _groups(_layers(root.module, how, graph.places(root, end)), how)
    module, before = root.module, root
    steps = []
    for group in groups:
        if how.order == "independent":
            module, before = root.module, root
        module = _with_random(module, group, how)
        before = graph.network(root, module, before)
        steps.append(Step(group, before if end is None else ended(before, end)))
    return tuple(steps)


def check_layers(network: Network, how: Randomisation) -> None:
    """Refuse patterns that match no layer, and a network without layers, before it is exported.

    Layers that are there but not on the way to the output are let pass.

    Raises
    ------
    LookupError, ValueError
        As `randomised`.
    """
    _layers(network.root.module, how, None)


def _layers(
    module: nn.Module, how: Randomisation, places: Mapping[int, int] | None
) -> tuple[str, ...]:
    """Return the paths of what is randomised, in its order."""
    modules = dict(module.named_modules())
    if how.compat == "quantus":
        found = [path for path, each in modules.items() if hasattr(each, "reset_parameters")]
    else:
        found = [
            path for path, each in modules.items() if any(True for _ in each.parameters(False))
        ]
    if how.compat is None and places is not None:
        used = {path: _first_use(modules[path], places) for path in found}
        found = sorted((p for p in found if used[p] >= 0), key=lambda path: used[path])
    if how.layers:
        found = _matching(found, how.layers)
    if not found:
        raise ValueError(
            "got a network without a layer to randomise, expected modules with parameters; a "
            "function has none: wrap it in a torch.nn.Module that holds its weights"
        )
    is_forward = how.order == "bottom_up" or (how.compat is not None and how.order != "top_down")
    return tuple(found if is_forward else reversed(found))


def _first_use(layer: nn.Module, places: Mapping[int, int]) -> int:
    """Return where a layer's tensors are first used; -1 if they are not."""
    found = [places[id(tensor)] for _, tensor in tensors_of(layer, False) if id(tensor) in places]
    return min(found, default=-1)


def _matching(layers: Sequence[str], patterns: Collection[str]) -> list[str]:
    chosen: set[str] = set()
    for pattern in patterns:
        matched = [path for path in layers if fnmatch.fnmatchcase(path, pattern)]
        if not matched:
            raise LookupError(
                f"no layer that could be randomised matches {pattern!r}; "
                f"{suggest(pattern, list(layers))}"
            )
        chosen.update(matched)
    return [path for path in layers if path in chosen]


def _groups(layers: tuple[str, ...], how: Randomisation) -> list[tuple[str, ...]]:
    n_steps = min(how.n_steps or len(layers), len(layers))
    ends = [step * len(layers) // n_steps for step in range(n_steps + 1)]
    return [layers[start:stop] for start, stop in itertools.pairwise(ends)]


def _with_random(module: nn.Module, layers: Collection[str], how: Randomisation) -> nn.Module:
    """Return a copy that shares all tensors but those of some layers, which are random."""
    deep = how.compat is not None
    drawn = {path: _drawn(module.get_submodule(path), path, how) for path in layers}
    own = {
        id(tensor) for path in layers for _, tensor in tensors_of(module.get_submodule(path), deep)
    }
    shared = {id(tensor): tensor for _, tensor in tensors_of(module) if id(tensor) not in own}
    made = copy.deepcopy(module, shared)
    with torch.no_grad():
        for path in layers:
            for name, tensor in tensors_of(made.get_submodule(path), deep):
                tensor.copy_(drawn[path][name])
    return made


def _drawn(layer: nn.Module, path: str, how: Randomisation) -> dict[str, Tensor]:
    """Return random tensors of a layer, on the CPU."""
    fresh = copy.deepcopy(layer).cpu()
    reset = getattr(fresh, "reset_parameters", getattr(fresh, "_reset_parameters", None))
    before = {name: tensor.clone() for name, tensor in fresh.named_parameters(recurse=False)}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # torch.manual_seed would seed accelerators too
        seed = how.seed + 1 if how.compat else seed_of(f"{how.seed}\0{path}")
        torch.default_generator.manual_seed(seed)
        if reset is not None:
            reset()
        for name, tensor in fresh.named_parameters(recurse=False):
            if how.compat is None and torch.equal(tensor, before[name]):
                _draw_like(tensor)
    return {name: tensor.detach() for name, tensor in tensors_of(fresh)}


def _draw_like(tensor: Tensor) -> None:
    if tensor.is_floating_point():
        spread, mean = torch.std_mean(tensor, correction=0)
        tensor.normal_().mul_(spread).add_(mean)
