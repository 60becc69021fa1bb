"""Draw every explainer's maps of a few samples as one picture: `make montage`.

    python -m docs.montage                          # all methods on digits, runs/montage.png
    python -m docs.montage --config my/run.yaml     # whatever this run file lists
    python -m docs.montage --run runs/photographs   # a run that is finished
    python -m docs.montage --photographs FOLDER     # all methods on a folder of photographs

A row per explainer, a column per sample: how a method errs is seen beside the others.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont

from explainers import explaining
from pipeline import aggregate, open_run
from pipeline.config import load
from pipeline.data import open_source, read_batch, select_records
from pipeline.entries import build_explainers
from pipeline.examples import find_example
from pipeline.inputs import ALONE, is_one_picture, parts_of
from pipeline.manifest import Manifest
from pipeline.models import load_model
from pipeline.planning import fit
from pipeline.report import naming, pictures
from pipeline.report.sections.gallery import choose
from pipeline.run import run as start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from pipeline.config import RunConfig
    from pipeline.store import Run

ROOT = Path(__file__).parent.parent
ALL_METHODS = ROOT / "configs" / "all_methods.yaml"
PHOTOGRAPHS = (
    "model={source: python, name: 'configs.efficientnet_lite0:load'}",
    # the range of pixels after normalisation
    "explainers.lrp_gamma_box.composite.low=[-2.12, -2.04, -1.81]",
    "explainers.lrp_gamma_box.composite.high=[2.25, 2.43, 2.65]",
)
"""What else is another than for digits."""
N_SAMPLES = 6
SIDE, GAP, TEXT = 112, 6, 16
"""Pixels: of a picture, between pictures, and of a line of text."""
N_COLUMNS = 3
"""Blocks beside each other, so that the montage is no tower."""


def draw(run: Run, n_samples: int = N_SAMPLES) -> Image.Image:
    """Return the montage of a run."""
    rows = _rows(run, n_samples)
    blocks = [("input", list(_inputs(run, rows)))]
    blocks += [(name, list(_maps(run, name, rows))) for name in run.maps]
    width = len(rows) * (SIDE + GAP) + 2 * GAP
    height = SIDE + TEXT + 2 * GAP
    n_lines = math.ceil(len(blocks) / N_COLUMNS)
    page = Image.new("RGB", (width * min(N_COLUMNS, len(blocks)), height * n_lines), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(TEXT - 3)
    for position, (name, tiles) in enumerate(blocks):
        left, top = position // n_lines * width + GAP, position % n_lines * height
        pen.text((left, top + 2), name, fill="black", font=font)
        for column, tile in enumerate(tiles):
            page.paste(_fitted(tile), (left + column * (SIDE + GAP), top + TEXT + GAP))
    return page


def _rows(run: Run, n_samples: int) -> list[int]:
    """Return samples of different classes, some of them misclassified, as the report does."""
    facts = aggregate.facts(run)
    return [int(facts["index"][place]) for place in choose(facts, n_samples)]


def _inputs(run: Run, rows: Sequence[int]) -> Iterator[Image.Image]:
    source = naming.source_of(run)
    if source is None or not is_one_picture(run.plan.form):
        return
    records = [run.manifest.slice(row, row + 1)[0] for row in rows]
    batch, _, _ = read_batch(source, records, run.plan.form)
    for values in source.display(parts_of(batch)[ALONE]).float().numpy():
        stack = np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0)
        yield Image.fromarray(np.rint(stack.clip(0, 1) * 255).astype(np.uint8))


def _maps(run: Run, name: str, rows: Sequence[int]) -> Iterator[Image.Image]:
    """Yield maps, white (or black) at zero, each on a scale of its own."""
    stored = run.maps[name].isel(sample=list(rows))
    stored = stored.isel(target=0) if "target" in stored.dims else stored
    values = np.asarray(stored.values, np.float32)
    is_signed = bool(np.nanmin(values) < 0) if np.isfinite(values).any() else True
    for each in values:
        yield _coloured(pictures.plane(each), is_signed=is_signed)


def _coloured(plane: NDArray[np.floating] | None, *, is_signed: bool) -> Image.Image:
    if plane is None or not np.isfinite(plane).all():
        # nothing else is of this colour: it is seen at once
        return Image.new("RGB", (1, 1), "lime")
    limit = float(np.percentile(np.abs(plane), pictures.SATURATION)) or float(np.abs(plane).max())
    share = plane / (limit or 1.0)
    share = (share + 1) / 2 if is_signed else share
    colours = colormaps[pictures.COLOURS["signed" if is_signed else "unsigned"]]
    return Image.fromarray(colours(share.clip(0, 1), bytes=True)[..., :3])


def _fitted(tile: Image.Image) -> Image.Image:
    is_large = max(tile.size) > SIDE
    how = Image.Resampling.BOX if is_large else Image.Resampling.NEAREST
    return tile.resize((SIDE, SIDE), how)


def explain(path: Path, out: Path, overrides: Sequence[str]) -> Run:
    """Return the finished run of a run file, beside the montage; done work is not done again."""
    folder = out.with_suffix("")
    config = load(path, [*overrides, f"output.path={folder}", "metrics={}"])
    served = set(_served(config))
    kept = {name: values for name, values in config.explainers.items() if name in served}
    start(config.model_copy(update={"explainers": kept}))
    return open_run(folder)


def _served(config: RunConfig) -> Iterator[str]:
    """Yield the explainers that are defined for the network; say which are not."""
    source = open_source(config.data, config.base)
    manifest = Manifest(select_records(config.data, source.records(), config.seed))
    model = load_model(config.model, config.base)
    example, _ = find_example(source, manifest, model)
    network = fit.read_network(model, example, "model")
    for name, explainer in build_explainers(config).items():
        try:
            explaining.check(explainer, network)
        except (NotImplementedError, ValueError) as error:
            sys.stderr.write(f"left out: {name}: {error}\n")
        else:
            yield name


def _photographs(folder: Path) -> list[str]:
    data = (
        f"data={{source: image_folder, path: '{folder.resolve()}', labels: none, "
        "resize: 256, crop: 224, "
        f"mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225], sample: {N_SAMPLES}}}"
    )
    return [*PHOTOGRAPHS, data, "output.shard_size=2", "engine.batch_size=1"]


def main(arguments: Sequence[str] | None = None) -> Path:
    """Draw what is asked for and return where the picture is."""
    parser = argparse.ArgumentParser(description="Draw every explainer's maps as one picture.")
    parser.add_argument("--run", type=Path, help="a finished run, in place of a new one")
    parser.add_argument("--config", type=Path, default=ALL_METHODS, help="run file of a new run")
    parser.add_argument("--photographs", type=Path, help="folder of pictures, in place of digits")
    parser.add_argument("--out", type=Path, default=Path("runs/montage.png"))
    parser.add_argument("--set", "-s", action="append", default=[], help="a.b=value", dest="values")
    asked = parser.parse_args(arguments)
    overrides = _photographs(asked.photographs) if asked.photographs else []
    run = open_run(asked.run) if asked.run else None
    run = run or explain(asked.config, asked.out, [*overrides, *asked.values])
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    draw(run).save(asked.out)
    return Path(asked.out)


if __name__ == "__main__":
    main()
