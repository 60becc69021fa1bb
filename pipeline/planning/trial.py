"""Explainers tried on the example: what only shows when they run is refused before a run begins."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from explainers import Attribution, Scan, backgrounds, explaining
from pipeline.entries import with_results
from pipeline.errors import PlanError
from pipeline.planning.brief import brief
from pipeline.planning.fit import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from explainers import Explainer, Network, Result, Round, Samples, State, Target, Trace
    from pipeline.config import RunConfig

_TOO_FEW = (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What a scan may raise that has a result of many samples, but not of those of the example."""


def check_attributions(
    config: RunConfig,
    found: Mapping[str, Explainer],
    trace: Trace,
    targets: Sequence[Target],
    needs: Mapping[str, Mapping[str, str]],
    results: Mapping[str, Result],
) -> int:
    """Refuse attributions that cannot explain the example, each at its entry in the run file.

    Those that need the results of scans get those in `results`. What takes more than
    `brief.MOST_PASSES` in any form, or needs a result that is not there, is not tried.

    Returns
    -------
    int
        Bytes of the arrays that they store beside their maps, of a sample and target.

    Raises
    ------
    PlanError
        If one raises anything, or gives maps of another form than it says.
    """
    beside = 0
    for name, each in found.items():
        wanted = needs.get(name, {})
        if not isinstance(each, Attribution):
            continue
        with _refusing(config, name, trace.network):
            if {*wanted.values()} <= results.keys():
                explainer = with_results(each, wanted, results)
                beside += _check(explainer, trace.named(name), targets, is_new=bool(wanted))
            else:
                beside += each.stored_bytes(explaining.seen_by(each, trace.network))
    return beside


@dataclass(frozen=True)
class Trial:
    """What a scan did with the example, as far as it came."""

    scan: Scan
    states: dict[str, State] = field(default_factory=dict)
    """Round to state."""
    rounds: dict[str, Round] = field(default_factory=dict)
    """Those that there were, as they are for the example."""
    records: int = 0
    """Bytes that are kept of a sample."""
    result: Result | None = None
    """If all rounds came to an end, and none was cut short."""

    def note(self, name: str, n_samples: int) -> str:
        """Return which passes follow the first, as far as the example shows.

        Parameters
        ----------
        name
            Of the scan.
        n_samples
            Of the data set.
        """
        later = list(self.rounds.items())[1:]
        if not later:
            return f"{name}: further rounds, if there are any, follow as passes {name}.<round>"
        reading: dict[str, list[str]] = {}
        for key, each in later:
            reading.setdefault("all" if each.samples is None else "some", []).append(key)
        said = " and ".join(
            f"{', '.join(keys)}, which read {who} of the {n_samples} samples"
            for who, keys in reading.items()
        )
        return (
            f"{name}: passes {name}.<round> follow, in the example {said}; there may be more of "
            "them; what is measured of the time is the first pass alone"
        )


def scans(
    config: RunConfig, found: Mapping[str, Explainer], batches: Sequence[tuple[Trace, Samples]]
) -> dict[str, Trial]:
    """Return what every scan does with the example, in all of its rounds.

    Of samples that differ in length, the example is a batch of the longest and one of the shortest.

    Raises
    ------
    PlanError
        If a scan cannot fold it.
    """
    trials: dict[str, Trial] = {}
    for name, explainer in found.items():
        if isinstance(explainer, Scan) and explainer.rounds({}) is not None:
            with _refusing(config, name, batches[0][0].network):
                own = [(trace.named(name), samples) for trace, samples in batches]
                trials[name] = _all_rounds(explainer, own)
    return trials


def results(trials: Mapping[str, Trial], n_samples: int) -> dict[str, Result]:
    """Return what scans find on the example; not of those that so few samples say nothing to.

    A covariance has as many directions as that of all the samples may have: of two samples it has
    one, and methods that carry each of them through the network would look cheap.
    """
    return {
        name: _of_all(each.result, n_samples)
        for name, each in trials.items()
        if each.result is not None
    }


def _of_all(result: Result, n_samples: int) -> Result:
    covariance = result.get("covariance")
    if covariance is None:
        return result
    variances = covariance.diagonal()
    shared = variances.mean() * (torch.arange(len(variances)) < max(1, n_samples - 1))
    return {**result, "covariance": torch.diag(shared)}


def _all_rounds(scan: Scan, batches: Sequence[tuple[Trace, Samples]]) -> Trial:
    trial = Trial(scan)
    finished: dict[str, Result] = {}
    is_whole, following = True, scan.rounds({})
    while following is not None:
        # the first decides what others do, and how large states are
        tried = following.scan.briefer() if trial.rounds else following.scan
        is_whole = is_whole and tried is following.scan
        state = _folded(tried, batches)
        trial.rounds[following.name], trial.states[following.name] = following, state
        kept = tried.records(*batches[0])
        size = sum(value.nbytes // max(1, len(value)) for value in kept.values())
        trial = replace(trial, records=trial.records + size)
        # so few samples may have no such result; this says nothing of the data set
        try:
            finished[following.name] = tried.finalised(state)
            following = scan.rounds(finished)
        except _TOO_FEW:
            return trial
    with contextlib.suppress(*_TOO_FEW):
        return replace(trial, result=scan.conclude(finished) if is_whole else None)
    return trial


def _folded(scan: Scan, batches: Sequence[tuple[Trace, Samples]]) -> State:
    """Return the state of all batches.

    Raises
    ------
    ValueError
        If they are of different lengths, and the scan cannot fold these together.
    """
    if len(batches) == 1:
        return scan.fold(batches)
    states = [scan.fold([batch]) for batch in batches]
    kept = [scan.records(*batch) for batch in batches]
    for parts, n_axes in ((states, 0), (kept, 1)):
        for entry, value in parts[0].items():
            other = parts[1].get(entry, value)
            if value.shape[n_axes:] != other.shape[n_axes:]:
                raise ValueError(
                    f"{scan.name} cannot fold samples of different lengths: {entry!r} has shape "
                    f"{tuple(value.shape)} for the longest and {tuple(other.shape)} for the "
                    "shortest; give samples of one length (data.limit, or a source that cuts "
                    "them), or a layer whose value has no axis of tokens"
                )
    try:
        return scan.fold(batches)
    except _TOO_FEW as error:
        raise ValueError(
            f"{scan.name} cannot fold samples of different lengths: {type(error).__name__}: "
            f"{error}; give samples of one length"
        ) from error


def awaited(
    found: Mapping[str, Explainer],
    needs: Mapping[str, Mapping[str, str]],
    results: Mapping[str, Result],
    n_samples: int,
) -> dict[str, Explainer]:
    """Return explainers as they will be once scans are done, as far as that decides what they take.

    A background has as many rows as will be drawn, all of them the example's first; other results
    are those of `results`, which are as large.
    """
    drawn = {
        name: backgrounds.repeated(result, min(getattr(found[name], "n_samples", 1), n_samples))
        for name, result in results.items()
        if backgrounds.is_result(result)
    }
    filled, known = dict(found), {**results, **drawn}
    for name, wanted in needs.items():
        there = {path: scan for path, scan in wanted.items() if scan in known}
        filled[name] = with_results(found[name], there, known)
    return filled


def _check(
    attribution: Attribution, trace: Trace, targets: Sequence[Target], *, is_new: bool
) -> int:
    """Explain the example; what was not checked before, because results were missing, is here.

    Returns the bytes of arrays beside the map, of a sample and target.
    """
    for target in targets if is_new else ():
        explaining.check(attribution, trace.network, target)
    explaining.check_rows(attribution, trace)
    seen = explaining.seen_by(attribution, trace.network)
    beside = attribution.stored_bytes(seen)
    tried = brief(attribution, trace.network)
    if tried is None:
        return beside
    return max(beside, *(_try(tried, trace, target) for target in targets))


@contextlib.contextmanager
def _refusing(config: RunConfig, name: str, network: Network) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        # the workers' memory decides, and they halve batches
        return
    except PlanError:
        raise
    except Exception as error:  # explainers are anybody's code
        raise refusal(config, name, error, network) from error


def _try(attribution: Attribution, trace: Trace, target: Target) -> int:
    found = explaining.explained(attribution, trace, target)
    forms = explaining.form(attribution, trace.network)
    for part, relevance in explaining.by_part(found.relevance, trace.network).items():
        wanted = forms[part][1]
        if tuple(relevance.shape[1:]) != tuple(wanted):
            raise ValueError(
                f"{attribution.name} gives a map of shape {tuple(relevance.shape)}, expected "
                f"(batch, {', '.join(map(str, wanted))})"
            )
    # numbers of a sample are columns of a table, which are small
    stored = [array for array in found.arrays.values() if array.ndim > 1]
    return sum(array.nbytes // len(array) for array in stored)
