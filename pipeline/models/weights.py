"""Files of weights: tensors, and nothing that could be executed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from typing import TYPE_CHECKING

import torch

from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


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
            page="unreadable-weights",
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in {".pt", ".pth", ".bin"}:
        _refuse_torchscript(path)
        return _read_torch(path)
    raise PlanError(
        f"got weights {path.name!r}, expected .safetensors, .pt or .pth",
        fix="convert them: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')",
        page="unreadable-weights",
    )


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise PlanError(
            f"cannot read the weights {str(path)!r}: {error}",
            fix="write the file anew",
            page="unreadable-weights",
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
            page="refused-pickle",
        ) from error
    except (OSError, EOFError, RuntimeError) as error:
        raise PlanError(
            f"cannot read the weights {str(path)!r}: {error}",
            fix="write the file anew",
            page="unreadable-weights",
        ) from error
    # training scripts often wrap the state dict
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(torch.is_tensor(value) for value in found.values()):
        raise PlanError(
            f"the weights {str(path)!r} hold {type(found).__name__}, expected a mapping of names "
            "to tensors",
            fix="save model.state_dict(), not the model",
            page="unreadable-weights",
        )
    return found


def _refuse_torchscript(path: Path) -> None:
    """Refuse an archive of TorchScript, which is a program with its weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            has_code = any("/code/" in name for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):  # an older file, or a broken one: reading it will tell
        return
    if has_code:
        raise PlanError(
            f"refused the weights {str(path)!r}: the file is a TorchScript archive, a program in "
            "which layers and operators cannot be told apart; expected tensors",
            fix="let model.name build the network in Python, and write its weights: "
            f"save_file(torch.jit.load({path.name!r}).state_dict(), 'weights.safetensors') with "
            "safetensors.torch.save_file",
            page="torchscript",
        )
