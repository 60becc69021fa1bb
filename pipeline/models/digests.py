"""Digests of what a network is: its weights, and the code that builds it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch

from pipeline.models.source import find

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from torch import nn

    from pipeline.config import ModelConfig


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
    """Return the files, other than weights, that say how the network is built."""
    return find(config).files(config, base)
