"""The network and the pictures of the original experiment on an8Flower.

Pictures are those of ``an8Flower_double_12c`` (Oramas, Wang and Tuytelaars 2019, arXiv:1712.06302),
twelve kinds of rendered flowers that differ in the colour of a part, and
``an8Flower_double_12c_MASK``, in which that part is black. Both are folders below `root` (relative
to this file) with a subfolder for each class, in which the files of a picture and its mask have the
same place in the order. Pixels run from 0 to 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from configs.rde_network import ConvNet

SIZE = 128
PICTURES, MASKS = "an8Flower_double_12c", "an8Flower_double_12c_MASK"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
VALIDATION = 0.1
"""Of each class, the first part by name; the rest was trained on."""


def load() -> nn.Module:
    """Return the network; its weights are read by the run file's `model.weights`."""
    return ConvNet(n_channels=3, size=SIZE, n_outputs=12)


class Flowers:
    """Every `step`-th picture of a part, sorted by class and name, with masks if there are any."""

    def __init__(self, root: str, is_train: bool, step: int, has_masks: bool) -> None:
        base = Path(__file__).parent / root
        files = _chosen(base / PICTURES, is_train)[::step]
        self.classes = tuple(_classes(base / PICTURES))
        self.files = [file for file, _ in files]
        self.targets = [label for _, label in files]
        self.ids = [f"{file.parent.name}/{file.name}" for file in self.files]
        masks = _chosen(base / MASKS, is_train)[::step] if has_masks else []
        self.masks = [file for file, _ in masks]
        if has_masks and [label for _, label in masks] != self.targets:
            raise ValueError(f"{MASKS} and {PICTURES} differ in classes or in files of a class")

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a picture as the network takes it, ``(3, 128, 128)``, its class and mask."""
        image = torch.from_numpy(_pixels(self.files[index])).movedim(-1, 0) / 255
        item = {"input": image, "label": self.targets[index]}
        if self.masks:
            item["mask"] = torch.from_numpy(_pixels(self.masks[index]).mean(axis=-1) < 255 / 2)
        return item


def explained(root: str = ".", step: int = 100) -> Flowers:
    """Return every 100th of the 1,200 validation pictures, 12 in all, with masks."""
    return Flowers(root, is_train=False, step=step, has_masks=True)


def training(root: str = ".", step: int = 1) -> Flowers:
    """Return the training pictures."""
    return Flowers(root, is_train=True, step=step, has_masks=False)


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}; see the top of {__file__!r}")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())


def _chosen(folder: Path, is_train: bool) -> list[tuple[Path, int]]:
    """Return the files of a part of each class, with labels."""
    found = []
    for label, name in enumerate(_classes(folder)):
        entries = (folder / name).iterdir()
        files = sorted(file for file in entries if file.suffix.lower() in SUFFIXES)
        split = int(VALIDATION * len(files))
        chosen = files[split:] if is_train else files[:split]
        found += [(file, label) for file in chosen]
    return found


def _pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        resized = image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.NEAREST)
        return np.asarray(resized, dtype=np.float32).copy()
