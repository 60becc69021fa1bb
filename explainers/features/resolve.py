"""From what is said about features, and a network or a batch, to a partition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from explainers.features.axes import channel_axis
from explainers.features.cuts import Tokens, Values
from explainers.features.joined import Piece, joined
from explainers.features.labels import Rows, apart
from explainers.features.spec import KEYS, Division, parsed
from explainers.features.subject import network_of, packing_of, subjects
from explainers.reference import at_inputs
from explainers.registry import suggest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from explainers.features.labels import Labels
    from explainers.features.partition import Partition
    from explainers.features.spec import FeatureSpec
    from explainers.features.subject import Subject
    from explainers.network import Network
    from explainers.trace import Trace


def resolve(spec: FeatureSpec, trace: Trace, *, layer: str | None = None) -> Partition:
    """Return the features of a batch.

    Parameters
    ----------
    spec
        None for every value (every token) by itself; ``pixels``, ``values``, ``channels``,
        ``tokens``; ``{grid: 7}``, ``{patches: 16}``, ``{slic: {n_segments: 50}}``,
        ``{masks: labels.npy}``, each with ``channels: together | apart`` and
        ``spread: copy | share`` where wanted; a tensor of masks. Of several inputs, a mapping of
        their names to these, or one that is meant for all which it suits.
    trace
        Of the samples.
    layer
        Whose values are the trace's inputs; None where these stand for the inputs of the whole.

    Raises
    ------
    ImportError
        If a library is not installed.
    LookupError
        If a word, a key or the name of an input is unknown.
    TypeError
        If something is of the wrong type.
    ValueError
        If features do not fit the inputs, one is empty, or there is no file of masks.
    """
    trace = at_inputs(trace)
    found = _partition(spec, trace.network, layer, trace)
    if found is None:
        raise RuntimeError(f"features {spec!r} were not found for a batch; please report this")
    weights = None if found.weights is None else found.weights.to(trace.inputs.device)
    return replace(found, cells=found.cells.to(trace.inputs.device), weights=weights)


def check(spec: FeatureSpec, network: Network, *, layer: str | None = None) -> int | None:
    """Refuse features that do not fit a network; return how many there are.

    Parameters
    ----------
    spec
        As `resolve` takes it; what it refuses is refused here, as far as it can be seen before
        there are samples.
    network
        The whole, or the part of it that is explained.
    layer
        Whose values are the network's inputs; None where these stand for the inputs of the whole.

    Returns
    -------
    int or None
        Features of one sample; None where they depend on the sample.
    """
    found = _partition(spec, network_of(network, layer), layer, None)
    return None if found is None else found.n_features


def _partition(
    spec: FeatureSpec, network: Network, layer: str | None, trace: Trace | None
) -> Partition | None:
    packing = packing_of(network)
    values: Mapping[str, Tensor] = {}
    if trace is not None and packing is not None:
        values = packing.unpack(trace.inputs)
    pieces: list[Piece | None] = []
    for subject, division in _divided(subjects(network, layer), spec):
        rows = None
        if trace is not None:
            name = next(iter(subject.values))
            own = values.get(name, trace.inputs)
            rows = Rows(own, trace.inputs, name, trace.who().index, trace.samples is not None)
        labels = labels_of(division, subject, rows)
        pieces.append(None if labels is None else Piece(subject, division, labels))
    known = [piece for piece in pieces if piece is not None]
    return joined(known, packing) if len(known) == len(pieces) else None


def _divided(found: Sequence[Subject], spec: FeatureSpec) -> list[tuple[Subject, Division]]:
    """Return each input, or layer, and how it is divided."""
    divided: list[tuple[Subject, Division]] = []
    for subject, division in zip(found, _divisions(found, spec), strict=True):
        if subject.lookups and isinstance(division.kind, Values):
            divided += [(value, division) for value in subject.by_value()]
        else:
            divided.append((subject, division))
    return divided


def _divisions(found: Sequence[Subject], spec: FeatureSpec) -> list[Division]:
    names = [subject.name for subject in found]
    if isinstance(spec, Mapping) and _is_by_name(spec, names):
        for name in spec:
            if str(name) not in names:
                raise LookupError(
                    f"got features of {name!r}, which is no input that is explained; "
                    f"{suggest(str(name), names)}"
                )
        by_name = {str(name): parsed(own) for name, own in spec.items()}
        return [by_name.get(name, Division()) for name in names]
    division = parsed(spec)
    kind = division.kind
    if len(found) == 1 or kind is None:
        return [division] * len(found)
    suited = [kind.suits(subject.shape, bool(subject.lookups)) for subject in found]
    if not any(suited):
        shapes = ", ".join(f"{subject.name!r} {subject.shape}" for subject in found)
        raise ValueError(
            f"got features {spec!r} for several inputs ({shapes}), none of which they suit; give "
            f"a mapping of names to features, such as {{{names[0]}: ...}}"
        )
    other = replace(division, kind=None, are_channels_apart=False)
    return [division if suits else other for suits in suited]


def _is_by_name(spec: Mapping[str, Any], names: Sequence[str]) -> bool:
    keys = {str(key) for key in spec}
    if keys <= set(KEYS):
        return False
    return bool(keys & set(names)) or (len(names) > 1 and not keys & set(KEYS))


def labels_of(division: Division, subject: Subject, rows: Rows | None) -> Labels | None:
    """Return the cells of one input; None where they depend on samples and there are none."""
    kind = division.kind or Values()
    if subject.lookups and isinstance(kind, Tokens):
        kind = Values()
    labels = kind.labels(subject.shape, rows)
    if labels is None or not division.are_channels_apart:
        return labels
    axis = channel_axis(subject.shape)
    if labels.cells.shape[1 + axis] != 1:
        raise ValueError(
            f"got channels: apart for features that tell the channels of {subject.shape} apart "
            "already; leave it out"
        )
    return apart(labels, subject.shape, axis)
