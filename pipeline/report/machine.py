"""The page for programs: everything that it says, as JSON."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate, agreement, comparisons, paths
from pipeline.errors import XpipeError
from pipeline.plan import EXPLAIN
from pipeline.report import effort
from pipeline.spray.findings import findings
from pipeline.statistics import Summary

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.aggregate import Block
    from pipeline.comparisons import Compared
    from pipeline.spray.result import Analysis
    from pipeline.store import Run

logger = logging.getLogger(__name__)

FORMAT = "xpipe.report"
VERSION = 1
"""Grows when something is renamed or goes; what is new comes without."""


def text(run: Run) -> str:
    """Return report.json; the same run gives the same text."""
    return json.dumps(_plain(machine(run)), indent=1, allow_nan=False) + "\n"


def machine(run: Run) -> dict[str, Any]:
    """Return what a run's page says, in the types of JSON but for NaN and infinity.

    ``scores[metric][explainer][column][group]`` has ``n n_undefined mean std low high median``,
    classes for headlines only; ``curves[metric][explainer][column]`` has lists of ``mean low
    high`` over all samples; ``standings[metric]`` has the explainers, the best first;
    ``comparisons`` are the rows of comparisons.parquet; ``agreement`` and ``ranks`` are as on the
    page. ``clusters[explainer]`` has how many were confirmed as ``clever_hans``, the rows of
    `pipeline.spray.findings`, and the classes that were left out. What a run does not have is
    empty, or null; what is damaged is null, and ``damaged`` says of each such key what is wrong.
    """
    said: dict[str, Any] = {"format": FORMAT, "version": VERSION}
    damaged: dict[str, str] = {}
    for keys, part in _PARTS:
        try:
            said |= part(run)
        except XpipeError as error:
            logger.warning("report.json has no %s: %s", ", ".join(keys), error)
            said |= dict.fromkeys(keys)
            damaged |= dict.fromkeys(keys, str(error))
    return said | {"damaged": damaged}


def _explainers(run: Run) -> dict[str, Any]:
    return {
        "explainers": {
            name: {
                "method": given.get("method", name),
                "parameters": {key: each for key, each in given.items() if key != "method"},
                "is_control": name in comparisons.controls(run),
            }
            for name, given in run.config.explainers.items()
        }
    }


def _judged(run: Run) -> dict[str, Any]:
    compared = comparisons.of_run(run)
    scores, curves = _scores(run, compared)
    return {
        "metrics": {each.metric.name: _metric(each) for each in compared},
        "scores": scores,
        "curves": curves,
        "standings": {each.metric.name: _standings(each) for each in compared},
        "comparisons": [asdict(row) for each in compared for row in each.rows],
    }


def _ranked(run: Run) -> dict[str, Any]:
    found = agreement.scores(run)
    return {
        "agreement": _agreement(found),
        "ranks": [_ranking(each) for each in agreement.rankings(run, found)],
    }


def _clusters(run: Run) -> dict[str, Any]:
    return {"clusters": {name: _clustered(each) for name, each in run.spray.items()}}


def _gates(run: Run) -> dict[str, Any]:
    gates = run.folder.exists(paths.GATES)
    return {"gates": json.loads(run.folder.read(paths.GATES)) if gates else None}


def _failures(run: Run) -> dict[str, Any]:
    return {"failures": [{"sample": name, "reason": reason} for name, reason in run.failures()]}


def _run(run: Run) -> dict[str, Any]:
    return {"run": _made(run)}


def _made(run: Run) -> dict[str, Any]:
    """Return what was run, on what, and what it took."""
    plan, environment = run.plan, run.environment
    spent = effort.spent(run)
    n_done = len(aggregate.facts(run)["index"])
    n_failed = len(run.failures())
    return {
        "name": run.config.name,
        "digest": plan.digest,
        "model": {"source": run.config.model.source, "name": run.config.model.name},
        "model_digest": plan.weights_digest,
        "data": {"source": run.config.data.source},
        "data_digest": plan.manifest_digest,
        "configuration_digest": run.config.digest(),
        "seed": run.config.seed,
        "targets": list(plan.targets),
        "n_samples": plan.n_samples,
        "n_explained": n_done - n_failed,
        "n_failed": n_failed,
        "n_shards": len(plan.shards),
        "n_shards_done": len(run.entries(EXPLAIN)),
        "maps_not_finite": run.not_finite(),
        "wall_seconds": spent.wall,
        "worker_seconds": spent.working,
        "passes": {name: asdict(effort.spent(run, name)) for name in run.progress()},
        "versions": {
            **({"python": environment["python"]} if "python" in environment else {}),
            **environment.get("packages", {}),
        },
    }


def _metric(compared: Compared) -> dict[str, Any]:
    known = asdict(compared.metric)
    del known["name"], known["digest"]
    return known | {"controls": compared.controls, "unbeaten_controls": compared.unbeaten}


def _clustered(analysis: Analysis) -> dict[str, Any]:
    return {
        "clever_hans": len(analysis.clever_hans),
        "n_maps": analysis.n_samples,
        "n_undefined": analysis.n_undefined,
        "min_samples": analysis.parameters["min_samples"],
        "skipped": analysis.skipped,
        "findings": [asdict(row) for row in findings(analysis)],
    }


def _scores(run: Run, compared: Sequence[Compared]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scalars by group, and curves over all samples."""
    groups = aggregate.groups_of(run)
    scores: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for metric in (each.metric for each in compared):
        for block in aggregate.blocks(run, metric, groups):
            into, said = (curves, _curve(block)) if block.is_curve else (scores, _scalar(block))
            of_metric = into.setdefault(metric.name, {})
            of_metric.setdefault(block.explainer, {})[block.column] = said
    return scores, curves


def _curve(block: Block) -> dict[str, Any]:
    row = block.summary[block.groups.index(aggregate.ALL)]
    return {name: getattr(row, name).tolist() for name in ("mean", "low", "high")}


def _scalar(block: Block) -> dict[str, Any]:
    is_headline = block.column == block.metric.headline
    return {
        group: {
            field.name: getattr(block.summary, field.name)[place, 0] for field in fields(Summary)
        }
        for place, group in enumerate(block.groups)
        if is_headline or not group.startswith(aggregate.CLASS)
    }


def _standings(compared: Compared) -> list[dict[str, Any]]:
    return [
        {
            "explainer": each.explainer,
            "rank": each.rank,
            "mean": each.mean,
            "letters": each.letters,
            "against": {name: row.verdict for name, row in each.against.items()},
            "is_control": each.explainer in compared.controls,
        }
        for each in compared.standings
    ]


def _agreement(found: agreement.Scores) -> dict[str, Any] | None:
    known = agreement.disagreement(found)
    return None if known is None else asdict(known)


def _ranking(ranking: agreement.Ranking) -> dict[str, Any]:
    bars = [ranking.explainers[first : last + 1] for first, last in ranking.bars()]
    return asdict(ranking) | {"metric": ranking.metric or None, "not_told_apart": bars}


_PARTS: tuple[tuple[tuple[str, ...], Callable[[Run], dict[str, Any]]], ...] = (
    (("run",), _run),
    (("explainers",), _explainers),
    (("metrics", "scores", "curves", "standings", "comparisons"), _judged),
    (("agreement", "ranks"), _ranked),
    (("clusters",), _clusters),
    (("gates",), _gates),
    (("failures",), _failures),
)
"""Keys of report.json that are read together, so that what is damaged costs no others."""


def _plain(value: Any) -> Any:
    """Return a value in JSON's types; NaN and infinity, which JSON lacks, become null."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
