"""Contextual decomposition of many masks at once, against a bare forward and a loop over masks.

Digits and the quickstart's LeNet. The first table is of the 196 masks of one digit, a cell of 2 x 2
pixels each: ours, with the digit's own forward in it, once as it is by default and once strict; a
bare forward of a batch of 196; and a loop, which takes one mask after the other and carries both
parts through the modules in batches of one, with a pass of zeros for each bias, as the published
code does (written anew here). That code pools channel by channel; `lean` is the same loop with one
gather instead. The second table is of hierarchies of several digits, with the published settings
for them: ours, which asks for all candidates of all digits at once, against the same growth digit
by digit whose scores come from the loops. The third says how far one stream and strict are apart on
digits, and how much of the output is in no cell's part::

    OMP_NUM_THREADS=1 python -m benchmarks.decomposition
    OMP_NUM_THREADS=1 python -m benchmarks.decomposition --digits 2 --rounds 3

Ratios of CPU seconds of this process, on one thread, in float32; medians over rounds in which all
take turns, each over that of its own round, so that a busy machine slows both. What strict finds
is compared with the loop on a digit with a little noise: in flat regions many windows of a max-pool
hold equal values, and rounding decides between them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from configs.digits_lenet import load
from explainers import Network, Target, Trace
from explainers.attribution.agglomerative_contextual_decomposition import (
    AgglomerativeContextualDecomposition,
)
from explainers.decomposition import Decomposition, decompose
from pipeline.data.mnist5k import Mnist5k

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from explainers.hierarchies.cells import Cells
    from explainers.hierarchies.scoring import Places, Scorer

MASKS, HIERARCHIES = 1.3, 20.0
"""What is asked: at most so many bare forwards, at least so many times cheaper than the loop."""
_TINY = 1e-20


def digits(n: int) -> Tensor:
    """Return some digits as LeNet takes them, ``(n, 1, 28, 28)``."""
    source = Mnist5k()
    records = source.records()
    chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))[:n]
    return torch.stack([source.load(records[index]) for index in chosen.tolist()])


def cells(side: int) -> Tensor:
    """Return the masks of square cells of digits, ``(cells, 1, 28, 28)``."""
    along = torch.arange(28) // side
    number = along[:, None] * (int(along.max()) + 1) + along
    every = torch.arange(int(number.max()) + 1)
    return (number == every[:, None, None])[:, None]


class Loop:
    """The relevant part of one mask after the other, by hand for LeNet.

    Parameters
    ----------
    model
        LeNet.
    is_lean
        Whether a part is pooled by one gather, not channel by channel.
    """

    def __init__(self, model: nn.Module, *, is_lean: bool = False) -> None:
        self.layers = dict(model.named_children())
        self.is_lean = is_lean

    def __call__(self, image: Tensor, masks: Tensor) -> Tensor:
        """Return the relevant parts of the logits, ``(mask, 10)``, of one image."""
        return torch.cat([self.one(image, mask) for mask in masks])

    def one(self, image: Tensor, mask: Tensor) -> Tensor:
        """Return the relevant part of one mask, ``(1, 10)``."""
        parts = (mask * image)[None], (~mask * image)[None]
        for name in ("conv1", "conv2"):
            parts = self._pool(self._relu(self._linear(parts, name)))
        parts = parts[0].flatten(1), parts[1].flatten(1)
        parts = self._relu(self._linear(parts, "linear1"))
        return self._linear(parts, "linear2")[0]

    def _linear(self, parts: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
        layer = self.layers[name]
        bias = layer(torch.zeros_like(parts[0]))
        relevant, irrelevant = layer(parts[0]) - bias, layer(parts[1]) - bias
        share = relevant.abs() + _TINY
        share = share / (share + irrelevant.abs() + _TINY)
        return relevant + bias * share, irrelevant + bias * (1 - share)

    def _relu(self, parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        relevant = parts[0].relu()
        return relevant, (parts[0] + parts[1]).relu() - relevant

    def _pool(self, parts: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        places = functional.max_pool2d(parts[0] + parts[1], 2, return_indices=True)[1]
        relevant, irrelevant = (self._at(part, places) for part in parts)
        return relevant, irrelevant

    def _at(self, part: Tensor, places: Tensor) -> Tensor:
        if self.is_lean:
            return part.flatten(2).gather(2, places.flatten(2)).view_as(places)
        pooled = torch.empty(places.shape)
        for channel, chosen in enumerate(places[0]):
            pooled[0, channel] = part[0, channel].flatten()[chosen]
        return pooled


def seconds(run: Callable[[], object]) -> float:
    """Return the CPU seconds of a call."""
    begun = time.process_time()
    run()
    return time.process_time() - begun


def turns(kinds: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each, by round; all are warmed up once."""
    for run in kinds.values():
        run()
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, run in kinds.items():
            found[name].append(seconds(run))
    return found


def ratio(found: dict[str, list[float]], upper: str, lower: str) -> float:
    """Return the median over rounds of one kind's seconds over another's."""
    pairs = zip(found[upper], found[lower], strict=True)
    return statistics.median(above / below for above, below in pairs)


def of_masks(options: argparse.Namespace) -> None:
    """Print what 196 masks of a digit cost."""
    model = load()
    image, masks = digits(1), cells(2)
    network = Network(model, image)
    rows = torch.zeros(len(masks), dtype=torch.int64)
    batch = masks * image
    loop, lean = Loop(model), Loop(model, is_lean=True)

    def ours(*, strict: bool = False) -> Tensor:
        found: Tensor = Decomposition(Trace(network, image), strict=strict).relevant(masks, rows)
        return found

    noisy = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        strictly = Decomposition(Trace(network, noisy), strict=True).relevant(masks, rows)
        drift = (strictly - loop(noisy[0], masks)).abs().max()
        passes: dict[str, Callable[[], object]] = {
            "ours": ours,
            "forward": lambda: network(batch),
            "strict": lambda: ours(strict=True),
        }
        # apart from the loops, which leave the caches to them cold
        found = turns(passes, 3 * options.rounds)
        loops: dict[str, Callable[[], object]] = {
            "ours": ours,
            "strict": lambda: ours(strict=True),
            "loop": lambda: loop(image[0], masks),
            "lean": lambda: lean(image[0], masks),
        }
        looped = turns(loops, options.rounds)
    forward = 1e3 * statistics.median(found["forward"])
    print(f"{len(masks)} masks of a digit; a bare forward of as many digits takes {forward:.2f} ms")
    for name in ("ours", "strict"):
        cheaper = [ratio(looped, kind, name) for kind in ("loop", "lean")]
        print(
            f"  {name:8}{ratio(found, name, 'forward'):6.2f} bare forwards; {cheaper[0]:6.1f} "
            f"times cheaper than the loop, {cheaper[1]:6.1f} than the lean one",
            flush=True,
        )
    print(f"  asked are {MASKS} of ours at most; strict differs from the loop by {drift:.1e}")


@dataclass(frozen=True)
class ByLoop(AgglomerativeContextualDecomposition):
    """The same hierarchies, whose scores come from a loop, one mask after the other."""

    is_lean: bool = False

    def _scorer(self, trace: Trace, places: Places, cells: Cells) -> Scorer:
        loop = Loop(load(), is_lean=self.is_lean)

        def score(members: Tensor, rows: Tensor) -> Tensor:
            pairs = zip(rows, places.masks(members, rows), strict=True)
            made = [loop.one(trace.inputs[row], mask) for row, mask in pairs]
            return torch.cat(made) if made else trace.output.new_empty(0, 10)

        return score


def of_hierarchies(options: argparse.Namespace) -> None:
    """Print what hierarchies of some digits cost."""
    images, target = digits(options.digits), Target.parse("predicted")
    network = Network(load(), images[:1])
    preset = AgglomerativeContextualDecomposition.presets["acd_mnist"]
    batched = AgglomerativeContextualDecomposition(**preset)

    def ours() -> int:
        return len(batched.relevance(Trace(network, images), target).tables[""])

    def loop(*, is_lean: bool = False) -> int:
        looped = ByLoop(**preset, is_lean=is_lean)
        traces = (Trace(network, image[None]) for image in images)
        return sum(len(looped.relevance(trace, target).tables[""]) for trace in traces)

    kinds: dict[str, Callable[[], object]] = {
        "ours": ours,
        "loop": loop,
        "lean": lambda: loop(is_lean=True),
    }
    found = turns(kinds, max(1, options.rounds // 3))
    own = 1e3 * statistics.median(found["ours"]) / len(images)
    loops = [ratio(found, kind, "ours") for kind in ("loop", "lean")]
    print(
        f"hierarchies of {len(images)} digits, {ours()} nodes by ours and {loop()} by the loop\n"
        f"  ours    {own:6.1f} ms a digit; {loops[0]:6.1f} times cheaper than the loop, "
        f"{loops[1]:6.1f} than the lean one\n"
        f"  asked are {HIERARCHIES:.0f} times at least"
    )


def of_streams() -> None:
    """Print how far one stream is from two on digits, and parts of cells from the output."""
    images = digits(20)
    noisy = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    network, masks = Network(load(), images[:1]), cells(2)
    outputs = network(images)
    own = outputs.argmax(1)[:, None]
    relevant, strict = (decompose(network, images, masks, strict=each)[0] for each in (False, True))
    summed = relevant.sum(1).gather(1, own)
    beside = ((outputs.gather(1, own) - summed) / outputs.gather(1, own)).median()
    apart = [decompose(network, noisy, masks, strict=each)[0] for each in (False, True)]
    values = Trace(network, images).layer("conv1")
    windows = functional.unfold(values.flatten(0, 1)[:, None], 2, stride=2)
    tied = ((windows == windows.amax(1, keepdim=True)).sum(1) > 1).float().mean()
    print(
        f"{len(images)} digits, {len(masks)} cells; outputs up to {outputs.abs().max():.1f}\n"
        f"  windows of the first pool whose largest value is there twice: {tied:.0%}\n"
        f"  one stream and two differ by {(relevant - strict).abs().max():.2g}, with a little "
        f"noise by {(apart[0] - apart[1]).abs().max():.1g}\n"
        f"  output less the sum of its cells' parts, over the output: median {beside:.2f}"
    )


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--digits", type=int, default=8, help="that get a hierarchy")
    options = parser.parse_args()
    of_masks(options)
    of_hierarchies(options)
    of_streams()


if __name__ == "__main__":
    main()
