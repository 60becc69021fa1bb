"""Which relevance is asked for: of concepts of layers, and of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from explainers.targets import Target

if TYPE_CHECKING:
    from explainers.concepts.kinds.base import Concepts

ConditionLike: TypeAlias = "Condition | Mapping[Any, Any]"

EVERYTHING = "all"
"""What a layer is given whose relevance goes through as it is: only what passes it counts."""

OUTPUT = "y"
"""What the network's output is called; zennit-crp's name."""

CONDITION = "condition"
"""Dimension of maps along which several conditions lie."""

_EXPECTED = (
    "expected the number of a concept, a list of them ([] for none), 'all', or a mapping from "
    "concepts to positions such as {3: [0, 7]}"
)


@dataclass(frozen=True)
class Chosen:
    """Concepts and neurons of one layer, whose relevance is kept: the union of all of them."""

    concepts: tuple[int, ...] = ()
    """With all their positions."""
    neurons: tuple[tuple[int, int], ...] = ()
    """Concept and position, the flat row-major index among the concept's positions."""
    is_everything: bool = False

    @classmethod
    def parse(cls, spec: Any) -> Chosen:
        """Return what `spec` says of a layer.

        Raises
        ------
        TypeError
            If it says nothing that a layer can be given.
        ValueError
            If a number is negative.
        """
        if isinstance(spec, Chosen):
            return spec
        if spec == EVERYTHING if isinstance(spec, str) else False:
            return cls(is_everything=True)
        if isinstance(spec, Mapping):
            return cls._of_positions(spec)
        return cls(concepts=_numbers(spec, _EXPECTED))

    @classmethod
    def _of_positions(cls, spec: Mapping[Any, Any]) -> Chosen:
        whole: list[int] = []
        neurons: list[tuple[int, int]] = []
        for key, positions in spec.items():
            # JSON, through which run files are checked, makes text of keys
            number = int(key) if isinstance(key, str) and key.isdecimal() else key
            (concept,) = _numbers(number, _EXPECTED, only_one=True)
            if isinstance(positions, str) and positions == EVERYTHING:
                whole.append(concept)
            else:
                neurons += [(concept, position) for position in _numbers(positions, _EXPECTED)]
        return cls(tuple(whole), tuple(dict.fromkeys(neurons)))

    def check(self, concepts: Concepts) -> None:
        """Refuse numbers that the layer's concepts, or their positions, do not have.

        Raises
        ------
        ValueError
            If there is such a number.
        """
        n_positions = 1
        for size in concepts.shape:
            n_positions *= size
        for concept in (*self.concepts, *(concept for concept, _ in self.neurons)):
            if concept >= concepts.n:
                raise ValueError(
                    f"conditions name concept {concept} of layer {concepts.layer!r}, which has "
                    f"{concepts.n} concepts; choose from 0 to {concepts.n - 1}"
                )
        for concept, position in self.neurons:
            if position >= n_positions:
                raise ValueError(
                    f"conditions name position {position} of concept {concept} of layer "
                    f"{concepts.layer!r}, whose concepts have {n_positions} positions "
                    f"({' x '.join(map(str, concepts.shape)) or 'a single value'}, counted row by "
                    f"row); choose from 0 to {n_positions - 1}"
                )


@dataclass(frozen=True)
class Condition:
    """What is kept of relevance on its way back: in each named layer, only what is chosen there.

    Along the depth of a network all of them hold (AND); within a layer, and of layers side by
    side, what any of them keeps is added up.
    """

    layers: Mapping[str, Chosen] = field(default_factory=dict)
    """By layer."""
    classes: tuple[int, ...] | None = None
    """Of the output: the logits of all of them are explained together."""
    target: Target | None = None
    """What is explained, where that is no list of classes; None, with `classes` None too, for
    what all conditions are given."""

    @classmethod
    def parse(cls, spec: ConditionLike) -> Condition:
        """Return the condition that `spec` says.

        Parameters
        ----------
        spec
            ``{layer: concepts, ..., "y": classes}``. Concepts are a number, a list of them
            (``[]`` keeps nothing of the layer), ``"all"``, or ``{concept: positions}`` for single
            neurons; classes are a number, a list of them, or what a `Target` can be.

        Raises
        ------
        TypeError
            If it says nothing that a condition can be.
        ValueError
            If a number is negative.
        """
        if isinstance(spec, Condition):
            return spec
        if not isinstance(spec, Mapping):
            raise TypeError(
                f"got conditions {spec!r}, expected a mapping from layers to concepts, such as "
                "{layer4: [3, 7], y: 1}"
            )
        unnamed = [layer for layer in spec if not isinstance(layer, str)]
        if unnamed:
            raise TypeError(
                f"got conditions on {unnamed[0]!r}, expected names of layers, as xpipe inspect "
                "lists them; a name that looks like a number wants quotes"
            )
        layers = {}
        for layer, chosen in spec.items():
            if layer == OUTPUT:
                continue
            try:
                layers[layer] = Chosen.parse(chosen)
            except (TypeError, ValueError) as error:
                raise type(error)(f"conditions on layer {layer!r}: {error}") from error
        return cls(layers, *_explained(spec.get(OUTPUT)))

    @property
    def has_output(self) -> bool:
        """Whether it says what of the output is explained."""
        return self.classes is not None or self.target is not None

    def check_output(self, n_outputs: int) -> None:
        """Refuse classes that the network does not have.

        Raises
        ------
        ValueError
            If there is such a class.
        """
        explained = [Target("index", one) for one in self.classes or ()]
        if self.target is not None:
            explained.append(self.target)
        for target in explained:
            try:
                target.check(n_outputs)
            except ValueError as error:
                raise ValueError(f"conditions on {OUTPUT!r}: {error}") from error


def parsed(conditions: Any) -> tuple[Condition, ...]:
    """Return the conditions of one mapping, or of a list of them.

    Raises
    ------
    TypeError
        If they are neither.
    ValueError
        If the list is empty.
    """
    if isinstance(conditions, Condition | Mapping):
        return (Condition.parse(conditions),)
    if not isinstance(conditions, list | tuple):
        raise TypeError(
            f"got conditions={conditions!r}, expected a mapping from layers to concepts such as "
            "{layer4: [3, 7], y: 1}, or a list of such mappings"
        )
    if not conditions:
        raise ValueError(
            "got no conditions; give at least one, {} for what lrp explains without any"
        )
    return tuple(Condition.parse(each) for each in conditions)


def _explained(spec: Any) -> tuple[tuple[int, ...] | None, Target | None]:
    """Return the classes, or the target, that are said of the output."""
    if spec is None:
        return None, None
    if isinstance(spec, Integral | list | tuple) and not isinstance(spec, bool):
        expected = "expected a class, a list of classes, 'label', 'predicted' or 'runner_up'"
        return _numbers(spec, f"conditions on {OUTPUT!r}: {expected}"), None
    try:
        target = Target.parse(spec)
    except ValueError as error:
        raise ValueError(f"conditions on {OUTPUT!r}: {error}") from error
    if target.layer is not None:
        raise ValueError(
            f"conditions on {OUTPUT!r}: got {spec!r}, expected classes; to start at a hidden layer "
            "give start_layer, and the unit as a condition on that layer"
        )
    return None, target


def _numbers(spec: Any, expected: str, *, only_one: bool = False) -> tuple[int, ...]:
    spec = _plain(spec)
    held = [spec] if isinstance(spec, Integral) or only_one else spec
    if not isinstance(held, list | tuple | range):
        raise TypeError(f"got {spec!r}, {expected}")
    numbers = [_plain(number) for number in held]
    for number in numbers:
        if not isinstance(number, int) or isinstance(number, bool):
            raise TypeError(f"got {number!r}, {expected}")
        if number < 0:
            raise ValueError(f"got {number}, {expected}; they are counted from zero")
    return tuple(dict.fromkeys(numbers))


def _plain(value: Any) -> Any:
    """Return the numbers of an array or a tensor, or its only one, as those of Python."""
    return value.tolist() if hasattr(value, "tolist") else value
