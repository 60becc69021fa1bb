"""How much of the output's variance moments have, of that of draws of the same noise.

Digits and the quickstart's LeNet, as it is and with average pools in place of its max-pools; noise
with the moments of the digits that are not looked at. Of each mask the median over the digits of
the variance of the predicted logit by moments, as solvers take them, over that by draws::

    python -m benchmarks.variances
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from benchmarks.rate_distortion import OTHERS, moments, shuffled_digits
from configs.digits_lenet import load
from explainers import Network
from explainers.rate_distortion.assumed import obfuscated
from explainers.rate_distortion.noise import resolve
from explainers.rules.moments.carrying import carry
from explainers.rules.moments.forms import Form

if TYPE_CHECKING:
    from torch import Tensor

    from explainers.rate_distortion.noise import Noise


def with_average_pools() -> nn.Module:
    """Return LeNet with its weights, and other pools."""
    model = load()
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            setattr(model, name, nn.AvgPool2d(2))
    return model


def brightest(images: Tensor, share: float) -> Tensor:
    """Return masks of a share of the pixels of every image."""
    flat = images.flatten(1)
    chosen = flat.topk(round(share * flat.shape[1])).indices
    return torch.zeros_like(flat).scatter_(1, chosen, 1.0).view_as(images)


def by_moments(network: Network, images: Tensor, masks: Tensor, noise: Noise) -> Tensor:
    """Return variances of the logits, ``(images, classes)``."""
    n_factors = 1 if noise.mode == "diag" else len(noise.spread)
    kind: Any = "variance" if noise.mode == "diag" else "factor"
    mean, spread = obfuscated(masks, images, noise)
    form = Form(kind, network, n_factors, is_smooth=True)
    found = carry(network, mean, spread, form)[network.output_name].uncertainty
    return found if noise.mode == "diag" else found.view(len(images), n_factors, -1).square().sum(1)


def by_draws(network: Network, images: Tensor, masks: Tensor, noise: Noise, n_draws: int) -> Tensor:
    """Return variances of the logits, ``(images, classes)``, of the same draws for every image."""
    generator = torch.Generator().manual_seed(0)
    shape = noise.mean.shape if noise.mode == "diag" else (len(noise.spread),)
    drawn = noise.draws.values(torch.randn(n_draws, *shape, generator=generator))
    return torch.stack(
        [
            network(torch.lerp(drawn, image, mask)).var(0)
            for image, mask in zip(images, masks, strict=True)
        ]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=int, default=20)
    parser.add_argument("--draws", type=int, default=2000)
    options = parser.parse_args()
    every = shuffled_digits()
    images = every[OTHERS : OTHERS + options.digits]
    kept = {
        "nothing": torch.zeros_like(images),
        "the brightest tenth": brightest(images, 0.1),
        "the brightest 30 %": brightest(images, 0.3),
        "three quarters of every value": torch.full_like(images, 0.75),
        "97 % of every value": torch.full_like(images, 0.97),
    }
    cases = (("diag", load()), ("half", load()), ("half", with_average_pools()))
    networks = [(mode, Network(model, images[:1])) for mode, model in cases]
    print(f"{'kept':32} {'diag':>8} {'half':>8} {'average':>8}")
    for name, masks in kept.items():
        print(f"{name:32}", end="")
        for mode, network in networks:
            noise = resolve(moments(every[:OTHERS], mode), network, mode)
            assumed = by_moments(network, images, masks, noise)
            ratio = assumed / by_draws(network, images, masks, noise, options.draws)
            of_node = ratio.gather(1, network(images).argmax(1, keepdim=True))
            print(f" {of_node.median():8.3f}", end="", flush=True)
        print()


if __name__ == "__main__":
    with torch.no_grad():
        main()
