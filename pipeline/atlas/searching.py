"""The index that the pages search: a script, for a page from a file system may read no file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipeline.atlas.cards import Card

N_CLASSES = 3
"""Classes under which a concept is found, of each view."""
N_CONCEPTS = 60
"""Concepts found under a class, of all layers."""


@dataclass
class Index:
    """Layers, and the concepts that show a class."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    by_class: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    """Name of a class to layer, channel and place of the class among the concept's."""

    def add(self, name: str, slug: str, n_concepts: int, cards: Iterable[Card]) -> None:
        """Enter a layer."""
        place = len(self.layers)
        self.layers.append({"name": name, "page": f"{slug}.html", "n": n_concepts})
        for card in cards:
            ranks: dict[str, int] = {}
            for column in card.columns:
                for rank, (label, _) in enumerate(column.classes[:N_CLASSES]):
                    ranks[label] = min(rank, ranks.get(label, rank))
            for label, rank in ranks.items():
                self.by_class.setdefault(label, []).append((place, card.channel, rank))

    def script(self) -> bytes:
        """Return the script."""
        found = {
            "layers": self.layers,
            # what a class shows most comes first, deep layers before early ones
            "classes": [
                {"name": label, "concepts": [part[:2] for part in sorted(places, key=_first)]}
                for label, places in sorted(self.by_class.items())
            ],
        }
        for entry in found["classes"]:
            entry["concepts"] = entry["concepts"][:N_CONCEPTS]
        text = json.dumps(found, separators=(",", ":"))
        return f"window.xpipeAtlas={text};\n".encode()


def _first(place: tuple[int, int, int]) -> tuple[int, int, int]:
    layer, channel, rank = place
    return rank, -layer, channel
