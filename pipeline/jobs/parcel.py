"""What travels with a job: the run file, the user's code, and the small files that both name."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import yaml

from pipeline import user_code
from pipeline.data.files import is_url
from pipeline.errors import PlanError
from pipeline.quantities import size

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.config import RunConfig

RUN_FILE = "run.yaml"
FILES = "files"
MAX_BYTES = 64 * 1024**2
"""Ray refuses packages of 100 MiB through its dashboard, and keeps them in the head's memory."""
MAX_FILES = 1000
"""More is a data set, which belongs where every node reads it for itself."""
N_LISTED = 5
"""Of what is too large, how much is listed."""
_LEFT_OUT = frozenset({"__pycache__", "node_modules", "site-packages"})
_GLOB = frozenset("*?[")


@dataclass
class Parcel:
    """Files of the run file's folder, or near it, that go along."""

    base: Path
    """Folder that the names in the run file are relative to."""
    files: dict[Path, int] = field(default_factory=dict)
    """Size of each."""

    @property
    def root(self) -> Path:
        """The folder that holds all of them."""
        return Path(os.path.commonpath([self.base, *(path.parent for path in self.files)]))

    def add(self, path: Path) -> None:
        """Add a file, or all files of a folder."""
        for each in _below(path) if path.is_dir() else (path,):
            self.files[Path(os.path.normpath(each))] = each.stat().st_size


def pack(config: RunConfig, address: str, folder: Path, also: Sequence[str] = ()) -> Parcel:
    """Write what a job needs into an empty folder; relative names keep their meaning.

    Python files bring the python files beside them. Files and folders that the run file names
    relative to itself come along. What it names absolutely, or by URL, is read where the job runs.

    Parameters
    ----------
    config
        The run; what is written is its effective run file, whatever it was made of.
    address
        ``engine.address`` of the run in the job.
    folder
        Where to write.
    also
        Further files and folders, relative to the run file, which the user's code reads by itself.

    Raises
    ------
    PlanError
        If that is too much to be sent, or something in `also` does not exist.
    """
    parcel = Parcel(Path(os.path.normpath(config.base.resolve())))
    for name in also:
        if not (parcel.base / name).exists():
            raise PlanError(
                f"there is no {name!r} in {str(parcel.base)!r} to be shipped",
                fix="name files relative to the run file",
            )
        parcel.add(parcel.base / name)
    for name in _names(config):
        for path in _found(parcel.base, name):
            parcel.add(path)
    _refuse_large(parcel)
    for path in parcel.files:
        target = folder / FILES / path.relative_to(parcel.root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    base = PurePosixPath(FILES, parcel.base.relative_to(parcel.root))
    (folder / base).mkdir(parents=True, exist_ok=True)
    values = config.model_dump(mode="json")
    values["base"] = str(base)
    values["engine"]["address"] = address
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    (folder / RUN_FILE).write_text(text, encoding="utf-8")
    return parcel


def _found(base: Path, name: str) -> Iterator[Path]:
    """Yield the files and folders here that a text of the run file names, if it names any."""
    code = user_code.file_of(name, base)
    if code is not None and code.is_file():
        yield from (each for each in _below(code.parent) if each.suffix == ".py")
        return
    if not name or "\n" in name or len(name) > 1000 or is_url(name) or Path(name).is_absolute():
        return
    path = base / name
    if path.exists():
        if path.resolve() != base:  # `.` would be everything there is
            yield path
    elif _GLOB & set(name):
        yield from base.glob(name)


def _names(config: RunConfig) -> Iterator[str]:
    """Yield every text of the run file that may name a file."""
    values = config.model_dump(mode="json")
    model, data = values["model"], dict(values["data"])
    if config.model.source == "python":
        yield model["name"]
    yield from _texts([model["weights"], model["params"]])
    del data["source"]
    yield from _texts(data)
    for section in ("explainers", "metrics", "spray", "callbacks"):
        # a method may be called as a folder is: only what looks like a path is taken for one
        yield from (text for text in _texts(values[section]) if "/" in text or "." in text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder; neither hidden ones, environments, caches nor runs."""
    for path, folders, files in os.walk(folder):
        here = Path(path)
        folders[:] = sorted(name for name in folders if _is_wanted(here / name))
        yield from (here / name for name in sorted(files) if not name.startswith("."))


def _is_wanted(folder: Path) -> bool:
    if folder.name.startswith(".") or folder.name in _LEFT_OUT:
        return False
    return not any((folder / name).exists() for name in ("pyvenv.cfg", "plan.json", "job.json"))


def _refuse_large(parcel: Parcel) -> None:
    total = sum(parcel.files.values())
    if total <= MAX_BYTES and len(parcel.files) <= MAX_FILES:
        return
    listed = ", ".join(_parts(parcel))
    raise PlanError(
        f"the run file names {len(parcel.files)} files of {size(total)} in all beside it, a job "
        f"takes {MAX_FILES} and {size(MAX_BYTES)} along: {listed}",
        fix="put data and weights where every node of the cluster reads them, and name them by "
        "absolute path or URL",
        page="job-too-large",
    )


def _parts(parcel: Parcel) -> Iterable[str]:
    """Return what is largest, by what lies directly in the folder."""
    parts: dict[str, list[int]] = {}
    for path, n_bytes in parcel.files.items():
        parts.setdefault(path.relative_to(parcel.root).parts[0], []).append(n_bytes)
    ranked = sorted(parts.items(), key=lambda part: -sum(part[1]))[:N_LISTED]
    return [f"{name} ({len(sizes)} files, {size(sum(sizes))})" for name, sizes in ranked]
