"""Faster passes tried before a run: what cannot be compiled, or gives other maps, is refused."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from explainers import Attribution, Trace
from explainers.passing import CountedProducts
from pipeline.acceleration import parity
from pipeline.acceleration.switches import Accelerator
from pipeline.errors import PlanError
from pipeline.inputs import to_model
from pipeline.planning.brief import brief

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from explainers import Explainer, Network, Samples, Target
    from pipeline.config import RunConfig
    from pipeline.inputs import Inputs

COMPILERS = ("torch._dynamo", "torch._inductor")
"""Packages whose exceptions are those of compilation."""


def notes(
    config: RunConfig,
    found: Mapping[str, Explainer],
    network: Network,
    example: Inputs,
    samples: Samples,
    targets: Sequence[Target],
    *,
    waiting: Collection[str],
) -> tuple[str, ...]:
    """Return what a plan says of the run's switches, after trying them on the example.

    Methods that take many passes are tried in a brief form; those that have none, or are in
    `waiting` for a scan, are left to the workers, which compare all of them.

    Parameters
    ----------
    network
        On the device where the work will be done, as far as it is here.

    Raises
    ------
    PlanError
        If the network cannot be compiled, or maps differ by more than `parity.BOUND`.
    """
    accelerator, device = Accelerator.of(config.engine), network.device
    said = accelerator.notes(device)
    if not accelerator.changes(device):
        return said
    inputs = to_model(example, device, network.dtype)
    fast = accelerator.applied(network)
    if accelerator.is_compiled:
        with compiling(config, is_alone=True):
            fast(inputs)
    said += _unnarrowed(accelerator, network, inputs)
    tried = {
        name: short
        for name, each in found.items()
        if isinstance(each, Attribution) and name not in waiting
        if (short := brief(each, network)) is not None
    }
    traces = [Trace(each, inputs, samples=samples, seed=config.seed) for each in (fast, network)]
    measured = parity.differences(tried, traces[0], traces[1], targets, accelerator)
    parity.refuse(measured, config.where("engine"), accelerator.in_words())
    if measured:
        said += (parity.in_words(measured, accelerator.in_words()) + ", on two samples",)
    if far := parity.outliers(measured):
        said += (far,)
    return said


def _unnarrowed(accelerator: Accelerator, network: Network, inputs: Inputs) -> tuple[str, ...]:
    """Return what bfloat16 leaves in float32, by what one pass over the example does."""
    if accelerator.precision != "bfloat16":
        return ()
    with CountedProducts() as half:
        network(inputs)
    if not half.n_narrowed:
        return ("engine.precision: bfloat16 changes nothing: no product of the network is seen",)
    if half.whole:
        return (f"engine.precision: {', '.join(sorted(half.whole))} stay in float32",)
    return ()


@contextlib.contextmanager
def compiling(config: RunConfig, *, is_alone: bool = False) -> Iterator[None]:
    """Say of errors of torch's compiler in a with block that the network cannot be compiled.

    Parameters
    ----------
    is_alone
        Whether only compilation can fail in the block, so that any error is one of it.

    Raises
    ------
    PlanError
        In place of them; others pass.
    """
    try:
        yield
    except Exception as error:
        # by name: to import the compiler takes seconds, and most runs have none
        modules = [each.__module__ for each in type(error).__mro__]
        if not is_alone and not any(name.startswith(COMPILERS) for name in modules):
            raise
        lines = str(error).strip().splitlines()
        raise PlanError(
            f"{config.where('engine', 'compile')}: the network cannot be compiled: "
            f"{type(error).__name__}: {lines[0] if lines else ''}",
            fix="leave `compile` out; `xpipe doctor` says whether there is a compiler",
            page="cannot-compile",
        ) from error
