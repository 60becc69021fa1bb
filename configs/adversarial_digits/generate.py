"""Make digits that fool the quickstart's LeNet, beside the digits they were made from.

``python adversarial/generate.py`` writes the folder ``digits`` beside this file: of every digit a
clean picture and an adversarial one, in this order in ``labels.csv``, and both with the true class.
The digits are some of those that the network never saw in training and assigns to their class.

The attack is projected gradient descent in the maximum norm (Madry et al. 2018, arXiv:1706.06083):
from a random point of the ball of radius epsilon around a digit ``x``,

    x' <- clip(x' + step * sign(grad loss(x')), x - epsilon, x + epsilon), within [0, 1],

where the loss is the cross entropy of the true class. Pixels are written as whole numbers, rounded
towards the clean digit: what the pictures hold stays within epsilon. Some seconds on one core.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from configs.digits_lenet import load
from pipeline.data.mnist5k import Mnist5k

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent / "digits"
SOURCE = Mnist5k()
"""The digits, and how the network takes them."""
LEVELS = 255
"""Greatest value of a pixel in a file."""


@dataclass(frozen=True)
class Attack:
    """Projected gradient descent in the maximum norm."""

    epsilon: float = 0.2
    """Greatest change of a pixel, which runs from 0 to 1."""
    step_size: float = 0.01
    """Change of a pixel in one step."""
    n_steps: int = 40
    """Steps of each digit."""
    seed: int = 0
    """Of the random start, and of the digits that are drawn."""

    def __call__(self, model: nn.Module, clean: Tensor, labels: Tensor) -> Tensor:
        """Return adversarial digits of clean ones in [0, 1], ``(batch, 1, height, width)``."""
        generator = torch.Generator().manual_seed(self.seed)
        low, high = (clean - self.epsilon).clamp_min(0), (clean + self.epsilon).clamp_max(1)
        start = 2 * torch.rand(clean.shape, generator=generator, dtype=clean.dtype) - 1
        pixels = torch.clamp(clean + self.epsilon * start, low, high)
        for _ in range(self.n_steps):
            pixels.requires_grad_(True)
            loss = functional.cross_entropy(logits(model, pixels), labels, reduction="sum")
            (slope,) = torch.autograd.grad(loss, pixels)
            pixels = torch.clamp(pixels.detach() + self.step_size * slope.sign(), low, high)
        return pixels


def logits(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the network's outputs for pixels in [0, 1]."""
    found: Tensor = model((pixels - SOURCE.mean) / SOURCE.std)
    return found


def rounded(adversarial: Tensor, clean: Tensor) -> Tensor:
    """Return pixels as files hold them, rounded towards those of the clean digits."""
    change = torch.trunc((adversarial - clean) * LEVELS) / LEVELS
    return torch.round((clean + change) * LEVELS) / LEVELS


def held_out() -> tuple[Tensor, Tensor, Tensor]:
    """Return pixels in [0, 1], labels and numbers of every fifth of a class's digits."""
    # as train.py of the quickstart: 500 of each class, sorted by class
    records = SOURCE.records()[4::5]
    pixels = SOURCE.display(torch.stack([SOURCE.load(record) for record in records]))
    labels = torch.tensor([record.label for record in records])
    return pixels, labels, torch.tensor([record.index for record in records])


@torch.no_grad()
def predicted(model: nn.Module, pixels: Tensor) -> Tensor:
    """Return the class that the network assigns to each digit."""
    return logits(model, pixels).argmax(1)


def drawn(is_candidate: Tensor, labels: Tensor, per_class: int, seed: int) -> Tensor:
    """Return positions of so many candidates of each class, drawn by the seed, in order."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes = range(int(labels.max()) + 1)
    of_class = [order[is_candidate[order] & (labels[order] == known)] for known in classes]
    return torch.cat([each[:per_class].sort().values for each in of_class])


def write(folder: Path, twins: tuple[Tensor, Tensor], labels: Tensor, numbers: Tensor) -> None:
    """Write clean and adversarial digits as pictures, and the table of their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "index", "name"])
        for clean, adversarial, label, number in zip(*twins, labels, numbers, strict=True):
            for kind, pixels in (("clean", clean), ("adversarial", adversarial)):
                name = f"{int(number):05d}_{kind}.png"
                values = torch.round(pixels[0] * LEVELS).numpy().astype(np.uint8)
                Image.fromarray(values).save(folder / name)
                table.writerow([name, int(label), str(int(label))])


def generate(folder: Path, attack: Attack, per_class: int) -> tuple[Tensor, Tensor]:
    """Write the twins, and return labels and what the network says of the adversarial ones."""
    model = load()
    pixels, labels, numbers = held_out()
    chosen = drawn(predicted(model, pixels) == labels, labels, per_class, attack.seed)
    clean, labels, numbers = pixels[chosen], labels[chosen], numbers[chosen]
    adversarial = rounded(attack(model, clean, labels), clean)
    write(folder, (clean, adversarial), labels, numbers)
    return labels, predicted(model, adversarial)


def main() -> None:
    """Read the options, write the pictures and say how many fool the network."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description="Write adversarial digits beside clean ones.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where pictures are written")
    parser.add_argument("--per-class", type=int, default=2, help="digits of each class")
    parser.add_argument("--epsilon", type=float, default=Attack.epsilon, help="0 to 1")
    parser.add_argument("--step-size", type=float, default=Attack.step_size, help="of one step")
    parser.add_argument("--n-steps", type=int, default=Attack.n_steps, help="of each digit")
    parser.add_argument("--seed", type=int, default=Attack.seed, help="of digits and starts")
    given = parser.parse_args()
    torch.set_num_threads(1)
    attack = Attack(given.epsilon, given.step_size, given.n_steps, given.seed)
    labels, found = generate(given.folder, attack, given.per_class)
    n_fooled = int((found != labels).sum())
    logging.info("%d of %d adversarial digits fool the network", n_fooled, len(labels))
    logging.info("pictures and labels are in %s", given.folder)


if __name__ == "__main__":
    main()
