"""An atlas from a run: pictures and cards of a layer at a time, then what joins the layers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import paths
from pipeline.atlas import page, samples, strips, tiles, views
from pipeline.atlas.cards import Cards, Names, Shown
from pipeline.atlas.searching import Index
from pipeline.errors import StoreError
from pipeline.report import naming
from pipeline.threads import processors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from pipeline.atlas.cards import Card
    from pipeline.atlas.samples import Pictures
    from pipeline.atlas.views import View
    from pipeline.paths import Folder
    from pipeline.store import Run

SUMMARY = "atlas.json"
"""What the report reads of an atlas; it also tells an atlas from a folder of something else."""
N_PREVIEWS = 6
"""Concepts of a layer whose best sample the index shows."""
N_TOP = 5
"""Concepts of the deepest layer that the summary names for each class."""


@dataclass(frozen=True)
class Place:
    """Where an atlas is written: any file system; nothing is synced, for it can be made again."""

    folder: Folder

    def clear(self) -> None:
        """Make room, if what is there is an atlas.

        Raises
        ------
        StoreError
            If there is something else.
        """
        if self.folder.entries() and not self.folder.exists(SUMMARY):
            raise StoreError(
                f"{self.folder.url} holds something that is no atlas",
                fix="name another folder with --out",
                page="exists-already",
            )
        self.folder.remove("")

    def summary(self) -> dict[str, Any]:
        """Return what the atlas that is there says of itself; empty if it was cut short."""
        try:
            found: dict[str, Any] = json.loads(self.folder.read(SUMMARY))
        except (FileNotFoundError, ValueError):
            return {}
        return found

    def kinds(self) -> dict[str, str]:
        """Return the operators of layers that the atlas knew which is there."""
        layers = self.summary().get("layers", ())
        return {views.layer_of(entry["name"]): entry["kind"] for entry in layers if entry["kind"]}

    def write(self, name: str, content: bytes) -> None:
        """Write a file."""
        target = self.folder.at(name)
        if not self.folder.is_local:
            self.folder.fs.pipe_file(target, content)
            return
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(content)


@dataclass(frozen=True)
class Entry:
    """A layer, as the index shows it."""

    name: str
    """Of its page: the layer, and the kind of its concepts if they are not its channels."""
    kind: str
    """Its operator; empty where it is not known."""
    slug: str
    n_concepts: int
    n_silent: int
    redundancy: list[tuple[str, float]]
    """View and how alike its concepts are."""
    previews: list[int]
    """Concepts in the picture of previews."""


@dataclass
class Atlas:
    """An atlas that is being written."""

    run: Run
    views: Sequence[View]
    place: Place
    n: int
    """Samples shown of each list, at most."""
    kinds: Mapping[str, str]
    """Operators of layers, as far as they are known."""
    entries: list[Entry] = field(default_factory=list)
    index: Index = field(default_factory=Index)
    top: dict[str, Any] = field(default_factory=dict)
    """Concepts of each class, of the last layer that has classes and is not the output."""

    def write(self) -> None:
        """Write all of it; the index last."""
        self.place.clear()
        self.slugs = page.slugs(views.pages_of(self.views, self.kinds))
        self.names = Names(
            self.run.manifest.sample_ids,
            self.run.manifest.labels,
            samples.predictions(self.run),
            naming.class_names(self.run),
        )
        # first, so that a folder in which a build was cut short counts as an atlas
        self.place.write(SUMMARY, b"{}")
        for asset in page.ASSETS:
            self.place.write(asset, page.render(asset))
        with samples.read(self.run, self._shown()) as pictures:
            for layer in self.slugs:
                self._layer(layer, pictures)
        self.place.write("search.js", self.index.script())
        self.place.write(SUMMARY, json.dumps(self._summary(), indent=1).encode())
        self.place.write("index.html", self._index())

    def _shown(self) -> NDArray[np.int64]:
        """Return all samples that are shown somewhere."""
        held = [
            np.unique(views.shown_samples(view, layer, self.n))
            for view in self.views
            for layer in view.layers
        ]
        every = np.unique(np.concatenate(held))
        return np.asarray(every[every != views.MISSING])

    def _layer(self, layer: str, pictures: Pictures | None) -> None:
        shown = [Shown.of(view, layer, self.n) for view in self.views if layer in view.layers]
        cards = Cards(shown, self.names)
        made = [cards.card(channel) for channel in range(cards.n_concepts)]
        slug = self.slugs[layer]
        n_tiles = max(len(each.samples) for each in shown)
        entry = Entry(
            layer,
            self.kinds.get(views.layer_of(layer), ""),
            slug,
            cards.n_concepts,
            int(cards.is_silent.sum()),
            [
                (each.view.title, float(each.quality["redundancy"]))
                for each in shown
                if "redundancy" in each.quality
            ],
            _previews(made),
        )
        if pictures is not None:
            self._strips(entry, shown, n_tiles, pictures)
        self.entries.append(entry)
        self.index.add(layer, slug, cards.n_concepts, made)
        self._remember(layer, shown[-1])
        content = self._page(entry, cards, made, n_tiles, pictures)
        self.place.write(f"layers/{slug}.html", content)

    def _strips(self, entry: Entry, shown: Sequence[Shown], n: int, pictures: Pictures) -> None:
        """Write the pictures of a layer's concepts, and one for the index."""
        is_exact = tiles.is_coarse(pictures.size)

        first: list[NDArray[np.uint8]] = []
        with ThreadPoolExecutor(processors()) as pool:
            for block in views.blocks(shown[0].view, entry.name, entry.n_concepts):
                channels = range(entry.n_concepts)[block]
                held = [views.references(each.view, entry.name, self.n, block) for each in shown]
                chosen = [each.samples[:, block] for each in shown]
                paint = partial(strips.concept, pictures, chosen, held, n)
                write = partial(self._concept, entry.slug, paint, pictures.side, is_exact=is_exact)
                first += pool.map(write, channels, range(len(channels)))
        if entry.previews:
            row = np.concatenate([first[channel] for channel in entry.previews], axis=1)
            content = strips.encode(row, is_exact=is_exact)
            self.place.write(f"layers/{entry.slug}/previews.webp", content)

    def _concept(
        self,
        slug: str,
        paint: Callable[[int], NDArray[np.uint8]],
        side: int,
        channel: int,
        place: int,
        *,
        is_exact: bool,
    ) -> NDArray[np.uint8]:
        """Write the picture of one concept and return its first tile."""
        pixels = paint(place)
        content = strips.encode(pixels, is_exact=is_exact)
        self.place.write(f"layers/{slug}/{channel}.webp", content)
        return pixels[:side, :side].copy()

    def _page(
        self,
        entry: Entry,
        cards: Cards,
        made: Sequence[Card],
        n_tiles: int,
        pictures: Pictures | None,
    ) -> bytes:
        order = list(self.slugs)
        place = order.index(entry.name)
        return page.render(
            "layer.html",
            run=self.run.config.name,
            layer=entry,
            cards=made,
            n_rows=cards.n_rows,
            n_tiles=n_tiles,
            sorts=sorted({key for card in made for key in card.keys}),
            has_pictures=pictures is not None,
            is_coarse=pictures is not None and tiles.is_coarse(pictures.size),
            before=self._neighbour(order, place - 1),
            after=self._neighbour(order, place + 1),
        )

    def _neighbour(self, order: Sequence[str], place: int) -> tuple[str, str] | None:
        """Return name and file name of a layer; None beyond the ends."""
        return (order[place], self.slugs[order[place]]) if 0 <= place < len(order) else None

    def _remember(self, layer: str, shown: Shown) -> None:
        """Keep which concepts of a layer each class shows most, for the report."""
        n_concepts = shown.lists.sample.shape[1]
        # that each class shows its own output most goes without saying
        if shown.by_class is None or (self.top and n_concepts == self.run.plan.n_classes):
            return
        self.top = {
            "layer": layer,
            "page": f"layers/{self.slugs[layer]}.html",
            "view": shown.view.title,
            "classes": [
                {"name": self.names.label(int(index)), "index": int(index), "concepts": best}
                for row, index in enumerate(shown.by_class.classes)
                if (best := shown.by_class.best_concepts(row, N_TOP))
            ],
        }

    def _summary(self) -> dict[str, Any]:
        return {
            "results": results_digest(self.run),
            "views": [view.title for view in self.views],
            "n_references": self.n,
            "layers": [asdict(entry) for entry in self.entries],
            "top": self.top,
        }

    def _index(self) -> bytes:
        return page.render(
            "index.html",
            run=self.run.config.name,
            layers=self.entries,
            n_layers=len({views.layer_of(entry.name) for entry in self.entries}),
            views=[view.title for view in self.views],
            n_concepts=sum(entry.n_concepts for entry in self.entries),
            n_samples=self.run.plan.n_samples,
            has_pictures=any(
                self.place.folder.exists(f"layers/{entry.slug}/previews.webp")
                for entry in self.entries
            ),
        )


def results_digest(run: Run) -> str:
    """Return the digest of the results that an atlas shows: of the records that vouch for them."""
    records = (run.folder.read(paths.result_record_path(scan)) for scan in run.scans)
    return paths.sha256(b"".join(records))


def _previews(made: Sequence[Card]) -> list[int]:
    """Return concepts that stand for a layer: the clearest, or some at even distances."""
    heard = [card for card in made if not card.is_silent]
    if all("clarity" in card.keys for card in heard):
        heard.sort(key=lambda card: -card.keys["clarity"])
        chosen = heard[:N_PREVIEWS]
    else:
        step = max(1, len(heard) // N_PREVIEWS)
        chosen = heard[::step][:N_PREVIEWS]
    return [card.channel for card in chosen]
