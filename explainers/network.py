"""A model read as a program: typed operators in execution order, layers named by module path."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor, nn

    from explainers.operators import Operator


class Network:
    """A model that can be run, differentiated and, where it is a program, walked.

    SIGNATURES ONLY for the moment; the body follows.
    """

    is_program: bool
    """Whether the model could be read; if not, only outputs and plain gradients are available."""
    reason: str | None
    """Why it is not a program."""
    has_softmax: bool
    """Whether a trailing softmax was found and stripped: outputs are then logits."""
    input_shape: tuple[int, ...]
    """Of one sample."""
    n_outputs: int
    device: torch.device
    dtype: torch.dtype
    """Of the inputs."""
    operators: tuple[Operator, ...]
    """In execution order; the first is the `Input`; empty when opaque."""
    output_name: str
    """Name of the operator whose value is the output."""
    dependent: frozenset[str]
    """Names of the operators that depend on the input."""
    layers: tuple[str, ...]
    """Everything that can be asked for by name, in execution order."""

    def __init__(self, model: nn.Module | Callable[..., Tensor], example_inputs: Tensor) -> None:
        raise NotImplementedError

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return logits, ``(batch, classes)``, without keeping values and without gradients."""
        raise NotImplementedError

    def run(self, inputs: Tensor) -> Mapping[str, Tensor]:
        """Return the value of every operator by its name."""
        raise NotImplementedError

    def value(self, layer: str, values: Mapping[str, Tensor]) -> Tensor:
        """Return a layer's value, given those of the operators."""
        raise NotImplementedError

    def recorded(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return a leaf and the output computed from it under autograd; for opaque networks."""
        raise NotImplementedError

    def operator(self, layer: str) -> Operator:
        """Return the operator whose output is a layer's (for a folded norm, the convolution)."""
        raise NotImplementedError

    def match(self, patterns: str | tuple[str, ...]) -> tuple[str, ...]:
        """Return the layers that patterns name: ``*conv*``, ``type:Convolution``."""
        raise NotImplementedError

    def check(self, inputs: Tensor) -> None:
        """Raise ValueError for inputs of another shape, dtype or device."""
        raise NotImplementedError

    def to(
        self,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Network:
        """Return the network elsewhere, or in another precision."""
        raise NotImplementedError
