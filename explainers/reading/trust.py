"""A program is believed only after it has agreed with its model where reading it can go wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from explainers.rules.gradient import gradient
from explainers.rules.walking import walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.network import Network
    from explainers.reading.user_model import UserModel

# Kernels and folding round differently; a wrong reading is off by orders of magnitude more.
_TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}

_HALF = (torch.float16, torch.bfloat16)

_GRADIENT = "the program's gradient differs from the model's, which is perhaps written by hand"

# cuDNN rounds the factors of single-precision convolutions to ten bits unless told otherwise.
_CUDA_TOLERANCE = 2e-2


def disagreement(model: UserModel, network: Network, example: Sequence[Tensor]) -> str | None:
    """Return in what way model and program differ, or None.

    Compared are the example, a second random batch of another size, a single row of it, a repeated
    call and the gradient. That finds what export does not report: masks over rows, noise,
    statistics over the batch, buffers that change, backward passes that were written by hand.
    """
    other = [random_like(part) for part in example]
    single = [part[:1] for part in other]
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=_cuda(example[0])):
            output = model(*other)
            repeated, row, first = model(*other), model(*single), model(*example)
    except Exception as error:  # a model may raise anything
        return f"the model fails for another batch size: {type(error).__name__}: {error}"
    if not agree(output, repeated):
        return "the model's outputs differ between two calls with the same inputs"
    if not agree(output[:1], row):
        return "the model's output for a row depends on the other rows of the batch"
    filled = network.structure.filled
    if not agree(first, network.with_softmax(filled(example))):
        return "the program's outputs differ from the model's on the example"
    again = filled(other)
    if any(not agree(output, network.with_softmax(again)) for _ in range(2)):
        return "the program's outputs differ from the model's on a second batch"
    if not agree(row, network.with_softmax(filled(single))):
        return "the program's output differs from the model's on a single row"
    return _wrong_gradient(model, network, other)


def _wrong_gradient(model: UserModel, network: Network, parts: Sequence[Tensor]) -> str | None:
    leaves = [part.clone().requires_grad_() for part in parts if part.is_floating_point()]
    if not leaves:
        return None
    given = iter(leaves)
    try:
        with torch.enable_grad():
            held = [next(given) if part.is_floating_point() else part for part in parts]
            output = model(*held)
    except RuntimeError:  # written for inference only; there is nothing to compare
        return None
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    expected = [torch.zeros_like(leaf) for leaf in leaves]
    if output.requires_grad:
        expected = list(torch.autograd.grad(output, leaves, weights, materialize_grads=True))
    try:
        found = _walked(network, parts, weights)
    except (RuntimeError, NotImplementedError) as error:
        return f"the program has no gradient: {error}"
    # a gate may switch in single precision, but not many
    tolerance = max(0.05, _TOLERANCES.get(output.dtype, 0.0))
    if all(
        bool((one - other).norm() <= tolerance * one.norm())
        for one, other in zip(expected, found, strict=True)
    ):
        return None
    return _wrong_in_single(network) if output.dtype in _HALF else _GRADIENT


def _wrong_in_single(network: Network) -> str | None:
    """Return whether gradients differ in single precision; in half, many gates switch in any case.

    Gradients of a deep network that was read rightly can differ by half of what they are.
    """
    try:
        single = network.to(dtype=torch.float32)
    except Exception:  # a model may raise anything, as where it makes tensors of half precision
        return None
    return _GRADIENT if str(single.reason).startswith(_GRADIENT) else None


def _walked(network: Network, parts: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """Return the program's gradient with respect to each floating-point input."""
    with torch.no_grad():
        values = network.run(network.structure.filled(parts))
        start = network.before_softmax(values, weights)
        names = [
            op.name
            for op, part in zip(network.operators, parts, strict=False)
            if part.is_floating_point()
        ]
        walked = walk(network, values, start, gradient.find, names)
    return [walked.layers.get(name, torch.zeros_like(values[name])) for name in names]


def agree(expected: Tensor, found: Tensor) -> bool:
    """Return whether outputs are the same but for how kernels and folding round."""
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
    if expected.device.type == "cuda":
        tolerance = max(tolerance, _CUDA_TOLERANCE)
    return bool(error <= tolerance * scale)


def random_like(example: Tensor) -> Tensor:
    """Return three rows of the example's range that are not the example."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, *example.shape[1:])
    if example.dtype == torch.bool and example.ndim > 1:
        # as many of each row are true as in the example: a mask that hides all is no mask
        rows = example[torch.arange(3, device=example.device) % len(example)].flatten(1)
        order = torch.randperm(rows.shape[1], generator=generator).to(example.device)
        return rows[:, order].reshape(shape)
    if not example.is_floating_point():
        low, high = int(example.min()), int(example.max())
        drawn = torch.randint(low, high + 1, shape, generator=generator)
        return drawn.to(example.device, example.dtype)
    spread = example.double().std().item() or 1.0
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    return (drawn + example.double().mean().item()).to(example.device, example.dtype)


def _cuda(example: Tensor) -> list[torch.device]:
    return [example.device] if example.device.type == "cuda" else []
