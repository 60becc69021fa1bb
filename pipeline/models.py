"""Networks that a run file names, with weights that cannot execute anything."""

from __future__ import annotations

import hashlib
import pickle
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipeline import user_code
from pipeline.errors import PlanError, written_at
from pipeline.run_file import RunFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from torch import Tensor

    from pipeline.config import ModelConfig

_N_LISTED = 5
"""Names that an error lists of each kind of misfit; a wrong file misfits in all of them."""


def load_model(
    config: ModelConfig, base: Path, where: Callable[..., str] | None = None
) -> nn.Module:
    """Return the network in eval mode, on the CPU, with its weights loaded.

    Parameters
    ----------
    config
        Section `model` of the run file.
    base
        Folder that python files and weights are relative to.
    where
        `RunConfig.where`, for messages with file and line.

    Raises
    ------
    PlanError
        If the network cannot be built, or the weights do not fit it, hold code or are not finite.
    """
    place = where or RunFile({}).where
    with written_at(place("model", "name")):
        model = _build(config, base)
    with written_at(place("model", "name" if config.weights is None else "weights")):
        if config.weights is not None:
            _fit(model, read_weights(base / config.weights), config.weights)
        _check_finite(model)
    return model.cpu().eval()


def _build(config: ModelConfig, base: Path) -> nn.Module:
    builder, arguments = _builder(config, base)
    try:
        # a network without weights is random, but the same one in the plan and in every worker
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = builder(**arguments)
    except PlanError:
        raise
    except Exception as error:
        raise PlanError(
            f"building the model {config.name!r} failed: {type(error).__name__}: {error}",
            fix="see model.name and model.params in the run file",
        ) from error
    if not isinstance(model, nn.Module):
        raise PlanError(
            f"model {config.name!r} gave {type(model).__name__}, expected a torch.nn.Module",
            fix="let the function return the network itself",
        )
    return model


def weights_digest(model: nn.Module) -> str:
    """Return the sha256 over names, types, shapes and bytes of a model's state.

    It is taken of what is in the model, so that it is the same however the weights got there.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            digest.update(f"{name}:{value!r}\n".encode())
            continue
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def code_digest(files: Iterable[Path]) -> str:
    """Return the sha256 over the content of files, in order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def code_files(config: ModelConfig, base: Path) -> tuple[Path, ...]:
    """Return the user's file that builds the network, if a file does."""
    path = user_code.file_of(config.name, base) if config.source == "python" else None
    return () if path is None else (path,)


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors in a file; nothing that the file holds is executed.

    Raises
    ------
    PlanError
        If the file is missing, broken, or a pickle with more than tensors.
    """
    if not path.is_file():
        raise PlanError(
            f"there are no weights at {str(path)!r}",
            fix="name a .safetensors, .pt or .pth file, relative to the run file",
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".pt", ".pth", ".bin"}:
        return _read_torch(path)
    raise PlanError(
        f"got weights {path.name!r}, expected .safetensors, .pt or .pth",
        fix="convert them: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
    )


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PlanError(
            f"cannot read the weights {str(path)!r}: {error}", fix="write the file anew"
        ) from error


def _read_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # of other pickle protocols, before they are refused
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PlanError(
            f"refused the weights {str(path)!r}: the file is a pickle that wants to run code, or "
            "is broken; expected tensors only, and nothing of it was executed",
            fix="if you trust the file, load it yourself and write the state dict with "
            "safetensors.torch.save_file",
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise PlanError(
            f"cannot read the weights {str(path)!r}: {error}", fix="write the file anew"
        ) from error
    # training scripts often wrap the state dict
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(torch.is_tensor(value) for value in found.values()):
        raise PlanError(
            f"the weights {str(path)!r} hold {type(found).__name__}, expected a mapping of names "
            "to tensors",
            fix="save model.state_dict(), not the model",
        )
    return found


def _fit(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> None:
    wanted = {key: value for key, value in model.state_dict().items() if torch.is_tensor(value)}
    problems = [
        _listed("missing", [key for key in wanted if key not in weights]),
        _listed("unexpected", [key for key in weights if key not in wanted]),
        _listed(
            "of another shape",
            [
                f"{key} (got {tuple(value.shape)}, expected {tuple(wanted[key].shape)})"
                for key, value in weights.items()
                if key in wanted and value.shape != wanted[key].shape
            ],
        ),
    ]
    found = [problem for problem in problems if problem]
    if found:
        raise PlanError(
            f"the weights {name!r} do not fit the model: {'; '.join(found)}",
            fix="name the weights of this architecture, or correct model.name and model.params",
        )
    model.load_state_dict(dict(weights), strict=True)


def _check_finite(model: nn.Module) -> None:
    """Refuse NaN and infinite weights; buffers may hold infinity, as masks of attention do."""
    with_infinity = {name for name, _ in model.named_buffers()}
    bad: dict[str, int] = {}
    for name, value in model.state_dict().items():
        if not torch.is_tensor(value) or is_lazy(value) or not value.is_floating_point():
            continue
        wrong = value.isnan() if name in with_infinity else ~value.isfinite()
        if wrong.any():
            bad[name] = int(wrong.sum())
    if bad:
        raise PlanError(
            f"the weights contain NaN or infinity, {sum(bad.values())} values in "
            f"{_listed('of the tensors', list(bad))}",
            fix="name weights from before the training diverged, or write the file anew",
        )


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:_N_LISTED])}{more}"


def _builder(config: ModelConfig, base: Path) -> tuple[Callable[..., Any], dict[str, Any]]:
    if config.source == "python":
        return user_code.find(config.name, base), dict(config.params)
    if config.source == "torchvision":
        return _torchvision(config)
    return _timm(config)


def _torchvision(config: ModelConfig) -> tuple[Callable[..., Any], dict[str, Any]]:
    from torchvision.models import get_model_builder, list_models

    try:
        builder: Callable[..., Any] = get_model_builder(config.name)
    except ValueError as error:
        raise _unknown_architecture("torchvision", config.name, list_models()) from error
    return builder, {"weights": None, **config.params}


def _timm(config: ModelConfig) -> tuple[Callable[..., Any], dict[str, Any]]:
    try:
        import timm
    except ImportError as error:
        raise PlanError(
            f"the model {config.name!r} needs timm, which is not installed",
            fix="pip install 'xpipe-xai[timm]'",
        ) from error
    if not timm.is_model(config.name):
        raise _unknown_architecture("timm", config.name, timm.list_models())
    arguments = {"pretrained": False, **config.params}
    return timm.create_model, {"model_name": config.name, **arguments}


def _unknown_architecture(library: str, name: str, known: list[str]) -> PlanError:
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see its documentation"
    return PlanError(f"{library} has no model {name!r}", fix=hint)
