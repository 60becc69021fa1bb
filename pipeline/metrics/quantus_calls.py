"""What Quantus is given, and what it finds while it is called: all of it gone afterwards."""

from __future__ import annotations

import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from explainers import Network, Samples, Target, Trace
from explainers.sampling import counted
from pipeline.errors import PlanError
from pipeline.metrics import again, similarity

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from numpy.typing import NDArray
    from torch import Tensor

    from pipeline.metrics.metric import Case

_MISSING = {"trapz": np.trapezoid, "NaN": np.nan}
"""Names that NumPy 2 has no more and Quantus 0.6 still uses."""
_ONE_AT_A_TIME = threading.RLock()


def library() -> ModuleType:
    """Return the package.

    Raises
    ------
    PlanError
        If it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import quantus
        except ModuleNotFoundError as error:
            raise PlanError(
                f"the metric 'quantus' needs the library of that name, which lacks {error.name!r}",
                fix="pip install 'xpipe-xai[quantus]', or take a metric of our own",
                page="missing-extra",
            ) from error
    module: ModuleType = quantus
    return module


@contextmanager
def called(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator and give NumPy its old names, until the block is left."""
    with _ONE_AT_A_TIME, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        state = np.random.get_state()
        added = [name for name in _MISSING if not hasattr(np, name)]
        try:
            for name in added:
                setattr(np, name, _MISSING[name])
            np.random.seed(seed % 2**32)
            yield
        finally:
            np.random.set_state(state)
            for name in added:
                delattr(np, name)


@contextmanager
def unchecked() -> Iterator[None]:
    """Have Quantus score any maps, until the block is left; while it is `called`.

    It refuses batches whose maps are all negative or all one value, at the start and whenever it
    explains again, so that whether a map has a score would depend on the others of its batch.
    """
    asserts = library().helpers.asserts
    check = asserts.assert_attributions
    asserts.assert_attributions = lambda *_, **__: None
    try:
        yield
    finally:
        asserts.assert_attributions = check


class Logits(nn.Module):
    """A network as a module, which takes and returns what Quantus expects of one."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self._network = network
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits, float32."""
        return self._network(inputs.to(self._network.dtype)).float()


class Explaining:
    """Explains again for Quantus, whatever model it comes with.

    Parameters
    ----------
    case
        The batch.
    rows
        Of the batch that are scored.
    shape
        Of one map.
    model
        What Quantus was given for the network of the case.
    """

    def __init__(self, case: Case, rows: Tensor, shape: tuple[int, ...], model: nn.Module) -> None:
        self._case = case
        self._rows = rows
        self._shape = shape
        self._model = model

    def __call__(
        self, model: nn.Module, inputs: NDArray[Any], targets: NDArray[Any], **_unused: Any
    ) -> NDArray[Any]:
        """Return maps of inputs that belong to the rows, in their order."""
        trace = self._case.network_trace()
        given = torch.as_tensor(np.array(inputs)).to(trace.inputs)
        if model is self._model:
            there = trace.at(given, self._rows)
        else:
            there = _elsewhere(trace, model, given, self._rows)
        target = Target("index", torch.as_tensor(targets, device=given.device))
        maps = again.explained(self._case.explainer, there, target, self._case)
        if tuple(maps.shape[1:]) != self._shape:
            raise ValueError(
                f"got maps of shape {tuple(maps.shape[1:])} when explaining again, expected "
                f"{self._shape} as before: pass the explainer that made the maps"
            )
        return maps.detach().float().cpu().numpy()


def _elsewhere(trace: Trace, model: nn.Module, inputs: Tensor, rows: Tensor) -> Trace:
    """Return the trace of rows in another model, with the randomness of the samples."""
    who, chosen = trace.who(), rows.to("cpu")
    samples = Samples(who.index[chosen], who.label[chosen])
    return Trace(
        Network(model, inputs),
        inputs,
        samples=samples,
        seed=trace.seed,
        namespace=trace.namespace,
    )


class Noise:
    """Perturbs as Quantus' functions do, by draws that follow from run and sample.

    Parameters
    ----------
    trace
        Of the batch.
    rows
        Of the batch that are scored.
    """

    def __init__(self, trace: Trace, rows: Tensor) -> None:
        index = trace.who().index.cpu()[rows]
        self._seeds = counted.word(torch.full_like(index, trace.shared_seed("quantus")), index)
        self._n_drawn = 0

    def __call__(
        self,
        arr: NDArray[Any],
        indices: NDArray[Any],
        lower_bound: float = 0.02,
        upper_bound: float | None = None,
        **_unused: Any,
    ) -> NDArray[Any]:
        """Add uniform numbers to features, ``(batch, features)``, at `indices`.

        They are from [lower_bound, upper_bound), or from [-lower_bound, lower_bound).
        """
        low, high = (
            (-lower_bound, lower_bound) if upper_bound is None else (lower_bound, upper_bound)
        )
        drawn = low + (high - low) * self._uniform(arr.shape[1]).astype(arr.dtype)
        perturbed = arr.copy()
        at = (np.arange(len(arr))[:, None], indices)
        perturbed[at] = (arr + drawn)[at]
        return perturbed

    def filled(
        self,
        arr: NDArray[Any],
        indices: NDArray[Any],
        uniform_low: float = 0.0,
        uniform_high: float = 1.0,
        **_unused: Any,
    ) -> NDArray[Any]:
        """Put one uniform number of each row in the place of its features at `indices`."""
        drawn = uniform_low + (uniform_high - uniform_low) * self._uniform(1)
        perturbed = arr.copy()
        perturbed[np.arange(len(arr))[:, None], indices] = drawn
        return perturbed

    def _uniform(self, n_numbers: int) -> NDArray[Any]:
        seeds = counted.word(self._seeds, torch.tensor(self._n_drawn))
        self._n_drawn += 1
        numbers: NDArray[Any] = counted.uniform(seeds, n_numbers, torch.float64).numpy()
        return numbers


def scaled(maps: NDArray[Any]) -> NDArray[Any]:
    """Divide each map by its own largest magnitude, ``(batch, ...)``; zeros stay."""
    axes = tuple(range(1, maps.ndim))
    largest = np.abs(maps).max(axis=axes, keepdims=True)
    divided: NDArray[Any] = maps / np.where(largest > 0, largest, 1.0)
    return divided


def correlated(a: NDArray[Any], b: NDArray[Any], **_unused: Any) -> NDArray[Any]:
    """Return Spearman's correlation of rows, ``(batch,)``; NaN where one is constant.

    Quantus correlates every row with every other, and fails for all where one is constant.
    """
    one, other = torch.from_numpy(np.asarray(a)), torch.from_numpy(np.asarray(b))
    found = similarity.correlation(similarity.ranks(one), similarity.ranks(other))
    varies = (one.amax(1) > one.amin(1)) & (other.amax(1) > other.amin(1))
    numbers: NDArray[Any] = found.where(varies, torch.nan).numpy()
    return numbers
