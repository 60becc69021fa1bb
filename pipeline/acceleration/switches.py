"""What makes a GPU faster at the cost of exact numbers: narrower products, layout, compilation."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from explainers.passing import Passing, passed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from explainers import Network
    from pipeline.config import EngineConfig

BACKEND = "inductor"
"""Backend of torch.compile."""


@dataclass(frozen=True)
class Accelerator:
    """The switches of a run; by default none is on."""

    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Of products in the passes of attributions; scans and metrics stay in float32, as nothing
    compares what they sum up over many samples."""
    is_channels_last: bool = False
    is_compiled: bool = False

    @classmethod
    def of(cls, engine: EngineConfig) -> Accelerator:
        """Return what a run file asks for."""
        return cls(engine.precision, engine.channels_last, engine.compile)

    def changes(self, device: torch.device) -> bool:
        """Whether maps that are made on a device may differ from those of plain float32."""
        is_narrow = self.precision == "bfloat16" or (self.precision == "tf32" and _is_cuda(device))
        # the CPU has channels last in any case
        return is_narrow or self.is_compiled or (self.is_channels_last and _is_cuda(device))

    def applied(self, network: Network) -> Network:
        """Return the network with faster passes; itself where nothing changes."""
        passing = Passing(
            "bfloat16" if self.precision == "bfloat16" else "float32",
            self.is_channels_last,
            BACKEND if self.is_compiled else "",
        )
        return network if passing == Passing() else passed(network, passing)

    @contextlib.contextmanager
    def numbers(self, device: torch.device) -> Iterator[None]:
        """Set how the GPU multiplies for the time of a block, in this process.

        cuDNN rounds factors of convolutions to ten bits unless told otherwise: float32 is told.
        """
        if not _is_cuda(device):
            yield
            return
        wanted = "tf32" if self.precision == "tf32" else "ieee"
        # torch does not annotate them all
        backends: Any = torch.backends
        switches = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
        before = [each.fp32_precision for each in switches]
        for each in switches:
            each.fp32_precision = wanted
        try:
            yield
        finally:
            for each, value in zip(switches, before, strict=True):
                each.fp32_precision = value

    def in_words(self) -> str:
        """Return what is asked for, as the run file has it."""
        said = [f"precision: {self.precision}"] if self.precision != "float32" else []
        said += ["channels_last"] * self.is_channels_last + ["compile"] * self.is_compiled
        return ", ".join(said)

    def notes(self, device: torch.device) -> tuple[str, ...]:
        """Return what was asked for and changes nothing."""
        said = {
            "precision: tf32": self.precision == "tf32",
            "channels_last": self.is_channels_last,
        }
        idle = [name for name, is_on in said.items() if is_on and not _is_cuda(device)]
        return tuple(f"engine.{name} changes nothing on the CPU" for name in idle)


PLAIN = Accelerator()


def _is_cuda(device: torch.device) -> bool:
    return device.type == "cuda"
