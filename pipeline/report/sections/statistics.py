"""What scans found that has the form of an input: means, deviations, leading eigen-images."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report import naming, page, pictures
from pipeline.sinks.stored_result import StoredResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from pipeline.report.pictures import HeatMap
    from pipeline.store import Run

title = "Statistics"
order = 60

SIDE = 176
N_LEADING = 12
"""Rows shown of a stack of pictures; factors come with the largest eigenvalue first."""
N_PER_SCAN = 60
MEANINGS = {
    "variance": "standard deviation",
    "min": "least",
    "max": "greatest",
    "factor": "eigen-image",
}
"""What results are called on the page; the others by their own name."""

Found = tuple[str, "NDArray[np.float64]", bool]
"""Caption, values, and whether they are shown around zero."""

TEMPLATE = """
{% for scan, panels in scans %}
<h3>{{ scan }}</h3>
<div class="strip">
{% for caption, heat in panels %}
<figure><figcaption>{{ caption }}</figcaption>
<img src="{{ heat.picture.uri }}" alt="{{ caption }}"
  {%- if heat.picture.is_coarse %} class="coarse"{% endif %}>
{{ heat.bar }}</figure>
{% endfor %}
</div>
{% endfor %}
<p class="note">In units of the model's input, averaged over channels.</p>
"""


def render(run: Run) -> str | None:
    """Return pictures of every scan that has some; None if there are none."""
    shape = tuple(run.plan.input_shape)
    if not shape:
        return None  # of several inputs, nothing is a picture
    label = naming.class_names(run)
    scans = []
    for name, result in run.scans.items():
        found = islice(_arrays(result, shape, label), N_PER_SCAN)
        panels = [
            (caption, heat)
            for caption, values, is_signed in found
            if (heat := _picture(values, is_signed)) is not None
        ]
        if panels:
            scans.append((name, panels))
    return page.fragment(TEMPLATE, scans=scans) if scans else None


def _arrays(
    result: StoredResult, shape: tuple[int, ...], label: Callable[[int], str]
) -> Iterator[Found]:
    """Yield what has the form of an input, of stacks their first rows, of classes their means.

    Nothing else is read: results of scans can be larger than memory.
    """
    for key in result:
        if result.is_mapping(key):
            below = result[key]
            if not isinstance(below, StoredResult):
                continue  # what is alike of many classes is no picture
            by_class = "label" in below and "mean" in below
            yield from _means(below, shape, label) if by_class else _arrays(below, shape, label)
        elif np.dtype(result.dtype(key) or "U").kind in "fiu":
            yield from _pictures(result, key, shape)


def _pictures(result: StoredResult, key: Any, shape: tuple[int, ...]) -> Iterator[Found]:
    caption = MEANINGS.get(str(key), str(key))
    if result.shape(key) == shape:
        array = result[key]
        array = np.sqrt(np.maximum(array, 0)) if key == "variance" else array
        yield caption, array.astype(np.float64), False
    elif result.shape(key)[1:] == shape:
        rows = result.part(key, slice(N_LEADING))
        rows = np.sqrt(np.maximum(rows, 0)) if key == "variance" else rows
        for position, row in enumerate(rows):
            yield f"{caption} {position + 1}", row.astype(np.float64), True


def _means(
    classes: StoredResult, shape: tuple[int, ...], label: Callable[[int], str]
) -> Iterator[Found]:
    if classes.shape("mean")[1:] == shape:
        for index, mean in zip(classes["label"], classes["mean"], strict=True):
            yield f"mean of class {label(int(index))}", np.asarray(mean, np.float64), False


def _picture(values: NDArray[np.float64], is_signed: bool) -> HeatMap | None:
    if not is_signed:
        return pictures.image(values, SIDE)
    averaged = values.mean(axis=0) if values.ndim == 3 else values
    return pictures.heat_map(averaged, SIDE, is_signed=bool(averaged.min() < 0))
