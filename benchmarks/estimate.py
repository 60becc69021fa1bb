"""What `xpipe plan --measure` foresees of a run, beside what the run takes, part by part.

``python -m benchmarks.estimate [RUN_FILE]``, of the quickstart if none is named. It prints a row
per part: seconds that were foreseen and taken, and their ratio. The ratio of the total should be
within a quarter of one on a machine that does nothing else. Seconds of measuring itself
are in the last row, over those of the run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import load
from pipeline.estimate import REST, Rehearsal, measured_plan
from pipeline.run import run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.config import RunConfig

MEASURING = "measuring"
"""Row of what `plan --measure` itself takes."""
QUICKSTART = Path(__file__).parents[1] / "configs/quickstart/run.yaml"


def main(arguments: Sequence[str] | None = None) -> None:
    """Plan and run a run file several times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path, nargs="?", default=QUICKSTART)
    parser.add_argument("overrides", nargs="*", help="as -s of xpipe: a.b=value")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args(arguments)
    for _ in range(asked.times):
        with tempfile.TemporaryDirectory() as folder:
            path = f"output.path={folder}/run"
            config = load(asked.config, [*asked.overrides, path])
            started = time.monotonic()
            plan = measured_plan(config)
            measuring = time.monotonic() - started
            show(plan.estimate, taken(config), measuring)


def taken(config: RunConfig) -> dict[str, float]:
    """Run, and return the seconds of planning, of each pass, of the rest, and their total."""
    told = Rehearsal(0, 1)
    started = time.monotonic()
    run(config, callbacks=(told,))
    total = time.monotonic() - started
    planning = told.begun - started
    rest = total - planning - sum(told.passes.values())
    return {"planning": planning, **told.passes, REST: rest, "total": total}


def show(foreseen: Mapping[str, float], took: Mapping[str, float], measuring: float) -> None:
    """Print a row per part of a run.

    Ray is a part of its own when it is foreseen, and one of the first pass when it is taken.
    """
    first = next(name for name in took if name != "planning")
    print(f"{'part':<32} {'foreseen':>9} {'took':>9} {'ratio':>6}")
    for name, seconds in took.items():
        expected = foreseen[name] + (foreseen["start"] if name == first else 0.0)
        label = f"start, {name}" if name == first else name
        row(label, expected, seconds)
    row(MEASURING, measuring, took["total"])


def row(label: str, first: float, second: float) -> None:
    """Print two times and their ratio."""
    print(f"{label:<32} {first:>7.1f} s {second:>7.1f} s {first / max(second, 1e-9):>6.2f}")


if __name__ == "__main__":
    main()
