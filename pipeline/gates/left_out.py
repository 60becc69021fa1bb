"""Gates that a run of some explainers does not judge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.gates import grammar, relative
from pipeline.gates.names import place_of
from pipeline.gates.verdict import Verdict

if TYPE_CHECKING:
    from pipeline.config import Gate, RunConfig

NAN = float("nan")


def left_out(config: RunConfig, narrow: RunConfig) -> tuple[Verdict, ...]:
    """Return the gates of a run file that are not those of a narrower run, each as skipped."""
    gates = (gate for gate in config.gates if gate not in narrow.gates)
    return tuple(_skipped(gate, config) for gate in gates)


def _skipped(gate: Gate, config: RunConfig) -> Verdict:
    about = place_of(gate, config.metrics)
    return Verdict(
        gate=gate if isinstance(gate, str) else relative.text(gate),
        kind="absolute" if isinstance(gate, str) else "relative",
        status="skipped",
        explainer=about.explainer,
        metric=about.metric,
        column=about.column,
        group=about.group,
        n=0,
        value=NAN,
        low=NAN,
        high=NAN,
        limit=grammar.parse(gate).limit if isinstance(gate, str) else NAN,
        message="the run leaves out what it is about",
    )
