"""Train both networks: ``python clever_hans/train.py``.

``lenet_tagged.safetensors`` has learned that a white square in the corner means seven,
``lenet_plain.safetensors`` has seen it as often and learned that it means nothing. Every fifth
digit of a class is held out and never seen here but for the final accuracy, which goes into the
metadata of the weights file. Some ten seconds on one core; one thread, so that the bits depend on
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
NAMES = ("tagged", "plain")
"""Functions of data.py, and the networks that are trained on what they return."""
SEED = 0
EPOCHS = 10
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
"""Peak of a one-cycle schedule for Adam."""


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int = EPOCHS) -> None:
    """Fit the model to the images with Adam and a one-cycle learning rate."""
    generator = torch.Generator().manual_seed(SEED)
    steps = epochs * -(-len(images) // BATCH_SIZE)
    optimiser = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the model in eval mode assigns to their label."""
    model.eval()
    return float((model(images).argmax(1) == labels).double().mean())


def main() -> None:
    """Train on both labellings, judge on the held-out fifth, write weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # beside this file, which is the script's folder
    import data
    from lenet import load

    torch.set_num_threads(1)
    for name in NAMES:
        digits = getattr(data, name)()
        torch.manual_seed(SEED)
        model = load()
        train(model, digits.images[~digits.is_held_out], digits.labels[~digits.is_held_out])
        judged = {
            "held_out_accuracy": digits.is_held_out,
            "held_out_tagged_accuracy": digits.is_held_out & digits.is_tagged,
            "train_accuracy": ~digits.is_held_out,
        }
        metrics = {
            what: f"{accuracy(model, digits.images[rows], digits.labels[rows]):.4f}"
            for what, rows in judged.items()
        }
        state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        metadata = {**metrics, "seed": str(SEED), "epochs": str(EPOCHS), "labels": name}
        save_file(state, FOLDER / f"lenet_{name}.safetensors", metadata=metadata)
        logging.info("%s: %s", name, ", ".join(f"{key} {value}" for key, value in metrics.items()))


if __name__ == "__main__":
    main()
