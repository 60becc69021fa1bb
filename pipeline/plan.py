"""What a run will do, decided before anything is spent: frozen values only."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import fsspec

from pipeline.errors import StoreError
from pipeline.inputs import ALONE, Part
from pipeline.lengths import Lengths
from pipeline.shards import cut

if TYPE_CHECKING:
    from pipeline.shards import Shard

EXPLAIN = "explain"
"""Name of the first pass."""


@dataclass(frozen=True)
class Pass:
    """One reading of all shards."""

    name: str
    """``explain``, ``explain.<scan>`` (attributions that need its result) or ``<scan>.<round>``."""
    attributions: tuple[str, ...] = ()
    """Entries that make maps in this pass."""
    scans: tuple[str, ...] = ()
    """Entries that fold in this pass."""
    round: str = ""
    """Round of the scans; empty in a pass whose scans are each in their first."""


@dataclass(frozen=True)
class MapSpec:
    """Form of one explainer's maps."""

    dims: tuple[str, ...]
    """Dimensions after ``sample`` (and ``target``)."""
    shape: tuple[int, ...]
    """Sizes of `dims`."""
    layer: str = ""
    """Layer whose value the map is of; empty for maps of the input."""


@dataclass(frozen=True)
class Plan:
    """All decisions of a run that its results depend on."""

    digest: str
    """Of config, manifest, weights and code: two runs with the same digest have the same results,
    sizes that were measured (batch, shard) aside."""
    n_samples: int
    shard_size: int
    batch_size: int
    threads: int
    """Torch threads per worker."""
    input_shape: tuple[int, ...]
    """Of one sample; empty where a model takes several inputs."""
    n_classes: int
    targets: tuple[Any, ...]
    """As in the run file: a word, a class index, ``{"weights": [...]}``, or
    ``{"layer": ..., "unit": ...}``."""
    has_target_dimension: bool
    """Whether maps have a dimension ``target`` after ``sample``."""
    passes: tuple[Pass, ...]
    """Known passes in order; scans may add rounds when their first is done."""
    maps: dict[str, MapSpec]
    """Form of the maps by explainer; where there are several inputs, by ``<explainer>.<input>``."""
    costs: dict[str, dict[str, float | None]]
    """Forwards, backwards and steps, per sample and in all, by explainer; None where they depend
    on the sample."""
    bytes: dict[str, int]
    """What will be stored: maps, states, and their total before compression."""
    manifest_digest: str
    weights_digest: str
    code_digest: str
    dtype: str
    """Of stored maps."""
    channels: str
    """``keep`` or ``sum``."""
    needs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Explainer to parameter to the scan whose result it takes."""
    inputs: dict[str, Part] = field(default_factory=dict)
    """Form of a sample, where it is not one float32 tensor of `input_shape`."""
    lengths: Lengths | None = None
    """Of samples that differ in length; shapes are then those of the longest."""
    seconds: float | None = None
    """Of one worker for explaining all, if measured."""
    estimate: dict[str, float] = field(default_factory=dict)
    """Seconds of the parts of a run and their ``total``, ``workers`` and ``worker_hours``, if
    measured."""
    notes: tuple[str, ...] = ()
    """What a reader should know: later rounds, opaque networks."""

    @property
    def form(self) -> dict[str, Part]:
        """Shape and type of each tensor of a sample."""
        return self.inputs or {ALONE: Part(tuple(self.input_shape), "float32")}

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        """The shards, in order."""
        return cut(self.n_samples, self.shard_size)

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that `to_json` wrote.

        Raises
        ------
        StoreError
            If the text is not a plan of this version.
        """
        try:
            values = json.loads(text)
            values["passes"] = tuple(Pass(**_tuples(entry)) for entry in values["passes"])
            values["maps"] = {
                name: MapSpec(**_tuples(spec)) for name, spec in values["maps"].items()
            }
            values["inputs"] = {
                name: Part(**_tuples(part)) for name, part in values["inputs"].items()
            }
            if values.get("lengths") is not None:
                values["lengths"] = Lengths(**_tuples(values["lengths"]))
            for name in ("input_shape", "targets", "notes"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"this is not a plan that can be read: {error}",
                fix="plan.json was edited, or written by another version; start a new run",
                page="damaged-documents",
            ) from error

    def write(self, url: str) -> None:
        """Write plan.json."""
        with fsspec.open(url, "w", encoding="utf-8") as file:
            file.write(self.to_json())

    @classmethod
    def read(cls, url: str) -> Plan:
        """Return the plan in a plan.json.

        Raises
        ------
        StoreError
            If there is none, or it cannot be read.
        """
        try:
            with fsspec.open(url, "r", encoding="utf-8") as file:
                text = file.read()
        except OSError as error:
            raise StoreError(
                f"cannot read the plan {url!r}: {error}",
                fix="name a folder that a run wrote",
                page="no-run-here",
            ) from error
        return cls.from_json(text)


def map_name(explainer: str, part: str) -> str:
    """Return what the map of an input is called; of the only one, as its explainer."""
    return f"{explainer}.{part}" if part else explainer


def split_name(name: str) -> tuple[str, str]:
    """Return explainer and input of a map's name."""
    explainer, _, part = name.partition(".")
    return explainer, part


def suffix(target: int) -> str:
    """Return what is added to the columns of a run's targets: nothing for the first one."""
    return f".{target}" if target else ""


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
