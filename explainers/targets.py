"""What is explained: a class, or weights over the classes, chosen per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from torch import Tensor

from explainers.units import unit_weights

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from explainers.base import Samples
    from explainers.network import Network

Kind = Literal["predicted", "label", "runner_up", "index", "weights", "unit"]
TargetLike: TypeAlias = "Target | str | int | Tensor | Sequence[int] | Mapping[str, Any] | None"

_WORDS: tuple[Kind, ...] = ("predicted", "label", "runner_up")
_EXPECTED = (
    "expected 'predicted', 'label', 'runner_up', a class index, a tensor of class indices "
    "(batch,), a tensor of real weights (classes,) or (batch, classes), {'weights': [...]}, or "
    "{'layer': path, 'unit': channel or position}"
)


@dataclass(frozen=True, eq=False)
class Target:
    """The scalar that is explained, ``(output * weights).sum(1)``, before its weights are known.

    Two targets are equal when they are of one kind and their values are; so a target can be the
    key under which a backward pass is remembered.
    """

    kind: Kind = "predicted"
    """How the weights come about."""
    value: int | tuple[int, ...] | Tensor | None = None
    """A class index or a tensor of them ``(batch,)`` for `index`; weights for `weights`; for `unit`
    a channel, summed over its positions, or the position of one value."""
    layer: str | None = None
    """Whose unit is meant; None for what is said about the outputs."""

    @classmethod
    def parse(cls, spec: TargetLike) -> Target:
        """Return the target that `spec` says.

        Parameters
        ----------
        spec
            None or ``"predicted"`` (the class of the largest output), ``"runner_up"`` (of the
            second largest), ``"label"``, a class index, integers ``(batch,)`` (a class for each
            row), real weights ``(classes,)`` or ``(batch, classes)``, ``{"weights": [...]}``, or a
            unit of a layer: ``{"layer": path, "unit": k}`` for the sum of a channel over its
            positions, ``{"layer": path, "unit": [c, y, x]}`` for one value.

        Raises
        ------
        ValueError
            If it says none of these.
        """
        if isinstance(spec, Target):
            return spec
        if spec is None:
            return cls("predicted")
        if isinstance(spec, str):
            for word in _WORDS:
                if spec == word:
                    return cls(word)
            raise ValueError(f"unknown target {spec!r}; {_EXPECTED}")
        if isinstance(spec, int) and not isinstance(spec, bool):
            return cls("index", spec)
        if hasattr(spec, "keys"):
            return _from_mapping(spec)
        return _from_values(spec)

    def weights(self, output: Tensor, samples: Samples | None) -> Tensor:
        """Return the weights of the outputs, ``(batch, classes)``, without a gradient.

        Parameters
        ----------
        output
            Logits, ``(batch, classes)``.
        samples
            Who the rows are; only ``"label"`` reads it.

        Raises
        ------
        ValueError
            If a class does not exist, a label is not known, or the shapes do not fit.
        """
        output = output.detach()
        if self.layer is not None:
            raise ValueError(
                f"the target is a unit of layer {self.layer!r}, not of the outputs; "
                "explain it by explainers.explaining.explained, or trace.ending_at(target)"
            )
        if self.kind == "weights":
            return self._spread_weights(output)
        return _one_hot(self._classes(output, samples), output)

    def of_units(self, network: Network) -> Target:
        """Return the weights of the units of the target's layer, in the order of its flat value.

        Raises
        ------
        LookupError
            If the network has no such layer.
        ValueError
            If the layer has no such unit.
        """
        return Target("weights", unit_weights(network, str(self.layer), self.value))

    def check(self, network: Network | int) -> None:
        """Refuse a target that a network, or one with so many outputs, does not have.

        Raises
        ------
        LookupError
            If the network has no such layer.
        ValueError
            If a class index, the number of weights or a unit does not fit.
        """
        if self.layer is not None:
            if not isinstance(network, int):
                self.of_units(network)
            return
        n_classes = network if isinstance(network, int) else network.n_outputs
        if self.kind == "runner_up" and n_classes < 2:
            raise ValueError(f"target 'runner_up' needs two outputs, the network has {n_classes}")
        if self.kind == "index":
            classes = torch.as_tensor(self.value)
            if bool(((classes < 0) | (classes >= n_classes)).any()):
                raise ValueError(
                    f"target class {_shown(classes)} does not exist: the network has "
                    f"{n_classes} outputs; choose from 0 to {n_classes - 1}"
                )
        if isinstance(self.value, Tensor) and self.kind == "weights":
            n_weights = self.value.shape[-1]
            if n_weights != n_classes:
                raise ValueError(
                    f"target has {n_weights} weights, the network {n_classes} outputs; "
                    "give one weight for each output"
                )

    def _classes(self, output: Tensor, samples: Samples | None) -> Tensor:
        if self.kind == "label":
            return _labels(samples, output)
        if self.kind == "index":
            self.check(output.shape[1])
            classes = torch.as_tensor(self.value, device=output.device)
            if classes.ndim == 1 and len(classes) != len(output):
                raise ValueError(
                    f"target names {len(classes)} classes for {len(output)} rows; "
                    "give one for each row, or one for all"
                )
            return classes.expand(len(output))
        best = output.argmax(1)
        if self.kind == "predicted":
            return best
        self.check(output.shape[1])
        return output.scatter(1, best[:, None], -torch.inf).argmax(1)

    def _spread_weights(self, output: Tensor) -> Tensor:
        self.check(output.shape[1])
        weights = torch.as_tensor(self.value).to(output)
        if weights.ndim == 2 and len(weights) not in (1, len(output)):
            raise ValueError(
                f"target has weights for {len(weights)} rows, the batch has {len(output)}; "
                "give one row of weights for each sample, or one for all"
            )
        return weights.expand(output.shape)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Target):
            return False
        if (self.kind, self.layer) != (other.kind, other.layer):
            return False
        if isinstance(self.value, Tensor) and isinstance(other.value, Tensor):
            return self.value.shape == other.value.shape and torch.equal(
                self.value, other.value.to(self.value)
            )
        return not isinstance(other.value, Tensor) and bool(self.value == other.value)

    def __hash__(self) -> int:
        value = tuple(self.value.shape) if isinstance(self.value, Tensor) else self.value
        return hash((self.kind, value, self.layer))


def _from_mapping(spec: Any) -> Target:
    if set(spec) == {"layer", "unit"}:
        return _from_unit(spec["layer"], spec["unit"])
    if set(spec) != {"weights"}:
        raise ValueError(f"unknown target {dict(spec)!r}; {_EXPECTED}")
    return _from_values(spec["weights"], torch.float64)


def _from_unit(layer: Any, unit: Any) -> Target:
    position = [unit] if _is_index(unit) else unit
    is_position = isinstance(position, list | tuple) and len(position) > 0
    if not is_position or not all(_is_index(index) for index in position):
        raise ValueError(
            f"unknown unit {unit!r}; expected the index of a channel, or of one value: a list "
            "with an index for each axis of the layer's value"
        )
    if not isinstance(layer, str):
        raise ValueError(f"unknown layer {layer!r}; expected its name, see network.layers")
    return Target("unit", unit if isinstance(unit, int) else tuple(position), layer)


def _is_index(index: Any) -> bool:
    return isinstance(index, int) and not isinstance(index, bool) and index >= 0


def _from_values(spec: Any, dtype: torch.dtype | None = None) -> Target:
    try:
        values = torch.as_tensor(spec, dtype=dtype).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"unknown target {spec!r}; {_EXPECTED}") from error
    is_integer = not values.is_floating_point() and values.dtype != torch.bool
    if is_integer and not values.is_complex() and values.ndim <= 1:
        return Target("index", int(values) if values.ndim == 0 else values.long())
    if values.is_floating_point() and values.ndim in (1, 2):
        if not bool(values.isfinite().all()):
            raise ValueError(
                f"target has weights {_shown(values[~values.isfinite()])}, which are NaN or "
                "infinite; give finite weights"
            )
        return Target("weights", values)
    raise ValueError(
        f"unknown target: got a {values.dtype} tensor of shape {tuple(values.shape)}; {_EXPECTED}"
    )


def _labels(samples: Samples | None, output: Tensor) -> Tensor:
    if samples is None:
        raise ValueError(
            "target 'label' needs the labels of the samples, got none; "
            "pass labels=, or the class indices as the target"
        )
    labels = samples.label  # checked where they are: on the host, nothing waits for a GPU
    is_bad = (labels < 0) | (labels >= output.shape[1])
    if bool(is_bad.any()):
        raise ValueError(
            f"target 'label': got labels {_shown(labels[is_bad])} (-1: not known) for a network "
            f"with {output.shape[1]} outputs; label every sample or explain 'predicted'"
        )
    return labels.to(output.device, non_blocking=True)


def _one_hot(classes: Tensor, output: Tensor) -> Tensor:
    return torch.zeros_like(output).scatter_(1, classes[:, None], 1.0)


def _shown(values: Tensor) -> str:
    numbers = values.flatten()[:4].tolist()
    more = ", ..." if values.numel() > len(numbers) else ""
    return ", ".join(str(number) for number in numbers) + more
