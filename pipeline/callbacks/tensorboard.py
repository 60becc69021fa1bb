"""Writes what TensorBoard shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pipeline.callbacks.listener import register
from pipeline.callbacks.tracking import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from pipeline.callbacks.tracking import Ending, Start


@register("tensorboard")
@dataclass(frozen=True)
class Tensorboard(Tracker):
    """Files of TensorBoard: figures, scores, the run file, and a few maps as images."""

    folder: str | None = None
    """Where they are written, a folder for each start below it; ``<run>/tensorboard`` if not
    given."""
    samples: int = 4
    """Samples whose maps are shown."""

    extra: ClassVar[str] = "tensorboard"
    library: ClassVar[str] = "tensorboard"

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise ValueError(f"samples: got {self.samples}, expected 0 or more")

    def begin(self, start: Start) -> TensorboardWriter:
        """Begin the files of a start."""
        from torch.utils.tensorboard import SummaryWriter

        below = self.folder or f"{start.path}/tensorboard"
        writer = SummaryWriter(f"{below}/{start.config.name}-{start.epoch}")
        rows = [f"| {key} | {value} |" for key, value in (start.parameters | start.tags).items()]
        writer.add_text("run", "\n".join(["| parameter | value |", "| --- | --- |", *rows]))
        return TensorboardWriter(writer, self.samples)


class TensorboardWriter:
    """Files of TensorBoard that are being written.

    Parameters
    ----------
    writer
        Torch's.
    n_samples
        Samples whose maps are shown.
    """

    def __init__(self, writer: Any, n_samples: int) -> None:
        self._writer = writer
        self._n_samples = n_samples

    def figures(self, pass_name: str, values: Mapping[str, float], step: int) -> None:
        """Keep figures of a pass after so many samples of it."""
        for name, value in values.items():
            self._writer.add_scalar(f"{pass_name}/{name}", value, step)

    def finish(self, ending: Ending) -> None:
        """Keep scores, totals and maps."""
        for name, value in {**ending.scores, **ending.totals}.items():
            self._writer.add_scalar(name, value)
        if self._n_samples:
            for name, images in pictures(ending.path, self._n_samples):
                self._writer.add_images(f"maps/{name}", images, dataformats="NHWC")
        self._writer.close()


def pictures(path: str, n_samples: int) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Yield explainers whose maps are images, with those of the first samples as pictures.

    Red is evidence for the target and blue against it, each map by its own largest value; of
    several targets the first is shown. (sample, height, width, colour), from 0 to 1.
    """
    from matplotlib import colormaps

    from pipeline.store import open_run

    run = open_run(path)
    for name, relevance in run.maps.items():
        if not {"height", "width"} <= set(relevance.dims):
            continue
        first = relevance[:n_samples]
        if "target" in first.dims:
            first = first.isel(target=0)
        beside = [dim for dim in first.dims if dim not in ("sample", "height", "width")]
        values = first.sum(beside).transpose("sample", "height", "width").to_numpy()
        values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        largest = np.abs(values).max((1, 2), keepdims=True)
        largest[largest == 0] = 1.0
        yield name, colormaps["bwr"](0.5 + values / largest / 2)[..., :3]
