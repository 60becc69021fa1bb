"""From the section `data` of a run file to a source, and to the samples that are taken from it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline import parameters
from pipeline.data import sampling
from pipeline.data.pinning import pinned
from pipeline.data.source import Record, Source, sources
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pipeline.config import DataConfig


def open_source(config: DataConfig, base: Path, where: Callable[..., str] | None = None) -> Source:
    """Return the source of the section `data`.

    Parameters
    ----------
    config
        The section.
    base
        Folder that its relative paths start at.
    where
        `RunConfig.where`, for messages with file and line.

    Raises
    ------
    ConfigError
        If there is no such source, or a parameter is wrong.
    """
    place = functools.partial(where or _dotted, "data")
    try:
        kind = sources.get(config.source)
    except LookupError as error:
        raise ConfigError(
            f"{place('source')}: {error}", fix="name one of these sources", page="unknown-name"
        ) from error
    return parameters.build(kind, config.parameters, place).rooted(base)


def select_records(
    config: DataConfig, records: Sequence[Record], seed: int, source: Source | None = None
) -> list[Record]:
    """Return the first `limit` records, or `sample` drawn of them, numbered from 0 in order.

    Parameters
    ----------
    config
        The section `data`.
    records
        All samples of the source.
    seed
        Of the run.
    source
        Reads the samples that were taken, if the section asks for digests of their content; for a
        look at the samples alone, it is not needed.

    Raises
    ------
    PlanError
        If strata are asked for and samples have no labels.
    """
    chosen = sampling.draw(config, records[: config.limit], seed)
    if config.digests == "content" and source is not None:
        chosen = pinned(source, chosen)
    return [replace(record, index=index) for index, record in enumerate(chosen)]


def selection_notes(config: DataConfig, records: Sequence[Record]) -> tuple[str, ...]:
    """Return what a reader of the plan should know of the samples that were taken."""
    return sampling.notes(config, records)


def _dotted(*keys: str | int) -> str:
    return ".".join(str(key) for key in keys)
