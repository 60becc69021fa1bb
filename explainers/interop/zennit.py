"""zennit's own composites (Anders et al. 2021, arXiv:2106.13200): hooks on a copy of the model.

Hooks see modules and nothing else. Where a model computes outside of them, the composite's rules
are left out and the plain gradient takes their place, in silence; what can be told from the
network's program is refused (`check`). What cannot: a batch norm that is a function, or that no
canonizer merges with its convolution, in a subclass or with a module of its own in between; and
any model that could not be read as a program, where there is nothing to compare with.
"""

from __future__ import annotations

import copy
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import nn

from explainers.operators import (
    Activation,
    Add,
    Attention,
    AveragePool,
    Convolution,
    Linear,
    MatrixProduct,
    Multiply,
    Normalise,
    Operator,
    Softmax,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from explainers.network import Network


@runtime_checkable
class Hooks(Protocol):
    """What is asked of a composite of zennit's."""

    handles: Any
    canonizers: Any

    def module_map(self, ctx: dict[Any, Any], name: str, module: nn.Module) -> Any:
        """Return the hook of a module; None if it gets none."""

    def register(self, module: nn.Module) -> None:
        """Put hooks on the modules of a model."""

    def remove(self) -> None:
        """Undo it."""


def is_composite(thing: object) -> bool:
    """Return whether something is a composite of zennit's; zennit need not be installed."""
    return isinstance(thing, Hooks)


_copies: WeakKeyDictionary[Network, nn.Module] = WeakKeyDictionary()


def relevance(network: Network, composite: Hooks, inputs: Tensor, start: Tensor) -> Tensor:
    """Return the relevance of the inputs.

    Parameters
    ----------
    network
        Its model is copied once; neither it nor the user's is touched.
    composite
        Is registered with the copy, and removed again whatever happens.
    inputs
        ``(batch, ...)``.
    start
        Relevance of the output, ``(batch, classes)``.

    Raises
    ------
    NotImplementedError
        If the network is a part of one: hooks serve whole models.
    ValueError
        If the composite is registered with a model.
    """
    _check_whole(network)
    with registered(network, composite) as model, torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        output = model(leaf)
        output = getattr(output, "logits", output)
        (found,) = torch.autograd.grad(output, leaf, start)
    return found.detach()


@contextmanager
def registered(network: Network, composite: Hooks) -> Iterator[nn.Module]:
    """Give a private copy of the model, with the composite's canonizers and hooks."""
    if composite.handles:
        raise ValueError(
            "the composite is registered with a model; call its remove() first, or pass another"
        )
    if network not in _copies:
        _copies[network] = copy.deepcopy(network.module)
    is_done = False
    try:
        composite.register(_copies[network])
        yield _copies[network]
        is_done = True
    finally:
        composite.remove()
        if not is_done:  # what a canonizer was in the midst of is not undone
            del _copies[network]


def check(network: Network, composite: Hooks) -> None:
    """Refuse a network for which hooks are known to be wrong.

    Raises
    ------
    NotImplementedError
        If it is a part of one, its outputs come out of a softmax, a module is used more than once
        under a rule that keeps its input, or the model computes outside of modules what the
        composite has rules for.
    """
    _check_whole(network)
    if network.has_softmax:
        raise NotImplementedError(
            "the model ends in a softmax, and hooks would start behind it; give the model without "
            "it, or name one of our composites, which start before it"
        )
    if not network.is_program or not network.operators:
        return
    hooks, calls = _hooked(network, composite)
    for module, hook in hooks.items():
        if calls[module] > 1 and type(hook).forward is not _idle_forward():
            raise NotImplementedError(
                f"the module {_path(network, composite, module)!r} is used {calls[module]} times, "
                f"and zennit's {type(hook).__name__} keeps the input of the last use alone; "
                + _INSTEAD
            )
    _compare(network, composite, hooks, calls)


def _check_whole(network: Network) -> None:
    if network.root is not network:
        raise NotImplementedError(
            "hooks of zennit's serve whole models of one float input, and what is explained is a "
            f"part: behind a layer, up to a unit, or from embeddings or several inputs; {_INSTEAD}"
        )


_INSTEAD = "name one of our composites: composite='epsilon_plus_flat' has zennit's rules"


def _compare(
    network: Network, composite: Hooks, hooks: dict[nn.Module, Any], calls: Counter[nn.Module]
) -> None:
    from zennit import types
    from zennit.layer import Sum

    found = [op for op in network.operators if op.name in network.dependent and op.inputs]
    relu_only = composite.module_map({}, "", nn.Sigmoid()) is None
    activations = [op for op in found if isinstance(op, Activation)]
    if relu_only:
        activations = [op for op in activations if op.kind == "relu"]
    expected: list[tuple[str, list[Any], Any]] = []
    if composite.module_map({}, "", nn.ReLU()) is not None:
        expected.append(("activations", activations, nn.ReLU if relu_only else types.Activation))
    if composite.module_map({}, "", nn.AvgPool2d(1)) is not None:
        pools = [op for op in found if isinstance(op, AveragePool)]
        expected.append(("average pools", pools, types.AvgPool))
    if any(isinstance(module, types.Linear) for module in hooks):
        weighted = [op for op in found if isinstance(op, Convolution | Linear)]
        expected.append(("convolutions and linear maps", weighted, types.Linear))
        sums = [op for op in found if isinstance(op, Add) and _joins(op, network)]
        expected.append(("sums", sums, Sum))
        _check_products(found, network)
    for what, operators, kind in expected:
        n_hooked = sum(calls[module] for module in hooks if isinstance(module, kind))
        if len(operators) != n_hooked:
            raise NotImplementedError(
                f"the model has {len(operators)} {what} ({_listed(operators)}), and zennit's "
                f"composite hooks {n_hooked}: the others are no modules of their own (functions, a "
                "residual +) and would pass the plain gradient; write them as modules, give the "
                f"composite a canonizer, or {_INSTEAD}"
            )


def _check_products(found: list[Operator], network: Network) -> None:
    for op in found:
        is_product = isinstance(op, Multiply | MatrixProduct) and _joins(op, network)
        if is_product or isinstance(op, Attention | Normalise | Softmax):
            raise NotImplementedError(
                f"zennit has no rule for the {type(op).__name__} {op.name!r} and would pass the "
                f"plain gradient; {_INSTEAD}"
            )


def _joins(op: Operator, network: Network) -> bool:
    return len(op.inputs) > 1 and set(op.inputs) <= network.dependent


def _hooked(network: Network, composite: Hooks) -> tuple[dict[nn.Module, Any], Counter[nn.Module]]:
    """Return the hook of each module, and how often modules with one are used for one batch."""
    calls: Counter[nn.Module] = Counter()

    def count(module: nn.Module, received: object, output: object) -> None:
        calls[module] += 1

    with registered(network, composite) as model:
        context: dict[Any, Any] = {}
        mapped = {
            module: composite.module_map(context, path, module)
            for path, module in model.named_modules()
        }
        hooks = {module: hook for module, hook in mapped.items() if hook is not None}
        handles = [module.register_forward_hook(count) for module in hooks]
        try:
            with torch.no_grad():
                model(network.structure.parts(network.example)[0].clone())
        finally:
            for handle in handles:
                handle.remove()
    return hooks, calls


def _idle_forward() -> Any:
    from zennit.core import Hook

    return Hook.forward


def _path(network: Network, composite: Hooks, module: nn.Module) -> str:
    modules = _copies[network].named_modules()
    return next((path for path, one in modules if one is module), type(module).__name__)


def _listed(operators: list[Any]) -> str:
    names = ", ".join(op.name for op in operators[:5])
    return names + ", ..." if len(operators) > 5 else names or "none"
