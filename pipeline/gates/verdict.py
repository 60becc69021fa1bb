"""What became of a gate, and what all of them say together."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

BROKEN = 4
"""Exit code of what breaks a gate."""
Status = Literal["passed", "warned", "failed", "skipped"]


@dataclass(frozen=True)
class Verdict:
    """A gate, judged for one explainer and one group of samples."""

    gate: str
    """As it is written."""
    kind: Literal["absolute", "relative"]
    status: Status
    """``skipped`` if its metric was not evaluated and not asked for."""
    explainer: str
    metric: str
    column: str
    group: str
    n: int
    """Samples with a defined score (relative: in both runs)."""
    value: float
    """The mean (relative: its change)."""
    low: float
    """Lower end of the interval of `value`."""
    high: float
    limit: float
    """Bound of `value`; relative: how much worse it may be."""
    message: str
    """One sentence: what was found, and why it does not do."""

    @property
    def name(self) -> str:
        """What is judged: ``explainer.metric.column.group``."""
        return ".".join(part for part in (self.explainer, self.metric, self.column) if part) + (
            f".{self.group}" if self.group != "all" else ""
        )

    @property
    def is_broken(self) -> bool:
        """Whether it stops a release."""
        return self.status == "failed"


def overall(verdicts: Iterable[Verdict]) -> Status:
    """Return the worst status; ``skipped`` where nothing was judged."""
    present = {verdict.status for verdict in verdicts}
    ranked: tuple[Status, ...] = ("failed", "warned", "passed")
    return next((status for status in ranked if status in present), "skipped")


def tally(verdicts: Iterable[Verdict]) -> str:
    """Return how many gates hold, in words."""
    listed = list(verdicts)
    judged = [verdict for verdict in listed if verdict.status != "skipped"]
    n_held = sum(not verdict.is_broken for verdict in judged)
    others = [
        f"{n} {what}"
        for status, what in (("warned", "with a warning"), ("skipped", "not judged"))
        if (n := sum(verdict.status == status for verdict in listed))
    ]
    return ", ".join([f"{n_held} of {len(judged)} hold", *others])


def to_json(verdicts: Iterable[Verdict]) -> str:
    """Return verdicts as JSON text: NaN, which JSON lacks, is null."""
    listed = list(verdicts)
    gates = [
        {name: _plain(value) for name, value in ({"name": v.name} | asdict(v)).items()}
        for v in listed
    ]
    return json.dumps({"verdict": overall(listed), "gates": gates}, indent=2) + "\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
