"""Deep Taylor decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from explainers.accounts import account
from explainers.base import Attribution, Cost, Explained
from explainers.catalogue import register
from explainers.composites import Composite, find
from explainers.operators import (
    Activation,
    Add,
    Affine,
    AveragePool,
    Concat,
    Constant,
    Convolution,
    Linear,
    MaxPool,
    Pad,
    Reshape,
)
from explainers.rules.table import describe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from explainers.network import Network
    from explainers.operators import Operator
    from explainers.rules.table import Choose, Relevances, Shares, Values
    from explainers.targets import Target
    from explainers.trace import Trace

Bound = float | tuple[float, ...] | Literal["min", "max"] | None

_SERVED = (Convolution, Linear, MaxPool, AveragePool, Add, Affine, Concat, Pad, Reshape, Constant)


@register("deep_taylor")
@dataclass(frozen=True)
class DeepTaylor(Attribution):
    """Deep Taylor decomposition of a network of ReLUs (Montavon et al. 2017).

    arXiv:1512.02479. What is decomposed is the target's positive part. Layers behind ReLUs share by
    positive contribution, without biases; the first layer by the bounds of its inputs, where they
    are given (``z_box``), else by squared weights. Sums and average pools share by positive value
    and batch norms are folded, where iNNvestigate takes gradients and a rule of its own. Relevance
    is nonnegative, and sums to the target's positive part but for what is lost where nothing
    contributes.
    """

    low: Bound = None
    """Least value that inputs can have: a number, one for each channel, or `min`, that of the
    sample itself. With `high`, the bounded variant; without both, inputs may be anything."""
    high: Bound = None
    """Greatest value that inputs can have, likewise, or `max`."""
    first: Literal["w_square", "z_plus"] = "w_square"
    """Rule of the first layer where there are no bounds."""

    cost = Cost(forward=2, backward=1)
    requires = frozenset({"lrp"})
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "innvestigate": {"first": "z_plus"},
        "rde": {"low": "min", "high": "max"},
    }

    def __post_init__(self) -> None:
        if (self.low is None) != (self.high is None):
            raise ValueError(
                f"got low={self.low!r} and high={self.high!r}; give both, the bounds of what "
                "inputs can be, or neither"
            )
        if self.low == "max" or self.high == "min":
            raise ValueError(f"got low={self.low!r} and high={self.high!r}; low is the lesser")
        if self.first not in ("w_square", "z_plus"):
            raise ValueError(f"got first {self.first!r}, expected 'w_square' or 'z_plus'")
        _ = self._composite

    def check(self, network: Network) -> None:
        """Refuse what is no network of ReLUs, pools, sums, convolutions and matrix products."""
        for op in network.operators[1:]:
            if op.name in network.dependent and not _is_served(op):
                raise NotImplementedError(
                    f"deep Taylor decomposition is defined for networks of ReLUs, and got the "
                    f"operator {describe(op)} (node {op.name!r} in "
                    f"{op.module_path or 'the network itself'!r}); use lrp, which has rules for "
                    "others, or a gradient method"
                )
        self._composite.choose(network)

    def relevance(self, trace: Trace, target: Target) -> Explained:
        """Return the positive part of what is explained, handed back to the inputs."""
        start = trace.cotangent(target) * trace.output.clamp(min=0)
        choose = self._bounded(trace.network)
        key = ("deep_taylor", self.low == "min", self.high == "max", self._composite)
        walked = trace.walk(choose, target, key=key, start=start)
        return Explained(walked.relevance, account(start, walked))

    def _bounded(self, network: Network) -> Choose:
        """Return the composite's choice, with the sample's own bounds where they are asked for."""
        choose = self._composite.choose(network)
        by_sample = {"low": self.low == "min", "high": self.high == "max"}
        if not any(by_sample.values()):
            return choose
        names = self._composite.rules(network)
        bounded = [name for name, rule in names.items() if rule == "z_box"]
        own = tuple(bound for bound, is_own in by_sample.items() if is_own)
        return lambda op: (
            partial(_within_sample, choose(op), own) if op.name in bounded else choose(op)
        )

    @cached_property
    def _composite(self) -> Composite:
        if self.low is None or self.high is None:
            return find({"name": "deep_taylor", "first": self.first})
        low = self.high if self.low == "min" else self.low
        high = self.low if self.high == "max" else self.high
        if isinstance(low, str):
            low = high = 0.0  # both are the sample's; these are replaced
        return find({"name": "deep_taylor_bounded", "low": low, "high": high})


def _within_sample(
    rule: Callable[..., Relevances | Shares],
    own: tuple[str, ...],
    op: Operator,
    relevance: Tensor,
    values: Values,
) -> Relevances | Shares:
    """Apply the rule `z_box` with bounds that each sample's values set."""
    x = values[op.inputs[0]]
    axes = tuple(axis for axis in range(x.ndim) if axis != op.batch_axis)
    found = {"low": x.amin(axes, keepdim=True), "high": x.amax(axes, keepdim=True)}
    return rule(op, relevance, values, **{bound: found[bound] for bound in own})


def _is_served(op: Operator) -> bool:
    return isinstance(op, _SERVED) or (isinstance(op, Activation) and op.kind == "relu")
