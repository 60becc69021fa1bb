"""A program is believed only after it has agreed with its model where reading it can go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

# Kernels and folding round differently; a wrong reading is off by orders of magnitude more.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}


def disagreement(
    model: nn.Module, program: Callable[[Tensor], Tensor], example: Tensor
) -> str | None:
    """Return in what way model and program differ, or None.

    Compared are the example, a second random batch of another size, a single row of it, and a
    repeated call. That finds what export does not report: masks over rows, noise, statistics over
    the batch, buffers that change.
    """
    other = _random_like(example)
    with torch.no_grad(), torch.random.fork_rng(devices=_cuda(example)):
        if not _agree(model(example), program(example)):
            return "the program's outputs differ from the model's on the example"
        output = model(other)
        if not _agree(output, model(other)):
            return "the model's outputs differ between two calls with the same inputs"
        if not _agree(model(other[:1]), output[:1]):
            return "the model's output for a row depends on the other rows of the batch"
        if not _agree(output, program(other)):
            return "the program's outputs differ from the model's on a second batch"
        if not _agree(model(other[:1]), program(other[:1])):
            return "the program's output differs from the model's on a single row"
        if not _agree(program(other), program(other)):
            return "the program's outputs differ between two calls with the same inputs"
    return None


def _agree(expected: Tensor, found: Tensor) -> bool:
    if expected.shape != found.shape:
        return False
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()):
        return False
    if not bool(finite.any()):
        return True
    scale = expected[finite].abs().max()
    error = (expected[finite] - found[finite]).abs().max()
    tolerance = _TOLERANCES.get(expected.dtype, 1e-3)
    return bool(error <= tolerance * scale)


def _random_like(example: Tensor) -> Tensor:
    """Return three rows of the example's range that are not the example."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, *example.shape[1:])
    if not example.is_floating_point():
        low, high = int(example.min()), int(example.max())
        drawn = torch.randint(low, high + 1, shape, generator=generator)
        return drawn.to(example.device, example.dtype)
    spread = example.double().std().item() or 1.0
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    return (drawn + example.double().mean().item()).to(example.device, example.dtype)


def _cuda(example: Tensor) -> list[torch.device]:
    return [example.device] if example.device.type == "cuda" else []
