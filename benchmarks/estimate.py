"""What `xpipe plan --measure` foresees of a run, beside what the run takes.

``python benchmarks/estimate.py configs/quickstart/run.yaml``; prints seconds and their ratio, which
should be within a quarter of one on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from pipeline.config import load
from pipeline.estimate import in_words
from pipeline.planner import make_plan
from pipeline.run import run


def main() -> None:
    """Plan and run a run file several times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", help="as -s of xpipe: a.b=value")
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    for _ in range(asked.times):
        with tempfile.TemporaryDirectory() as folder:
            path = f"output.path={folder}/run"
            config = load(asked.config, [*asked.overrides, path])
            plan = make_plan(config, measure=True).plan
            print(in_words(plan.estimate))
            started = time.monotonic()
            run(config)
            seconds = time.monotonic() - started
        ratio = plan.estimate["total"] / seconds
        print(f"foreseen {plan.estimate['total']:.1f} s, took {seconds:.1f} s: {ratio:.2f}")


if __name__ == "__main__":
    main()
