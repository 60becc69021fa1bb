"""From the section `data` of a run file to a source, and to the samples that are taken from it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pipeline import parameters
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
        raise ConfigError(f"{place('source')}: {error}", fix="name one of these sources") from error
    return parameters.build(kind, config.parameters, place).rooted(base)


def select_records(config: DataConfig, records: Sequence[Record], seed: int) -> list[Record]:
    """Return the first `limit` records, or `sample` drawn of them, numbered from 0 in order."""
    chosen = list(records[: config.limit])
    if config.sample is not None and config.sample < len(chosen):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(chosen), generator=generator)[: config.sample]
        chosen = [chosen[position] for position in sorted(drawn.tolist())]
    return [replace(record, index=index) for index, record in enumerate(chosen)]


def _dotted(*keys: str | int) -> str:
    return ".".join(str(key) for key in keys)
