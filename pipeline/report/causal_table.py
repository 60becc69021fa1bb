"""What a table says of the layers of causal graphs, over all classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from pipeline.report.formats import MISSING, count, number, percent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pipeline.causal_links import LayerOfAll


@dataclass(frozen=True)
class TableColumn:
    """A column of the table."""

    name: str
    meaning: str
    of: str
    """Array that it is made from; without it there is no such column."""
    cell: Callable[[LayerOfAll], str]


def _neurons(layer: LayerOfAll) -> str:
    return count(layer.n_neurons)


def _tested(layer: LayerOfAll) -> str:
    return spread((layer["tested"] > 0).sum(1)[layer.has_test], count)


def _effects(layer: LayerOfAll) -> str:
    return spread(layer.n_effects[layer.has_test], count)


def _causes(layer: LayerOfAll) -> str:
    return spread(layer.causes.sum(1)[layer.has_test], count)


def _negative_causes(layer: LayerOfAll) -> str:
    return spread(layer.negative_causes.sum(1)[layer.has_test], count)


def _borderline(layer: LayerOfAll) -> str:
    return count(float((layer["is_borderline"] > 0).sum()))


def _classes(layer: LayerOfAll) -> str:
    n, of = int(layer.has_test.sum()), len(layer.has_test)
    return count(n) if n == of else f"{count(n)} of {count(of)}"


def _how(layer: LayerOfAll) -> str:
    counted = Counter(how for how, holds in zip(layer.how, layer.has_test, strict=True) if holds)
    if len(counted) < 2:
        return next(iter(counted), MISSING)
    return ", ".join(f"{n} {how}" for how, n in counted.most_common())


def _u(layer: LayerOfAll) -> str:
    return spread(layer["u"], number)


def _confirmed(layer: LayerOfAll) -> str:
    is_retested = np.isfinite(layer["held_out_te"])
    n = int(is_retested.sum())
    is_confirmed = (layer["is_confirmed"] == 1) & is_retested
    return percent(float(is_confirmed.sum()) / n, 0) if n else MISSING


def _jaccard(layer: LayerOfAll) -> str:
    return spread(layer["jaccard"], _two_digits)


def _nogueira(layer: LayerOfAll) -> str:
    return spread(layer["nogueira"], _two_digits)


def _recall(layer: LayerOfAll) -> str:
    return spread(layer["recall"], _two_digits)


def _recall_of_strongest(layer: LayerOfAll) -> str:
    return spread(layer["recall_of_strongest"], _two_digits)


def _audited(layer: LayerOfAll) -> str:
    return spread(layer["n_audited"], count)


def _correlation(layer: LayerOfAll) -> str:
    return spread(layer["screen_correlation"], _two_digits)


COLUMNS = (
    TableColumn("neurons", "What the layer reads.", "te", _neurons),
    TableColumn("u", "What the weights of a neuron were set to.", "u", _u),
    TableColumn("tested", "Neurons whose removal was carried out.", "tested", _tested),
    TableColumn("effects", "Channels that the graph above is made of.", "effects", _effects),
    TableColumn("causes", "Neurons whose removal lowers the logit.", "sign", _causes),
    TableColumn("negative", "Neurons whose removal raises the logit.", "sign", _negative_causes),
    TableColumn(
        "classes",
        "Those that were tested: others have too few samples, or their graphs end above.",
        "how",
        _classes,
    ),
    TableColumn("selected by", "How causes of these classes were selected.", "how", _how),
    TableColumn(
        "confirmed",
        "Of the causes of all classes, those that the samples held out confirm.",
        "is_confirmed",
        _confirmed,
    ),
    TableColumn(
        "borderline",
        "Decisions, over all classes, that rounding could have made.",
        "is_borderline",
        _borderline,
    ),
    TableColumn(
        "Jaccard",
        "Likeness of causes, with their signs, from resamples to those of the graph, 0 to 1.",
        "jaccard",
        _jaccard,
    ),
    TableColumn(
        "Nogueira",
        "Stability of the selection over resamples: 0 by chance, 1 where always the same.",
        "nogueira",
        _nogueira,
    ),
)
SCREENING = (
    TableColumn("neurons", "What the layer reads.", "recall", _neurons),
    TableColumn("verified", "Neurons whose removal was carried out.", "recall", _tested),
    TableColumn(
        "audited",
        "Of these, drawn at random from what was screened out.",
        "n_audited",
        _audited,
    ),
    TableColumn(
        "recall",
        "Estimated share of the layer's causes that screening let through, 0 to 1.",
        "recall",
        _recall,
    ),
    TableColumn(
        "of strongest",
        "Estimated share that screening let through of as many truly strongest neurons, 0 to 1.",
        "recall_of_strongest",
        _recall_of_strongest,
    ),
    TableColumn(
        "correlation",
        "Rank correlation of estimated and exact effects.",
        "screen_correlation",
        _correlation,
    ),
)


def rows(
    columns: Sequence[TableColumn], layers: Sequence[LayerOfAll]
) -> list[tuple[str, list[str]]]:
    """Return the name and the cells of each layer."""
    return [(layer.name, [column.cell(layer) for column in columns]) for layer in layers]


def spread(values: NDArray[Any], text: Callable[[float], str]) -> str:
    """Return the median, and the least and the greatest where they differ."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    if not len(known):
        return MISSING
    low, middle, high = (text(float(each)) for each in np.quantile(known, [0, 0.5, 1]))
    if low == high:
        return middle
    return Markup("{} <small>({}\N{EN DASH}{})</small>").format(middle, low, high)


def _two_digits(value: float) -> str:
    return number(value, 2)
