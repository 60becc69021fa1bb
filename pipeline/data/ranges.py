"""Parts of files by position: blocks of remote files are kept, so that neighbours share them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

import fsspec

from pipeline.data import files

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_BYTES = 4 * 2**20
"""Of a remote file that are read at once: some thirty photographs for the delay of one request."""

_N_BLOCKS = 4
"""That are kept: two, and two of another file at its border."""


class Ranges:
    """Reads parts of files; for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def read(self, path: str, start: int, size: int) -> bytes:
        """Return some bytes of a file.

        Raises
        ------
        OSError
            If they are not there.
        """
        if files.is_url(path):
            content = b"".join(self._parts(path, start, start + size))
        else:
            with open(path, "rb") as file:
                file.seek(start)
                content = file.read(size)
        if len(content) < size:
            raise OSError(f"the file ends after {len(content)} of {size} bytes")
        return content

    def _parts(self, path: str, start: int, stop: int) -> Iterator[bytes]:
        for block in range(start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)):
            first = block * BLOCK_BYTES
            yield self._block(path, block)[max(0, start - first) : stop - first]

    def _block(self, path: str, block: int) -> bytes:
        # one thread reads a block, and the others wait for it rather than read it, too
        with self._lock:
            if (path, block) not in self._blocks:
                system, inside = fsspec.core.url_to_fs(path)
                if path not in self._sizes:
                    self._sizes[path] = int(system.info(inside)["size"])
                first = block * BLOCK_BYTES
                # not all stores take a range that goes on behind the end
                stop = min(first + BLOCK_BYTES, self._sizes[path])
                content = system.cat_file(inside, start=first, end=stop) if stop > first else b""
                self._blocks[path, block] = content
                while len(self._blocks) > _N_BLOCKS:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end((path, block))
            return self._blocks[path, block]
