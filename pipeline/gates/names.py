"""Gates are about what a run has: metrics and explainers are looked up when its file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import ConfigError
from pipeline.gates import grammar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pipeline.config import Gate, RunConfig


def place_of(gate: Gate, metrics: Collection[str]) -> grammar.Place:
    """Return what a gate of either kind is about."""
    if isinstance(gate, str):
        return grammar.place(grammar.parse(gate), metrics)
    return grammar.Place(gate.explainer, gate.metric, gate.column, gate.scope)


def entry(explainer: str) -> str:
    """Return the explainer whose maps these are: of several inputs, the name before the dot."""
    return explainer.partition(".")[0]


def check_names(config: RunConfig) -> None:
    """Refuse gates of metrics and explainers that the run file does not have.

    Raises
    ------
    ConfigError
        If there are such; the message lists all of them.
    """
    refuse(
        config,
        lambda gate: complaint(gate, config.metrics, config.explainers, config.spray),
        fix="gates name entries of explainers and metrics",
    )


def refuse(config: RunConfig, complaint_of: Callable[[Gate], str], fix: str) -> None:
    """Refuse the gates of a run file of which there is a complaint, an empty one being none.

    Raises
    ------
    ConfigError
        If there are such; the message lists all of them, each with its line.
    """
    said = (complaint_of(gate) for gate in config.gates)
    found = [f"{config.where('gates', n)}: {each}" for n, each in enumerate(said) if each]
    if found:
        raise ConfigError("\n".join(found), fix=fix, page="gate")


def complaint(
    gate: Gate,
    metrics: Collection[str],
    explainers: Collection[str],
    analysed: Collection[str],
) -> str:
    """Return what a gate names that is not there; empty if all is."""
    about = place_of(gate, metrics)
    if about.metric == grammar.CLUSTERS:
        return _complaint_of_clusters(gate, about, analysed)
    if about.metric not in metrics:
        return f"there is no metric {about.metric!r}{_hint(about.metric, metrics)}"
    if about.explainer != grammar.EVERY and entry(about.explainer) not in explainers:
        return f"there is no explainer {about.explainer!r}{_hint(about.explainer, explainers)}"
    return ""


def kept(config: RunConfig) -> tuple[Gate, ...]:
    """Return the gates that are about explainers and metrics of the run, and no others."""
    return tuple(
        gate
        for gate in config.gates
        if not complaint(gate, config.metrics, config.explainers, config.spray)
    )


def _complaint_of_clusters(gate: Gate, about: grammar.Place, analysed: Collection[str]) -> str:
    name = f"{about.explainer}.{grammar.CLUSTERS}.{grammar.CONFIRMED}"
    if not isinstance(gate, str) or about.column != grammar.CONFIRMED or about.group != "all":
        return f"clusters of maps can only be counted: write '{name} <= 0'"
    if about.explainer == grammar.EVERY and analysed:
        return ""
    if about.explainer not in analysed:
        return f"the section spray does not analyse {about.explainer!r}" + (
            _hint(about.explainer, analysed)
            if analysed
            else "; it has to name whose maps are clustered"
        )
    return ""


def _hint(name: str, known: Collection[str]) -> str:
    # imported here: explainers import torch, which takes a second that a valid file need not pay
    from explainers.registry import suggest

    return f"; {suggest(name, list(known))}" if known else ", and the run file has none"
