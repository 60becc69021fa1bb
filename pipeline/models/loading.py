"""Networks that a run file names, with weights that cannot execute anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from pipeline.errors import PlanError, written_at
from pipeline.models.source import find
from pipeline.models.weights import read_weights
from pipeline.run_file import RunFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from torch import Tensor

    from pipeline.config import ModelConfig
    from pipeline.models.source import ModelSource

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
    ConfigError
        If nobody of the name `config.source` builds networks.
    PlanError
        If the network cannot be built, or the weights do not fit it, hold code or are not finite.
    """
    place = where or RunFile({}).where
    source = find(config, place("model", "source"))
    with written_at(place("model", "name")):
        model = _build(source, config, base)
    with written_at(place("model", "name" if config.weights is None else "weights")):
        if config.weights is not None:
            _fit(model, read_weights(base / config.weights), config.weights)
        _check_finite(model)
    return model.cpu().eval()


def _build(source: ModelSource, config: ModelConfig, base: Path) -> nn.Module:
    builder, arguments = source.builder(config, base)
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
            page="your-code",
        ) from error
    if isinstance(model, torch.jit.ScriptModule):
        raise PlanError(
            f"model {config.name!r} gave a TorchScript program, in which layers and operators "
            "cannot be told apart; expected a torch.nn.Module",
            fix="let the function build the network in Python and take over the weights: "
            "model.load_state_dict(scripted.state_dict())",
            page="torchscript",
        )
    if not isinstance(model, nn.Module):
        raise PlanError(
            f"model {config.name!r} gave {type(model).__name__}, expected a torch.nn.Module",
            fix="let the function return the network itself",
            page="your-code",
        )
    return model


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
            page="weights-do-not-fit",
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
            page="weights-not-finite",
        )


def _listed(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _N_LISTED} more" if len(names) > _N_LISTED else ""
    return f"{len(names)} {kind}: {', '.join(names[:_N_LISTED])}{more}"
