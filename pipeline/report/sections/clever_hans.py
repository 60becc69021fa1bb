"""Strategies of the network that are no good: spectra of classes, clusters, and their checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.report import charts, cluster_words, formats, naming, page, pictures
from pipeline.report.sections import gallery
from pipeline.spray.findings import left_out
from pipeline.spray.result import CLEVER_HANS, GLOBAL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from markupsafe import Markup

    from pipeline.report.pictures import HeatMap, Picture
    from pipeline.spray.result import Analysis, Cluster, View
    from pipeline.store import Run

title = "Clever Hans"
order = 38

N_ROWS = 20
"""Classes in the table of an explainer."""
N_LINES = 4
"""Classes with a line of their own among the spectra."""
N_CLASSES = 3
"""Classes whose clusters are shown; more where more are confirmed."""
MOST_CLASSES = 12
"""Of them, however many are confirmed."""
MOST_CLUSTERS = 6
"""Of a class."""
SIDE = 96
"""Longest side of a picture in pixels."""
BUDGET = 1_500_000
"""Pixels of all pictures together: about a byte each in the page."""
TOGETHER = 64
"""Samples that are read at a time: photographs take half a megabyte each."""

TEMPLATE = """
{% for each in explained %}
<h3>{{ each.name | breakable }}</h3>
<ul class="said"><li><span class="verdict {{ looks[each.short] }}">{{ each.short }}</span>
{{ each.verdict }}</li></ul>
{% if each.chart %}
<div class="card plot"><div>{{ each.chart }}</div>
<div><ul class="keys">{% for name, look in each.keys %}
<li><i class="key {{ look }}"></i>{{ name }}</li>{% endfor %}</ul></div></div>
<p class="note">A graph links each map of a class with those most like it. As many eigenvalues as
are about zero, so many parts hardly hang together: one is nothing special, two are two
strategies.</p>
{% endif %}
{% if each.rows %}
<div class="scroll framed"><table class="wide tight">
<thead><tr><th scope="col">class</th><th scope="col" class="value">maps</th>
<th scope="col" class="value">second eigenvalue</th>
<th scope="col" class="value">eigenvalues near zero beyond the first</th>
<th scope="col" class="value">evidence &tau;</th><th scope="col" class="value">clusters</th>
<th scope="col" class="value">largest flip rate</th><th scope="col">verdict</th></tr></thead>
<tbody>
{% for row in each.rows %}
<tr><th scope="row">{{ row.name }}</th><td class="value">{{ row.n | count }}</td>
<td class="value">{{ row.second | number }}</td><td class="value">{{ row.n_zero }}</td>
<td class="value">{{ row.tau | number }}</td><td class="value">{{ row.n_clusters }}</td>
<td class="value">{{ row.flip_rate | percent }}</td>
<td><span class="verdict {{ looks[row.verdict] }}">{{ row.verdict }}</span></td></tr>
{% endfor %}
</tbody></table></div>
{% endif %}
<p class="note">{{ each.rest }}</p>
{% for found in each.classes %}
<details{{ " open" if loop.first }}><summary>Clusters of {{ found.name }}
<span class="about">{{ found.n_clusters }} clusters, &tau; {{ found.tau | number }}</span></summary>
{% for cluster in found.clusters %}
<div class="shown">
<p class="who"><b>{{ found.name }}, cluster {{ cluster.number }}</b>:
{{ cluster.size | count }} maps, {{ cluster.share | percent }} of the class
<span class="verdict {{ "fails" if cluster.is_alarm }}">
{{- "Clever Hans" if cluster.is_alarm else "cluster" }}</span><br>
{% for text in cluster.texts %}{{ text }} {% endfor %}</p>
<div class="sample">
  <figure><figcaption>mean map</figcaption>
  {% if cluster.mean %}<img class="coarse" src="{{ cluster.mean.picture.uri }}"
    alt="mean map of cluster {{ cluster.number }} of {{ found.name }}, {{ cluster.mean.in_words }}">
  {{ cluster.mean.bar }}{% else %}<div class="absent">no picture</div>{% endif %}</figure>
  <figure><figcaption>hot region</figcaption>
  {% if cluster.hot %}<img class="coarse" src="{{ cluster.hot.uri }}"
    alt="hot region of cluster {{ cluster.number }} of {{ found.name }}, {{ cluster.place }}">
  {% else %}<div class="absent">nowhere</div>{% endif %}</figure>
  {% for medoid in cluster.medoids %}
  <figure><figcaption>{{ medoid.sample_id }}</figcaption><div class="pair stacked">
  {% if medoid.picture %}<img src="{{ medoid.picture.uri }}" alt="input {{ medoid.sample_id }}"
    {%- if medoid.picture.is_coarse %} class="coarse"{% endif %}>
  {% else %}<div class="absent">no picture</div>{% endif %}
  {% if medoid.heat %}<img src="{{ medoid.heat.picture.uri }}"
    alt="{{ each.name }} of {{ medoid.sample_id }}, {{ medoid.heat.in_words }}"
    {%- if medoid.heat.picture.is_coarse %} class="coarse"{% endif %}>
  {% else %}<div class="absent">no picture</div>{% endif %}
  </div></figure>
  {% endfor %}
</div>
</div>
{% endfor %}
</details>
{% endfor %}
{% endfor %}
<p class="note">A cluster of maps is a strategy, good or bad. Its hot region is where its mean map
most exceeds that of the other maps of its class. It is called a Clever Hans only if that region
alone, put on samples of other classes, makes the network call them by this one, and the same region
of samples outside the cluster does not. The samples shown are those nearest to the middle of the
cluster: a person has to say whether what they share belongs to the class.
{%- if first_target %} Of several targets, the maps are of the first: {{ first_target }}.
{%- endif %}</p>
"""


@dataclass(frozen=True)
class Row:
    """A class in the table."""

    name: str
    n: int
    second: float
    n_zero: int
    tau: float
    n_clusters: int
    flip_rate: float
    """Largest of its clusters; NaN if none was checked."""
    verdict: str


@dataclass(frozen=True)
class Medoid:
    """A sample that stands for a cluster."""

    sample_id: str
    picture: Picture | None
    heat: HeatMap | None


@dataclass(frozen=True)
class ShownCluster:
    """A cluster with its pictures."""

    number: int
    size: int
    share: float
    is_alarm: bool
    texts: list[str]
    place: str
    mean: HeatMap | None
    hot: Picture | None
    medoids: list[Medoid]


@dataclass(frozen=True)
class ShownClass:
    """A class with its clusters."""

    name: str
    tau: float
    n_clusters: int
    clusters: list[ShownCluster]


@dataclass(frozen=True)
class Explained:
    """The analysis of one explainer's maps, as it is shown."""

    name: str
    short: str
    verdict: str
    chart: Markup | str
    keys: list[tuple[str, str]]
    rows: list[Row]
    rest: str
    classes: list[ShownClass]


@dataclass(frozen=True)
class _Pictures:
    """What samples are called and look like, and their maps, by sample."""

    ids: Mapping[int, str]
    inputs: Mapping[int, Picture]
    heats: Mapping[int, HeatMap]

    def medoid(self, sample: int) -> Medoid:
        return Medoid(
            self.ids.get(sample, str(sample)), self.inputs.get(sample), self.heats.get(sample)
        )


def render(run: Run) -> str | None:
    """Return the section; None if no maps were analysed."""
    analyses = dict(run.spray)
    if not analyses:
        return None
    name = naming.class_names(run)
    shown = {explainer: _chosen(analysis) for explainer, analysis in analyses.items()}
    n_pictures = sum(
        2 * len(cluster.medoids) + 2
        for views in shown.values()
        for view in views
        for cluster in _clusters(view)
    )
    side = max(8, min(SIDE, int((BUDGET / max(1, n_pictures)) ** 0.5)))
    return page.fragment(
        TEMPLATE,
        explained=[
            _explained(run, explainer, analysis, shown[explainer], name, side)
            for explainer, analysis in analyses.items()
        ],
        looks=cluster_words.LOOKS,
        first_target=naming.first_of_several(run.plan),
    )


def by_suspicion(analysis: Analysis) -> list[View]:
    """Return the views of classes: those with a Clever Hans first, then by evidence."""
    return sorted(analysis.ranked, key=lambda view: not _is_alarm(view))


def _chosen(analysis: Analysis) -> list[View]:
    """Return the classes whose clusters are shown."""
    views = [view for view in by_suspicion(analysis) if len(view.clusters) > 1]
    n_alarms = sum(map(_is_alarm, views))
    return views[: min(MOST_CLASSES, max(N_CLASSES, n_alarms))]


def _clusters(view: View) -> list[Cluster]:
    """Return the clusters of a class that are shown, what was confirmed first."""
    order = sorted(view.clusters, key=lambda cluster: cluster.verdict != CLEVER_HANS)
    return order[:MOST_CLUSTERS]


def _is_alarm(view: View) -> bool:
    return any(cluster.verdict == CLEVER_HANS for cluster in view.clusters)


def _explained(
    run: Run,
    explainer: str,
    analysis: Analysis,
    shown: Sequence[View],
    name: Callable[[int], str],
    side: int,
) -> Explained:
    views = by_suspicion(analysis)
    rows = [_row(view, name) for view in views]
    chart, keys = _spectra(views, name)
    samples = {
        sample for view in shown for cluster in _clusters(view) for sample in cluster.medoids
    }
    found = _pictures(run, explainer, sorted(samples), side)
    return Explained(
        name=explainer,
        short=cluster_words.short(each for view in views for each in view.clusters),
        verdict=cluster_words.verdict(analysis, name),
        chart=chart,
        keys=keys,
        rows=rows[:N_ROWS],
        rest=_rest(analysis, len(rows), name),
        classes=[_shown_class(view, name, found) for view in shown],
    )


def _row(view: View, name: Callable[[int], str]) -> Row:
    rates = [cluster_words.flip_rate(cluster) for cluster in view.clusters]
    known = [rate for rate in rates if not math.isnan(rate)]
    return Row(
        name=name(view.target),
        n=view.n,
        second=float(view.eigenvalues[1]),
        n_zero=view.n_zero,
        tau=view.tau,
        n_clusters=len(view.clusters),
        flip_rate=max(known, default=math.nan),
        verdict=cluster_words.short(view.clusters),
    )


def _spectra(
    views: Sequence[View], name: Callable[[int], str]
) -> tuple[Markup | str, list[tuple[str, str]]]:
    """Return the eigenvalues of classes as lines, and the keys of these."""
    n_values = min((len(view.eigenvalues) for view in views), default=0)
    if n_values < 2:
        return "", []
    own, others = views[:N_LINES], views[N_LINES:]
    series = []
    if others:
        values = np.stack([view.eigenvalues[:n_values] for view in others])
        middle, low, high = np.median(values, axis=0), values.min(axis=0), values.max(axis=0)
        label = f"{formats.count(len(others))} more: median, least to greatest"
        series.append(charts.Series(label, middle, low, high, charts.CONTROL))
    nothing = np.full(n_values, np.nan)
    for place, view in reversed(list(enumerate(own))):
        label = cluster_words.called(name(view.target))
        values = view.eigenvalues[:n_values]
        series.append(charts.Series(label, values, nothing, nothing, place))
    x = np.arange(1.0, n_values + 1)
    chart = charts.lines(
        x, series, "eigenvalue, by size", "value", title="Eigenvalues of the classes"
    )
    return chart, [(each.name, charts.look(each.colour)) for each in reversed(series)]


def _rest(analysis: Analysis, n_rows: int, name: Callable[[int], str]) -> str:
    """Return what the table leaves out, and what all classes together say."""
    said = []
    if n_rows > N_ROWS:
        said.append(f"{formats.count(n_rows - N_ROWS)} more classes have less evidence.")
    said += left_out(analysis, name)
    if analysis.n_undefined:
        said.append(f"{formats.count(analysis.n_undefined)} maps are zero or not finite.")
    view = analysis.views.get(GLOBAL)
    if view is not None:
        purity = sum(cluster.share * cluster.purity for cluster in view.clusters)
        said.append(
            f"The maps of all classes together fall into {len(view.clusters)} clusters; "
            f"{formats.percent(purity)} of them are of their cluster's most frequent class."
        )
    return " ".join(said)


def _shown_class(view: View, name: Callable[[int], str], found: _Pictures) -> ShownClass:
    class_name = cluster_words.called(name(view.target))
    clusters = [_shown_cluster(cluster, class_name, found) for cluster in _clusters(view)]
    return ShownClass(class_name, view.tau, len(view.clusters), clusters)


def _shown_cluster(cluster: Cluster, class_name: str, found: _Pictures) -> ShownCluster:
    is_signed = bool((cluster.mean < 0).any())
    hot = cluster.hot.astype(np.float32)
    return ShownCluster(
        number=cluster.label,
        size=cluster.size,
        share=cluster.share,
        is_alarm=cluster.verdict == CLEVER_HANS,
        texts=cluster_words.checks(cluster, class_name),
        place=cluster_words.place(cluster),
        mean=pictures.heat_map(cluster.mean, SIDE, is_signed=is_signed),
        hot=pictures.photograph(hot, SIDE) if hot.any() else None,
        medoids=[found.medoid(sample) for sample in cluster.medoids],
    )


def _pictures(run: Run, explainer: str, samples: Sequence[int], side: int) -> _Pictures:
    has_zero = gallery.has_zero_of(run, explainer)
    ids: dict[int, str] = {}
    inputs: dict[int, Picture] = {}
    heats: dict[int, HeatMap] = {}
    for some in _parts(samples):
        ids |= {sample: run.manifest.slice(sample, sample + 1)[0].sample_id for sample in some}
        for position, values in gallery.inputs_of(run, some).items():
            inputs |= _known(some[position], pictures.photograph(values, side))
        maps = gallery.maps_of(run, explainer, some) if explainer in run.maps else ()
        for sample, heat in zip(
            some, gallery.heat_maps(maps, side, has_zero=has_zero), strict=False
        ):
            heats |= _known(sample, heat)
    return _Pictures(ids, inputs, heats)


def _parts(samples: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(samples), TOGETHER):
        yield list(samples[start : start + TOGETHER])


def _known(sample: int, picture: Any) -> dict[int, Any]:
    return {} if picture is None else {sample: picture}
