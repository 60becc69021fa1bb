"""Which axes of a sample are places, and which one is its channels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Axes:
    """Of one sample: a vector, a sequence, a picture or a volume."""

    places: tuple[int, ...]
    """Along which cells are cut."""
    channel: int | None
    """Whose values lie at the same place."""


def axes(shape: tuple[int, ...], n_sizes: int = 1) -> Axes:
    """Return the axes of values ``(values,)``, ``(places, features)``, ``(channels, ...)``.

    Parameters
    ----------
    shape
        Of one sample.
    n_sizes
        Of a cell: two of them make places of both axes of a sequence.

    Raises
    ------
    ValueError
        If there are other axes than these.
    """
    if len(shape) == 1:
        return Axes((0,), None)
    if len(shape) == 2:
        return Axes((0, 1), None) if n_sizes == 2 else Axes((0,), 1)
    if len(shape) in (3, 4):
        return Axes(tuple(range(1, len(shape))), 0)
    raise ValueError(
        f"got values of shape {shape} for each sample, expected (values,), (places, features), "
        "(channels, height, width) or (channels, depth, height, width); give features as "
        "{masks: ...}, or None"
    )


def channel_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of channels.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = axes(shape).channel
    if found is None:
        raise ValueError(
            f"got values of shape {shape}, which have no channels; expected (places, features) or "
            "(channels, height, width)"
        )
    return found
