"""Records of what is written once, as a whole: its objects and their SHA-256, written last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline import paths

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping


@dataclass(frozen=True)
class Records:
    """The records of one folder of a run, by the scan's entry."""

    folder: str
    """In which they are, as ``<scan>.json``."""
    content: Callable[[str], str]
    """Returns where that is which a scan's record vouches for."""

    def path(self, scan: str) -> str:
        """Return where the record of a scan is."""
        return f"{self.folder}/{scan}.json"

    def write(self, root: str | os.PathLike[str], scan: str, objects: Mapping[str, str]) -> None:
        """Write the record of what is there: path to SHA-256."""
        record = json.dumps({"objects": dict(objects)}, indent=1, sort_keys=True).encode()
        paths.Folder(root).write(self.path(scan), record)

    def exists(self, root: str | os.PathLike[str], scan: str) -> bool:
        """Whether everything of a scan is written."""
        return paths.Folder(root).exists(self.path(scan))

    def names(self, root: str | os.PathLike[str]) -> tuple[str, ...]:
        """Return the scans of which everything is written, sorted."""
        found = paths.Folder(root).entries(self.folder)
        return tuple(name.removesuffix(".json") for name in found if name.endswith(".json"))

    def objects(self, root: str | os.PathLike[str], scan: str) -> dict[str, str]:
        """Return what the record vouches for: path to SHA-256.

        Raises
        ------
        ValueError
            If the record is damaged.
        """
        record = json.loads(paths.Folder(root).read(self.path(scan)))
        try:
            return {str(path): str(digest) for path, digest in record["objects"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record of digests: {error!r}") from error

    def withdraw(self, root: str | os.PathLike[str], scan: str) -> None:
        """Remove everything of a scan, the record first."""
        folder = paths.Folder(root)
        folder.remove(self.path(scan))
        folder.remove(self.content(scan))
