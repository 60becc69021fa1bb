"""The page for programs: everything that it says, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import aggregate, agreement, comparisons, paths
from pipeline.plan import EXPLAIN
from pipeline.report import effort
from pipeline.statistics import Summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline.aggregate import Block
    from pipeline.comparisons import Compared
    from pipeline.store import Run

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
    page. What a run does not have is empty, or null.
    """
    compared = comparisons.of_run(run)
    found = agreement.scores(run)
    scores, curves = _scores(run, compared)
    gates = run.folder.exists(paths.GATES)
    return {
        "format": FORMAT,
        "version": VERSION,
        "run": _run(run),
        "explainers": {
            name: {
                "method": given.get("method", name),
                "parameters": {key: each for key, each in given.items() if key != "method"},
                "is_control": name in comparisons.controls(run),
            }
            for name, given in run.config.explainers.items()
        },
        "metrics": {each.metric.name: _metric(each) for each in compared},
        "scores": scores,
        "curves": curves,
        "standings": {each.metric.name: _standings(each) for each in compared},
        "comparisons": [asdict(row) for each in compared for row in each.rows],
        "agreement": _agreement(found),
        "ranks": [_ranking(each) for each in agreement.rankings(run, found)],
        "gates": json.loads(run.folder.read(paths.GATES)) if gates else None,
        "failures": [{"sample": name, "reason": reason} for name, reason in run.failures()],
    }


def _run(run: Run) -> dict[str, Any]:
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
        "versions": environment.get("versions", {}),
    }


def _metric(compared: Compared) -> dict[str, Any]:
    known = asdict(compared.metric)
    del known["name"], known["digest"]
    return known | {"controls": compared.controls, "unbeaten_controls": compared.unbeaten}


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
