"""Train the LeNet of model.py on CIFAR-10: ``python train.py`` in the template's folder.

The data are downloaded by torchvision if they are not there. Training pictures are flipped and
shifted at random; the test pictures, which the run explains, are looked at once, for the accuracy
that goes into the metadata of the weights file.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.nn import functional
from torchvision import datasets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

FOLDER = Path(__file__).parent
SEED = 0
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
"""Peak of a one-cycle schedule for Adam."""
SHIFT = 4
"""Pixels by which pictures are moved at most."""


def pictures(root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Return pictures in [-1, 1], ``(pictures, 3, 32, 32)``, and labels ``(pictures,)``."""
    given = datasets.CIFAR10(str(root), train=train, download=True)
    pixels = torch.from_numpy(given.data).permute(0, 3, 1, 2).float() / 255
    return (pixels - 0.5) / 0.5, torch.tensor(given.targets)


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the pictures, each flipped with probability one half and shifted at random."""
    n_images, _, height, width = images.shape
    flips = torch.rand(n_images, generator=generator) < 0.5
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    padded = functional.pad(images, (SHIFT,) * 4, mode="reflect")
    top, left = torch.randint(0, 2 * SHIFT + 1, (2, n_images), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    own = torch.arange(n_images)[:, None, None, None]
    return padded[own, torch.arange(3)[None, :, None, None], rows, columns]


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Fit the model to the pictures with Adam and a one-cycle learning rate."""
    generator = torch.Generator().manual_seed(SEED)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(augment(images[rows], generator)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        logging.info("epoch %2d of %d: loss %.4f", epoch + 1, epochs, total / len(images))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of pictures that the model in eval mode assigns to their label."""
    model.eval()
    found = [model(part).argmax(1) for part in images.split(1000)]
    return float((torch.cat(found) == labels).double().mean())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, judge on the test pictures and write ``lenet.safetensors``."""
    parser = argparse.ArgumentParser(description="Train a LeNet on CIFAR-10.")
    parser.add_argument("--root", type=Path, default=FOLDER / "cifar10", help="folder of the data")
    parser.add_argument("--epochs", type=int, default=30)
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from model import load  # beside this file, which is the script's folder

    torch.manual_seed(SEED)
    model = load()
    train(model, *pictures(asked.root, train=True), asked.epochs)
    share = accuracy(model, *pictures(asked.root, train=False))
    metrics = {"test_accuracy": f"{share:.4f}", "seed": str(SEED), "epochs": str(asked.epochs)}
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, FOLDER / "lenet.safetensors", metadata=metrics)
    logging.info("accuracy on the test pictures: %.4f", share)


if __name__ == "__main__":
    main()
