"""What can be said about features in a run file, and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

from torch import Tensor

from explainers.features.cuts import Channels, Grid, Patches, Pixels, Tokens, Values
from explainers.features.masks import Masks
from explainers.features.partition import Spread
from explainers.features.slic import Slic
from explainers.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Callable

    from explainers.features.labels import Kind

FeatureSpec: TypeAlias = "str | Mapping[str, Any] | Tensor | None"

_WORDS: dict[str, Kind] = {
    "values": Values(),
    "pixels": Pixels(),
    "channels": Channels(),
    "tokens": Tokens(),
}
KEYS = ("grid", "patches", "slic", "masks", "channels", "spread")
"""Of a mapping that says how one input is divided."""


@dataclass(frozen=True, eq=False)
class Division:
    """How one input is divided into features."""

    kind: Kind | None = None
    """None for every value by itself; every token, where the input is tokens."""
    are_channels_apart: bool = False
    """Whether a cell of one channel is a feature, or a cell of all."""
    spread: Spread | None = None
    """None for what is usual: shares of a token, copies otherwise."""


def parsed(spec: Any) -> Division:
    """Return what a description of the features of one input means.

    Raises
    ------
    LookupError
        If a word or key is unknown.
    TypeError
        If something is of the wrong type.
    ValueError
        If numbers are not positive, or keys contradict each other.
    """
    if spec is None or isinstance(spec, Division):
        return spec or Division()
    if isinstance(spec, Tensor):
        return Division(Masks(spec))
    if isinstance(spec, str):
        if spec not in _WORDS:
            raise LookupError(f"unknown features {spec!r}; {suggest(spec, [*_WORDS, *_KINDS])}")
        return Division(_WORDS[spec])
    if not isinstance(spec, Mapping):
        raise TypeError(
            f"got features {spec!r}, expected None, one of {', '.join(_WORDS)}, or a mapping such "
            "as {grid: 7}, {patches: 16}, {slic: {n_segments: 50}}, {masks: masks.npy}"
        )
    return _of_mapping(spec)


def _of_mapping(spec: Mapping[str, Any]) -> Division:
    for key in spec:
        if key not in KEYS:
            raise LookupError(f"unknown key {key!r} of features; {suggest(str(key), KEYS)}")
    kinds = [key for key in _KINDS if key in spec]
    if len(kinds) != 1:
        raise ValueError(
            f"got features with {' and '.join(kinds) or 'none'} of {', '.join(_KINDS)}, expected "
            "one of them"
        )
    channels = spec.get("channels", "together")
    if channels not in ("together", "apart"):
        raise ValueError(f"got channels {channels!r}, expected 'together' or 'apart'")
    spread = spec.get("spread")
    if spread is not None and spread not in get_args(Spread):
        raise ValueError(f"got spread {spread!r}, expected 'copy' or 'share'")
    return Division(
        _KINDS[kinds[0]](spec[kinds[0]]), channels == "apart", cast("Spread | None", spread)
    )


def _grid(given: Any) -> Grid:
    return Grid(_numbers(given, "grid"))


def _patches(given: Any) -> Patches:
    return Patches(_numbers(given, "patches"))


def _numbers(given: Any, word: str) -> tuple[int, ...]:
    """Return a positive number, or one for each axis."""
    numbers = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not numbers or any(isinstance(one, bool) or not isinstance(one, int) for one in numbers):
        raise TypeError(f"got {word} {given!r}, expected a whole number, or one for each axis")
    if min(numbers) < 1:
        raise ValueError(f"got {word} {given!r}, expected 1 or more")
    return numbers


def _slic(given: Any) -> Slic:
    parameters = {} if given is None else given
    if isinstance(parameters, int) and not isinstance(parameters, bool):
        parameters = {"n_segments": parameters}
    if not isinstance(parameters, Mapping):
        raise TypeError(f"got slic {given!r}, expected {{n_segments: 50, compactness: 10}}")
    names = list(Slic.__dataclass_fields__)
    for name in parameters:
        if name not in names:
            raise LookupError(f"unknown parameter {name!r} of slic; {suggest(str(name), names)}")
    return Slic(**parameters)


_KINDS: dict[str, Callable[[Any], Kind]] = {
    "grid": _grid,
    "patches": _patches,
    "slic": _slic,
    "masks": Masks,
}
