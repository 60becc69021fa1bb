"""Masks that say what of the inputs is relevant, laid out as the values that stand for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from explainers.features.subject import Subject, packing_of, subjects

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.trace import Trace


def transformed(function: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """Return the relevant parts that a function finds of inputs, ``(batch, mask, *sample)``.

    Raises
    ------
    ValueError
        If it returns something else.
    """
    found = function(inputs)
    got = f"an object of type {type(found).__name__}"
    if isinstance(found, Tensor):
        if (*found.shape[:1], *found.shape[2:]) == tuple(inputs.shape):
            return found.to(inputs)
        got = f"shape {tuple(found.shape)}"
    raise ValueError(
        f"the function of the inputs returned {got}, expected a tensor (batch, mask, *sample) "
        f"for inputs of shape {tuple(inputs.shape)}: its relevant parts"
    )


def of_trace(masks: Any, whole: Trace, trace: Trace) -> Tensor:
    """Return masks that broadcast against a trace's inputs, ``(1 | batch, mask, ...)``.

    Parameters
    ----------
    masks
        Of the inputs, in their structure; see `explainers.decompose`.
    whole
        The trace of the inputs as they are given.
    trace
        The one that begins at what stands for them.

    Raises
    ------
    TypeError, ValueError
        If masks do not fit.
    """
    network = trace.network
    given = _by_part(masks, whole)
    found: dict[str, Tensor] = {}
    for subject in subjects(network, None):
        mask = given.get(subject.name)
        if mask is None:
            raise ValueError(
                f"got no masks for the input {subject.name!r}, expected some: of ones where "
                "all of it is relevant, of zeros where nothing is"
            )
        found |= _of_values(fitted(mask, subject.shape, whole.n_rows, subject.name), subject)
    packing = packing_of(network)
    if packing is None:
        (mask,) = found.values()
        return mask.to(trace.inputs.device)
    n_rows = max(len(mask) for mask in found.values())
    n_masks = {mask.shape[1] for mask in found.values()}
    if len(n_masks) > 1:
        raise ValueError(
            f"got {sorted(n_masks)} masks for the inputs, expected as many of each: a mask covers "
            "all of them together"
        )
    enlarged = {
        name: mask.expand(n_rows, -1, *packing.shapes[name]).flatten(0, 1)
        for name, mask in found.items()
    }
    packed = packing.pack(enlarged).to(trace.inputs.device)
    return packed.view(n_rows, -1, *packed.shape[1:])


def fitted(mask: Any, shape: tuple[int, ...], n_samples: int, name: str = "") -> Tensor:
    """Return masks of one input as ``(1 | batch, mask, ...)``, each further axis whole or 1.

    Parameters
    ----------
    mask
        ``(mask, *sample)`` or ``(batch, mask, *sample)``; of images also without channels.
    shape
        Of one sample.
    n_samples
        Of the batch.
    name
        Of the input, for messages.

    Raises
    ------
    TypeError
        If they are no numbers.
    ValueError
        If they do not fit, or are not between 0 and 1.
    """
    masks = _numbers(mask, name)
    forms = [(masks.unsqueeze(0), shape)] if masks.ndim == len(shape) + 1 else []
    forms += [(masks, shape)] if masks.ndim == len(shape) + 2 else []
    if len(shape) == 3:
        flat = (1, *shape[1:])
        forms += [(masks[None, :, None], flat)] if masks.ndim == 3 else []
        forms += [(masks.unsqueeze(2), flat)] if masks.ndim == 4 else []
    for form, wanted in forms:
        sizes = zip(form.shape[2:], wanted, strict=True)
        if len(form) in (1, n_samples) and all(size in (1, whole) for size, whole in sizes):
            return form
    raise ValueError(_misfit(masks, shape, n_samples, name))


def _numbers(mask: Any, name: str) -> Tensor:
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"got masks{_of(name)} of type {type(mask).__name__}, expected a tensor, or a "
            "function of the inputs; make one by torch.as_tensor"
        )
    if mask.is_complex():
        raise TypeError(f"got masks{_of(name)} of {mask.dtype}, expected bool or numbers 0 to 1")
    if mask.numel() and mask.dtype != torch.bool:
        low, high = mask.aminmax()
        if not (bool(low >= 0) and bool(high <= 1)):
            raise ValueError(
                f"got masks{_of(name)} with values from {float(low):.3g} to {float(high):.3g}, "
                "expected 0 (irrelevant) to 1 (relevant); for other parts give a function that "
                "returns them"
            )
    return mask


def _by_part(masks: Any, whole: Trace) -> dict[str, Any]:
    """Return the masks of each input by its name."""
    structure = whole.network.structure
    if structure.kind == "tensor" or isinstance(masks, Tensor):
        if len(structure.names) == 1:
            return {structure.names[0]: masks}
        raise TypeError(
            f"got masks as one tensor for {len(structure.names)} inputs, expected them for each: "
            f"{', '.join(map(repr, structure.names))}, None for what has no relevance"
        )
    if isinstance(masks, dict):
        unknown = sorted(set(map(str, masks)) - set(structure.names))
        if unknown:
            raise ValueError(
                f"got masks for the inputs {', '.join(map(repr, unknown))}, expected some of: "
                f"{', '.join(map(repr, structure.names))}"
            )
        return {str(name): mask for name, mask in masks.items()}
    held = list(masks) if isinstance(masks, tuple | list) else [masks]
    if len(held) != len(structure.names):
        raise ValueError(
            f"got masks for {len(held)} inputs, expected them for {len(structure.names)}, None for "
            "what has no relevance"
        )
    return dict(zip(structure.names, held, strict=True))


def _of_values(mask: Tensor, subject: Subject) -> dict[str, Tensor]:
    """Return masks of the values that stand for an input, by their names."""
    if not subject.lookups:
        return dict.fromkeys(subject.values, mask)
    n_rows, n_masks = mask.shape[:2]
    tokens = mask.expand(n_rows, n_masks, *subject.shape).flatten(0, 1)
    found = {
        lookup.embedding.name: lookup.indices(tokens).unsqueeze(-1)
        for lookup in subject.lookups
        if lookup.embedding.name in subject.values
    }
    return {name: one.view(n_rows, n_masks, *one.shape[1:]) for name, one in found.items()}


def _of(name: str) -> str:
    return f" of the input {name!r}" if name else ""


def _misfit(masks: Tensor, shape: tuple[int, ...], n_samples: int, name: str) -> str:
    sample = ", ".join(map(str, shape))
    further = ", or without channels" if len(shape) == 3 else ""
    return (
        f"got masks{_of(name)} of shape {tuple(masks.shape)}, expected (mask, {sample}) or "
        f"({n_samples}, mask, {sample}), where axes may be 1{further}"
    )
