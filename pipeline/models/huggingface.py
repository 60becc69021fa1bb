"""Networks of Hugging Face's transformers: checkpoints that classify images or text."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from pipeline.errors import PlanError
from pipeline.models.source import Builder, ModelSource, register

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pipeline.config import ModelConfig

_CONFIG = "config.json"
_PROCESSOR = "preprocessor_config.json"
_OWN = ("task", "pretrained")
"""Parameters that are ours; others go to transformers."""
_TASKS = {
    "image": "AutoModelForImageClassification",
    "text": "AutoModelForSequenceClassification",
}
_SUFFIXES = {"ForImageClassification": "image", "ForSequenceClassification": "text"}
_HUB = ("revision", "cache_dir", "subfolder", "token")
"""Parameters that decide which files are meant."""


@register("huggingface")
class HuggingFace(ModelSource):
    """A checkpoint: a folder beside the run file, or a name of the hub.

    Its weights are read from safetensors alone, code that lies with it is not run, and nothing is
    downloaded unless ``params: {local_files_only: false}`` allows it.
    """

    def builder(self, config: ModelConfig, base: Path) -> Builder:
        """Return what reads the checkpoint, or makes its architecture with random weights."""
        transformers = _transformers(config.name)
        _refuse_code(config)
        place, given = _place(config, base), _given(config)
        kind = getattr(transformers, _TASKS[_task(config, _described(config, base))])
        if config.weights is None and not self.is_random(config):
            return _checkpoint, {"kind": kind, "place": place, "given": given}
        known = transformers.AutoConfig.from_pretrained(place, **given)
        return kind.from_config, {"config": known, "dtype": "float32"}

    def files(self, config: ModelConfig, base: Path) -> tuple[Path, ...]:
        """Return the checkpoint's configuration: sizes and heads that weights do not tell."""
        path = _file(config, base, _CONFIG)
        return () if path is None else (path,)

    def is_random(self, config: ModelConfig) -> bool:
        """Whether ``params`` asks for the architecture alone."""
        return not config.params.get("pretrained", True)

    def notes(self, config: ModelConfig, base: Path) -> tuple[str, ...]:
        """Return how the checkpoint wants its images, where it says so."""
        path = _file(config, base, _PROCESSOR)
        if path is None:
            return ()
        wanted = json.loads(path.read_text(encoding="utf-8"))
        named = {"size": "size", "crop_size": "crop", "image_mean": "mean", "image_std": "std"}
        said = ", ".join(
            f"{name} {json.dumps(wanted[key])}" for key, name in named.items() if wanted.get(key)
        )
        return (f"the checkpoint was made for images of {said}",) if said else ()


def _checkpoint(kind: Any, place: str, given: Mapping[str, Any]) -> Any:
    """Return the network with its weights; transformers would make up those that are missing."""
    fixed = {"use_safetensors": True, "dtype": "float32", "output_loading_info": True}
    try:
        with _quiet(place):
            model, told = kind.from_pretrained(place, **{**given, **fixed})
    except OSError as error:
        raise PlanError(
            f"cannot read the checkpoint {place!r}: {error}",
            fix="name a checkpoint with weights in safetensors; pickles are refused, for they can "
            "run code: convert them with model.save_pretrained(folder)",
            page="unreadable-weights",
        ) from error
    missing = sorted(told["missing_keys"])
    others = sorted(str(entry[0]) for entry in told["mismatched_keys"])
    if missing or others:
        raise PlanError(
            f"the checkpoint {place!r} does not fit the model: {len(missing)} weights are missing "
            f"and {len(others)} have another shape: {', '.join([*missing, *others][:5])}",
            fix="name a checkpoint that was trained to classify; that of a body without its head "
            "has none to explain",
            page="weights-do-not-fit",
        )
    return model


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep the library from drawing bars into the output of commands."""
    logging = _transformers(name).utils.logging
    had_bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if had_bars:
            logging.enable_progress_bar()


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise PlanError(
            f"the model {name!r} needs transformers, which is not installed",
            fix="pip install 'xpipe-xai[huggingface]'",
            page="missing-extra",
        ) from error
    return transformers


def _refuse_code(config: ModelConfig) -> None:
    if config.params.get("trust_remote_code"):
        raise PlanError(
            f"refused the model {config.name!r}: trust_remote_code would run code that lies with "
            "the checkpoint",
            fix="if you trust it, build the model in a function of your own (source: python)",
            page="unreadable-weights",
        )


def _given(config: ModelConfig) -> dict[str, Any]:
    params = {key: value for key, value in config.params.items() if key not in _OWN}
    return {"local_files_only": True, **params}


def _place(config: ModelConfig, base: Path) -> str:
    folder = base / config.name
    return str(folder) if folder.is_dir() else config.name


def _file(config: ModelConfig, base: Path, name: str) -> Path | None:
    """Return a file of the checkpoint, or None; downloads it only where that is allowed."""
    from pathlib import Path

    utils = _transformers(config.name).utils
    hub = {key: config.params[key] for key in _HUB if key in config.params}
    found = utils.cached_file(
        _place(config, base),
        name,
        local_files_only=config.params.get("local_files_only", True),
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        _raise_exceptions_for_gated_repo=False,
        **hub,
    )
    return None if found is None else Path(found)


def _described(config: ModelConfig, base: Path) -> Mapping[str, Any]:
    path = _file(config, base, _CONFIG)
    if path is None:
        raise PlanError(
            f"there is no checkpoint {config.name!r}: neither is it a folder beside the run file "
            f"with a {_CONFIG}, nor is it in the cache of the hub",
            fix="correct model.name, or allow its download with "
            "`params: {local_files_only: false}`",
            page="unknown-model",
        )
    described: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return described


def _task(config: ModelConfig, described: Mapping[str, Any]) -> str:
    task = config.params.get("task")
    if task in _TASKS:
        return str(task)
    names = [str(name) for name in described.get("architectures") or ()]
    for name in names:
        for suffix, known in _SUFFIXES.items():
            if task is None and name.endswith(suffix):
                return known
    wrong = (
        f"got task {task!r}" if task is not None else f"it holds {', '.join(names) or 'nothing'}"
    )
    raise PlanError(
        f"the checkpoint {config.name!r} cannot be taken as a classifier: {wrong}",
        fix="name a checkpoint that classifies images or text, or say which with "
        "`params: {task: image}` or `{task: text}`",
        page="unknown-model",
    )
