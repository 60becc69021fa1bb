"""How clusters of maps are told on the terminal."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cli import output

if TYPE_CHECKING:
    from pipeline.spray.findings import Finding

CONFIRMED = "clever_hans"


def show(clusters: Iterable["Finding"]) -> None:
    """Print clusters as a table; nothing if there are none."""
    numbers = ("size", "second eigenvalue", "flip rate", "control")
    rows = [
        {
            "explainer": found.explainer,
            "view": found.view,
            "cluster": found.cluster,
            "size": found.size,
            "second eigenvalue": found.second_eigenvalue,
            "flip rate": found.flip_rate,
            "control": found.control_rate,
            "verdict": found.verdict,
        }
        for found in clusters
    ]
    if rows:
        output.table(rows, ("explainer", "view", "cluster", *numbers, "verdict"), right=numbers)


def confirmed(clusters: Iterable["Finding"]) -> list["Finding"]:
    """Return the clusters that the check of the network confirmed as Clever Hans."""
    return [found for found in clusters if found.verdict == CONFIRMED]
