"""What a worker takes of a node, and how many of them fit; knows nothing of any platform."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline.engine import Settings

ROUNDING = 1e-6
"""Ray counts in ten-thousandths: a third of a GPU, written 0.3333, is to fit three times."""
MAX_SHAPES = 6
"""Kinds of nodes that an error lists."""
OWN_FIELDS = {"CPU": "engine.threads", "GPU": "engine.gpus_per_worker"}
"""Resources that have fields of their own in the run file."""
COUNTED = re.compile(r"^(?!node:|memory$|object_store_memory$)")
"""Resources worth telling: every node has the others."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, as it was started: what others hold of it counts, too."""

    name: str
    """Identifies it."""
    resources: Mapping[str, float]
    """Amounts by name: ``CPU``, ``GPU``, ``accelerator_type:A100``, and custom ones."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels by name."""

    def __str__(self) -> str:
        told = {name: value for name, value in self.resources.items() if COUNTED.match(name)}
        labels = {name: value for name, value in self.labels.items() if not _is_rays(name)}
        return _listed({**dict(sorted(told.items())), **dict(sorted(labels.items()))})


@dataclass(frozen=True)
class Demand:
    """What one worker takes.

    Raises
    ------
    EngineError
        If it contradicts itself, or asks for what no platform gives.
    """

    threads: int = 1
    """Processors."""
    gpus: float = 0.0
    """GPUs: a share of one, or a whole number."""
    accelerator_type: str | None = None
    """Kind of GPU, by the platform's name."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that its node must have: a value, ``!value``, ``in(a, b)`` or ``!in(a, b)``."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources."""

    def __post_init__(self) -> None:
        for name in OWN_FIELDS.keys() & self.resources.keys():
            raise EngineError(
                f"engine.resources names {name!r}, which has a field of its own",
                fix=f"say it as {OWN_FIELDS[name]}",
            )
        if self.gpus > 1 and self.gpus != round(self.gpus):
            raise EngineError(
                f"engine.gpus_per_worker is {self.gpus:g}: a worker takes a share of one GPU, or "
                "whole ones",
                fix=f"say {math.floor(self.gpus)} or {math.ceil(self.gpus)}",
            )
        if self.accelerator_type and not self.gpus:
            raise EngineError(
                f"engine.accelerator_type is {self.accelerator_type!r}, but workers take no GPU",
                fix="set engine.gpus_per_worker, or leave out the type",
            )

    @classmethod
    def of(cls, settings: Settings, gpus: float) -> Demand:
        """Return what a worker takes by the settings, with ``auto`` decided."""
        return cls(
            threads=settings.threads,
            gpus=gpus,
            accelerator_type=settings.accelerator_type,
            labels=settings.labels,
            resources=settings.resources,
        )

    def __str__(self) -> str:
        kind = f" of type {self.accelerator_type}" if self.accelerator_type else ""
        gpus = {f"GPU{kind}": self.gpus} if self.gpus else {}
        return _listed({"CPU": self.threads, **gpus, **self.resources, **self.labels})

    def workers_on(self, node: Node) -> int:
        """Return how many workers fit on an empty node."""
        if not all(is_match(text, node.labels.get(name)) for name, text in self.labels.items()):
            return 0
        if self.accelerator_type and not node.resources.get(
            f"accelerator_type:{self.accelerator_type}"
        ):
            return 0
        rooms = [_times(self.threads, node.resources.get("CPU", 0.0))]
        rooms += [
            _times(amount, node.resources.get(name, 0.0)) for name, amount in self.resources.items()
        ]
        if self.gpus:
            rooms.append(_shares(self.gpus, node.resources.get("GPU", 0.0)))
        return min(rooms)

    def workers_in(self, nodes: Iterable[Node]) -> int:
        """Return how many workers fit on empty nodes, which need not be alike."""
        return sum(self.workers_on(node) for node in nodes)


def is_match(selector: str, value: str | None) -> bool:
    """Say whether a label's value, None if the node has no such label, fits Ray's selector.

    A node without the label fits every selector that begins with ``!``, as in Ray.
    """
    wanted = selector.removeprefix("!")
    inside = re.fullmatch(r"(?:in)?\((.*)\)", wanted)
    options = inside.group(1).split(",") if inside else [wanted]
    return (value in {option.strip() for option in options}) != selector.startswith("!")


def shapes(nodes: Iterable[Node]) -> str:
    """Return what a cluster has, nodes that are alike counted."""
    counts = Counter(str(node) for node in nodes)
    if not counts:
        return "no node at all"
    told = [f"{n} x ({shape})" for shape, n in counts.most_common(MAX_SHAPES)]
    rest = sum(counts.values()) - sum(n for _, n in counts.most_common(MAX_SHAPES))
    return ", ".join(told) + (f" and {rest} others" if rest else "")


def _times(amount: float, available: float) -> int:
    return math.floor(available / amount + ROUNDING)


def _shares(gpus: float, available: float) -> int:
    """Return how many workers GPUs serve: a share lies on one GPU, it never spans two."""
    if gpus >= 1:
        return _times(gpus, available)
    # a third of a GPU rounds down to 0.3333, and thrice that is still one GPU
    return math.floor(available) * math.floor(1 / gpus + 1e-3)


def _is_rays(label: str) -> bool:
    return label.startswith("ray.io/")


def _listed(values: Mapping[str, float | str]) -> str:
    return ", ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {value:g}"
        for name, value in values.items()
    )
