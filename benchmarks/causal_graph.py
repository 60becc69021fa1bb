"""Causal graphs against editing weights: one sample at a time, and all samples at a time.

Ratios of CPU seconds of this process, on one thread, in float32; medians over rounds in which all
take turns, each over what it is compared with in its own round::

    OMP_NUM_THREADS=1 python -m benchmarks.causal_graph
    OMP_NUM_THREADS=1 python -m benchmarks.causal_graph --only resnet18 vgg16 --size 224 --samples 2

`literal` is the published algorithm on the quickstart's LeNet, for one digit: an edit of the
weights and a forward pass of one sample for each neuron and sample, measured whole. Whether both
find the same graph is printed. `classes` are the ten digits at once.

`resnet18` and `vgg16` have random weights and see random images of one class, those that they
assign to it. They are compared with a loop that edits the weights of one neuron, runs all samples
forward and puts the weights back. The loop is not run for all neurons, which would take hours:
`--probes` interventions are timed in each round, at neurons spread over all layers, and their mean
is taken as many times as there are neurons in the layers that the scan reached. The scan is
measured whole, with the reading of the samples, statistics, selection and edges; the network is
read before, once. With screening, its recall is printed beside, as the scan estimates it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

import explainers
from benchmarks.lrp import NETWORKS, measure
from benchmarks.maximization import digits
from configs.digits_lenet import load as lenet
from configs.quickstart.train import MEAN, STANDARD_DEVIATION
from explainers import Network
from explainers.causal.structure import structure_of
from tests.explainers.literal_causal_graph import learn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    Batches = list[tuple[Tensor, Tensor]]

LITERAL, LIMIT = 200, 1.0
"""Times faster than the published algorithm at least, and CPU seconds for ten classes at most."""
TARGETS = {"resnet18": 3, "vgg16": 10}
"""Times faster than the loop, without screening; with it three times that."""
SCREENING = 0.2
SAMPLES = 50
"""Of a digit class."""


def pictures(n_samples: int) -> tuple[Tensor, Tensor]:
    """Return digits as the network takes them, of all classes in turn, and their labels."""
    images, labels = digits(n_samples)
    return (images - MEAN) / STANDARD_DEVIATION, labels


def right(model: nn.Module, images: Tensor, labels: Tensor, label: int, n: int) -> Tensor:
    """Return the first images of a class that the network assigns to it."""
    with torch.no_grad():
        found = images[(labels == label) & (model(images).argmax(1) == label)]
    return found[:n]


def scan(network: Network, batches: Batches, **parameters: Any) -> Callable[[], Any]:
    """Return our scan."""
    return lambda: explainers.scan(network, "causal_graph", batches, **parameters)


def literal(rounds: int, label: int = 3) -> None:
    """Print how much faster one class's graph is learned, and whether it is the same."""
    model = lenet().requires_grad_(False)
    images = right(model, *pictures(2000), label, SAMPLES)
    layers = [model.conv1, model.conv2, model.linear1, model.linear2]
    network = Network(model, images[:2])
    asked = {"classes": [label], "n_samples": SAMPLES, "n_held_out": 0, "rule": "compat"}
    batches = [(images, torch.full((len(images),), label))]
    ours = scan(network, batches, edges="none", n_bootstrap=0, **asked)
    theirs = partial(learn, model, layers, images.split(1), label, SAMPLES, channels={2: 32})
    default = scan(network, batches, classes=[label], n_samples=SAMPLES, n_held_out=0)
    seconds = measure({"literal": theirs, "ours": ours, "default": default}, rounds)
    found, published = ours()[label], theirs()
    names = ("conv1", "conv2", "linear1", "linear2")
    pairs = list(zip(names, published, strict=True))[1:]
    same = all(found[name]["causes"].tolist() == each.causes for name, each in pairs)
    print(f"LeNet, digit {label}, {SAMPLES} samples: {statistics.median(seconds['literal']):.2f} s")
    for name in ("ours", "default"):
        row(f"literal / {name}", ratios(seconds, "literal", name), LITERAL)
    print(f"the same graph: {same}", flush=True)


def classes(rounds: int) -> None:
    """Print CPU seconds of ten classes at once."""
    images, labels = pictures(1000)
    network = Network(lenet(), images[:2])
    batches = list(zip(images.split(250), labels.split(250), strict=True))
    settings: dict[str, dict[str, Any]] = {
        "ten classes, plain": {"edges": "none", "n_bootstrap": 0, "n_held_out": 0},
        "ten classes": {"n_held_out": 0},
        "ten classes, held out": {"n_held_out": 25},
        "ten classes, screening": {"n_held_out": 0, "screening": SCREENING},
    }
    runs = {
        name: scan(network, batches, n_samples=SAMPLES, **each) for name, each in settings.items()
    }
    for name, own in measure(runs, rounds).items():
        print(f"{name:36}{statistics.median(own):>9.3f} s  <= {LIMIT:g}", flush=True)
    print(f"recall of screening: {recall(runs['ten classes, screening']())}")


def loop(name: str, asked: argparse.Namespace) -> None:
    """Print how much faster a network's graph is learned than by a forward for each neuron."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().requires_grad_(False)
    drawn = torch.randn(4 * asked.samples, 3, asked.size, asked.size)
    with torch.no_grad():
        guesses = model(drawn).argmax(1)
    label = int(guesses.mode()[0])
    images = drawn[guesses == label][: asked.samples]
    network = Network(model, images[:2])
    batches = [(images, torch.full((len(images),), label))]
    common = {"classes": [label], "n_samples": asked.samples, "n_held_out": 0}
    runs = {
        "probes": partial(probe, model, images, asked.probes),
        "exact": scan(network, batches, **common),
        "screening": scan(network, batches, screening=SCREENING, **common),
    }
    seconds = measure(runs, asked.rounds)
    counts = {each: reached(network, runs[each]()[label]) for each in ("exact", "screening")}
    print(f"{name}, {len(images)} samples of {asked.size} x {asked.size}: {counts} neurons")
    for each, factor in (("exact", 1), ("screening", 3)):
        times = counts[each] / asked.probes
        own = [times * one for one in ratios(seconds, "probes", each)]
        row(f"loop / {each}", own, factor * TARGETS[name])
    print(f"recall of screening: {recall(runs['screening']())}", flush=True)


@torch.no_grad()
def probe(model: nn.Module, images: Tensor, n_probes: int) -> None:
    """Edit, run all samples and put back, at neurons spread over the layers."""
    weights = [each for each in model.parameters() if each.ndim > 1]
    for number in range(n_probes):
        weight = weights[number * len(weights) // n_probes]
        neuron = number % weight.shape[1]
        before = weight[:, neuron].clone()
        weight[:, neuron] = 0.0
        model(images)
        weight[:, neuron] = before


def reached(network: Network, graph: dict[str, Any]) -> int:
    """Return how many neurons there are in the layers that the scan reached."""
    layers = {layer.name: layer for layer in structure_of(network).layers}
    return sum(
        layers[name].n_neurons
        for name, found in graph.items()
        if "te" in found and len(found["effects"])
    )


def recall(result: dict[Any, Any]) -> str:
    """Return the mean over classes and layers, and the smallest."""
    found = torch.tensor(
        [
            float(layer["recall"])
            for label, graph in result.items()
            if isinstance(label, int)
            for layer in graph.values()
            if "recall" in layer
        ]
    )
    found = found[found.isfinite()]
    return (
        f"{float(found.mean()):.3f} (least {float(found.min()):.3f})" if len(found) else "unknown"
    )


def ratios(seconds: dict[str, list[float]], slow: str, fast: str) -> list[float]:
    """Return the ratio of each round."""
    return [one / other for one, other in zip(seconds[slow], seconds[fast], strict=True)]


def row(name: str, own: list[float], target: float) -> None:
    """Print a ratio and what it should be."""
    print(
        f"{name:36}{statistics.median(own):>9.1f} times"
        f"  ({min(own):.1f}-{max(own):.1f})  >= {target:g}",
        flush=True,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ["literal", "classes", *TARGETS]
    parser.add_argument("--only", nargs="*", choices=parts, default=parts)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    began = time.process_time()
    for part in asked.only:
        if part == "literal":
            literal(asked.rounds)
        elif part == "classes":
            classes(asked.rounds)
        else:
            loop(part, asked)
    print(f"{time.process_time() - began:.0f} s of CPU time in all")


if __name__ == "__main__":
    main()
