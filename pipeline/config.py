"""What a run file can say: one frozen value, `RunConfig`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from pipeline import addresses
from pipeline.complaints import complaints
from pipeline.errors import ConfigError
from pipeline.gates import grammar
from pipeline.gates.names import check_names
from pipeline.run_file import Keys, RunFile, read

if TYPE_CHECKING:
    from collections.abc import Sequence

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
TAKEN = ("sample", "target", "prediction", "evaluate", "spray", "samples", "scores")
"""No explainers' names: the first three are arrays beside the maps of explainers in the store, and
``evaluate.<metric>`` and ``spray.<explainer>.<stage>`` are passes, as are ``<scan>.<round>``; the
last two are groups beside those of explainers in exports."""
Positive = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]
Auto = Literal["auto"]


def _empty_if_none(value: Any) -> Any:
    return {} if value is None else value


def _free(name: str) -> str:
    if name in TAKEN:
        raise ValueError(
            f"the name {name!r} is taken by the store; choose another: `method:` names the "
            "explainer"
        )
    return name


Parameters = Annotated[dict[str, Any], BeforeValidator(_empty_if_none)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        # what is wrong may be a password
        hide_input_in_errors=True,
    )


class ModelConfig(_Section):
    """The network to explain."""

    source: str
    """Who builds it: python, torchvision, timm or huggingface."""
    name: str
    """``file.py:function`` or ``package.module:function`` (python), a folder or a name of the hub
    (huggingface), else the architecture."""
    weights: str | None = None
    """A .safetensors, .pt or .pth file; relative to the run file."""
    params: dict[str, Any] = {}
    """Keyword arguments of what builds it."""


class DataConfig(_Section):
    """The samples to explain; further fields are the source's own parameters."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    source: str
    """Name of a data source; `xpipe schema` lists them with their parameters."""
    limit: Positive | None = None
    """Only the first so many samples."""
    sample: Positive | None = None
    """Only so many samples, drawn by the run's seed and kept in order; after `limit`."""
    stratify: Literal["none", "proportional", "equal"] = "none"
    """Of what `sample` draws: classes as frequent as in the data, or all equally frequent."""
    digests: Literal["listing", "content"] = "listing"
    """What tells samples apart that have one name: what the source's listing says (sizes, tags of
    object stores), or SHA-256 of their content, for which every one is read when planning."""

    @property
    def parameters(self) -> dict[str, Any]:
        """The source's own parameters."""
        return dict(self.model_extra or {})


class WeightsTarget(_Section):
    """A weighted sum of outputs."""

    weights: Annotated[tuple[float, ...], Field(min_length=1)]
    """One weight per class."""


class UnitTarget(_Section):
    """A unit of a layer, in place of an output."""

    layer: str
    """Its name; `xpipe inspect` lists them."""
    unit: Index | Annotated[tuple[Index, ...], Field(min_length=1)]
    """A channel, summed over its positions, or the place of one value as a list of indices."""


def _kind_of(value: Any) -> str:
    is_unit = isinstance(value, dict) and bool({"layer", "unit"} & set(value))
    return "<unit>" if is_unit or isinstance(value, UnitTarget) else "<weights>"


# chosen by its fields, so that what is wrong with one kind is not told in terms of the other
MappedTarget = Annotated[
    Annotated[WeightsTarget, Tag("<weights>")] | Annotated[UnitTarget, Tag("<unit>")],
    Discriminator(_kind_of),
]
TargetSpec = Literal["predicted", "label", "runner_up"] | Index | MappedTarget


def _distinct(targets: tuple[TargetSpec, ...]) -> tuple[TargetSpec, ...]:
    if any(target in targets[:position] for position, target in enumerate(targets)):
        raise ValueError("a target is listed twice; name each once")
    return targets


TargetSpecs = Annotated[tuple[TargetSpec, ...], Field(min_length=1), AfterValidator(_distinct)]


class OutputConfig(_Section):
    """What is stored, and where."""

    path: str = ""
    """Folder of the run, relative to the working directory; ``runs/<name>`` if not given."""
    shard_size: Positive | Auto = "auto"
    """Samples per shard: the unit of work, of storage and of recovery."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of stored maps; float16 keeps a scale per sample."""
    channels: Literal["keep", "sum"] = "keep"
    """Whether maps keep their channels or hold their sum."""


class EngineConfig(_Section):
    """Who does the work."""

    kind: Literal["ray", "serial"] = "ray"
    """``serial`` runs in this process."""
    address: Annotated[str, AfterValidator(addresses.checked)] = "local"
    """``local`` starts Ray here, ``auto`` or ``host:port`` joins a running cluster, and
    ``http://head:8265`` submits the run as a job to one."""
    workers: Positive | Auto = "auto"
    """Number of workers; as many as there are slots if auto."""
    threads: Positive = 1
    """Torch threads per worker; part of the plan, as bits may depend on it."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | Auto = "auto"
    """GPUs, or parts of one, per worker; 1 where there are any and 0 elsewhere if auto."""
    accelerator_type: str | None = None
    """Kind of GPU that workers need, by Ray's name: ``A100``, ``H100``, ``L4``."""
    labels: dict[str, str] = {}
    """Labels that a worker's node must have, as Ray's label selectors: ``{market: "!spot"}``."""
    resources: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Custom resources that each worker takes, as nodes were started with."""
    batch_size: Positive | Auto = "auto"
    """Samples per batch; measured once by the plan if auto."""
    decode_threads: Positive | Auto = "auto"
    """Threads per worker that read and decode samples; what the source can use if auto."""
    prefetch: Positive = 2
    """Batches that are read ahead."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of matrix products on GPUs; what is faster than float32 is compared with it on the first
    batch, and refused where maps differ."""
    channels_last: bool = False
    """Whether images are laid out with channels last, which convolutions of GPUs prefer."""
    compile: bool = False
    """Whether passes of the network are compiled by torch.compile."""


class ReportConfig(_Section):
    """What the page shows."""

    samples: Annotated[int, Field(ge=0)] = 24
    """Number of samples in the gallery."""


def _said(text: str) -> str:
    grammar.parse(text)
    return text


def _is_drop(value: float | str) -> float | str:
    grammar.drop(value)
    return value


class RelativeGate(_Section):
    """By how much a score may be worse than in an earlier run; `xpipe compare` judges it."""

    metric: Name
    """Entry of the section metrics."""
    explainer: str = grammar.EVERY
    """Entry of the section explainers, or ``*`` for each that the metric scores but the controls
    `random` and `sobel`."""
    column: str = ""
    """Score that is compared; the metric's headline if empty."""
    direction: Literal["higher", "lower"] | None = None
    """Which end of `column` is better; known of headlines and of areas under curves."""
    scope: Literal["all", "class"] = "all"
    """``class`` judges every class by itself."""
    max_drop: Annotated[float | str, AfterValidator(_is_drop)] = 0.0
    """How much worse the mean may be: a number, or a share of what it was, such as ``5%``."""
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """The interval of the change that has to exclude zero has the level 1 - alpha; of classes, all
    intervals together have it."""
    max_undefined: Annotated[float, Field(ge=0, le=1)] = 0.01
    """How much the share of undefined scores may grow."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Share of the samples scored before that has to be scored again."""


def _kind_of_gate(value: Any) -> str:
    return "<absolute>" if isinstance(value, str) else "<relative>"


Gate = Annotated[
    Annotated[str, AfterValidator(_said), Tag("<absolute>")]
    | Annotated[RelativeGate, Tag("<relative>")],
    Discriminator(_kind_of_gate),
]


class RunConfig(_Section):
    """A run: which explainers of which model on which data, and where the results go."""

    name: Name
    """Names the run."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seeds everything that is drawn."""
    model: ModelConfig
    data: DataConfig
    target: TargetSpec | TargetSpecs = "predicted"
    """Which output is explained; a list adds a dimension."""
    explainers: Annotated[
        dict[Annotated[Name, AfterValidator(_free)], Parameters], Field(min_length=1)
    ]
    """Name to parameters; `method` is the name if not given."""
    metrics: dict[Name, Parameters] = {}
    """Name to parameters; `method` is the name if not given, and `explainers` names entries to
    score if not all."""
    gates: tuple[Gate, ...] = ()
    """What scores have to be: bounds such as ``lrp.pixel_flipping.auc <= 0.35``, and how much
    worse than in an earlier run they may be."""
    spray: dict[Name, Parameters] = {}
    """Explainer to parameters of the spectral analysis of its maps; empty ones are the defaults."""
    output: OutputConfig = OutputConfig()
    engine: EngineConfig = EngineConfig()
    report: ReportConfig = ReportConfig()
    callbacks: dict[Name, Parameters] = {}
    """Who else is told what happens, such as mlflow or tensorboard, with their parameters."""
    base: Path = Path()
    """Folder that python files, weights and data are relative to; the run file's if not given."""

    _file: RunFile = PrivateAttr(default=RunFile({}))

    @model_validator(mode="after")
    def _name_the_folder(self) -> RunConfig:
        if not self.output.path:
            named = self.output.model_copy(update={"path": f"runs/{self.name}"})
            # the one assignment that a frozen model does not refuse
            self.__dict__["output"] = named
        return self

    @property
    def targets(self) -> tuple[TargetSpec, ...]:
        """The targets, also when there is only one."""
        return self.target if isinstance(self.target, tuple) else (self.target,)

    @property
    def has_target_dimension(self) -> bool:
        """Whether maps have a dimension ``target``."""
        return isinstance(self.target, tuple)

    def where(self, *keys: str | int) -> str:
        """Return ``file:line a.b`` of a field, for messages."""
        return self._file.where(*keys)

    def canonical(self) -> dict[str, Any]:
        """Return what changes results, as plain values."""
        values = self.model_dump(mode="json")
        explainers = {
            name: {"method": name, **parameters}
            for name, parameters in values["explainers"].items()
        }
        output = {key: values["output"][key] for key in ("dtype", "channels", "shard_size")}
        engine = {key: values["engine"][key] for key in ("batch_size", "threads")}
        # later additions: a run that does not use them has the digest that it had before
        engine |= _unusual(self.engine, ("precision", "channels_last", "compile"))
        kept = {key: values[key] for key in ("seed", "model", "data", "target")}
        for key in ("stratify", "digests"):
            if kept["data"][key] == DataConfig.model_fields[key].default:
                del kept["data"][key]
        return {**kept, "explainers": explainers, "output": output, "engine": engine}

    def digest(self) -> str:
        """Return the sha256 of `canonical`."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def _unusual(section: _Section, names: Sequence[str]) -> dict[str, Any]:
    """Return those fields of a section that are not as their defaults."""
    fields = type(section).model_fields
    values = {name: getattr(section, name) for name in names}
    return {name: value for name, value in values.items() if value != fields[name].default}


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run that a file describes.

    Parameters
    ----------
    path
        A YAML file.
    overrides
        ``a.b=value`` each, the value in YAML.

    Raises
    ------
    ConfigError
        If something is unknown, missing or of the wrong type; the message lists everything.
    """
    path = Path(path)
    return validate(read(path, overrides), path.parent)


def validate(run_file: RunFile, folder: Path) -> RunConfig:
    """Return the run that `run_file` describes; relative paths start at `folder`.

    Raises
    ------
    ConfigError
        As `load`.
    """
    values = dict(run_file.values)
    base = values.get("base") or "."
    if isinstance(base, str):
        values["base"] = str((folder / base).resolve())
    try:
        # by way of JSON, where strict means what a reader of YAML expects: lists are tuples,
        # text is a path, but neither "1" nor true is 1
        config = RunConfig.model_validate_json(json.dumps(values, default=str))
    except ValidationError as error:
        found = complaints(error, values, run_file.where, _fields_at)
        raise ConfigError("\n".join(found), fix="see `xpipe schema` for all fields") from error
    config._file = RunFile({}, run_file.places)
    check_names(config)
    return config


def dump(config: RunConfig) -> str:
    """Return the run as YAML from which `load` gives an equal run, wherever it is kept."""
    values = config.model_dump(mode="json")
    values["base"] = str(config.base.resolve())
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _fields_at(keys: Keys) -> list[str]:
    """Return the fields of the section at `keys`."""
    section: type[BaseModel] = RunConfig
    for key in keys:
        field = section.model_fields.get(str(key))
        if key == "target":
            return [*WeightsTarget.model_fields, *UnitTarget.model_fields]
        if key == "gates":
            return list(RelativeGate.model_fields)
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return []
        section = field.annotation
    return list(section.model_fields)
