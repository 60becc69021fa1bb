"""Two runs on the same samples: how scores and maps have changed from one to the other."""

from pipeline.compare.comparing import compare
from pipeline.compare.comparison import (
    ClassProfile,
    Comparison,
    MapDrift,
    ScoreDrift,
    Side,
    Summed,
    Worst,
)
from pipeline.compare.pairing import IncomparableError, pair

__all__ = [
    "ClassProfile",
    "Comparison",
    "IncomparableError",
    "MapDrift",
    "ScoreDrift",
    "Side",
    "Summed",
    "Worst",
    "compare",
    "pair",
]
