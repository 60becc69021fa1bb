"""Samples in tar archives, several files each, as WebDataset writes them."""

from __future__ import annotations

import functools
import io
import json
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from pipeline.data import files, labelling, patterns, tar_index
from pipeline.data.pictures import Pictures
from pipeline.data.ranges import Ranges
from pipeline.data.source import Record, register
from pipeline.data.tokenizing import AnyTokenizer  # noqa: TC001 (a field: read at run time)
from pipeline.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import Tensor

    from pipeline.data.patterns import Found
    from pipeline.data.tar_index import TarIndex
    from pipeline.data.tokenizing import Tokens

SUFFIXES = (".tar",)

IMAGES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "gif", "ppm", "pgm")
ARRAYS = ("npy", "pth", "pt")
TEXTS = ("txt", "text")

_LABEL = "cls"
_JSON = "json"
_FAULT = "!"
"""What begins the source of a sample that cannot be read, before the reason."""

_PICKLE = b"\x80\x02"
"""How files of torch begin that are no zip archives: pickles of the second protocol alone."""

_N_OPENED = 8
"""Archives whose members are looked for at once."""


@register("webdataset")
@dataclass(frozen=True)
class WebDataset(Pictures):
    """Tar archives of samples: files that share a name up to its first point.

    Of each sample an image, an array or a text is read by its place in the archive, in any order;
    archives must not be compressed. Pickles are never executed.
    """

    path: str
    """An archive, a folder or a pattern such as ``train-{000..127}.tar``, relative to the run file,
    or a URL."""
    input_members: tuple[str, ...] = (*IMAGES, *ARRAYS, *TEXTS)
    """Extensions of what the model takes: the first of them that a sample has. Arrays are .npy, or
    .pth with a tensor."""
    label_member: str | None = None
    """Extension of the file with the class; `cls` if samples have that, and `json` with
    `label_field`."""
    label_field: str | None = None
    """Where the class is in the JSON of a sample; ``annotation.class`` is inside an object."""
    mask_member: str | None = None
    """Extension of masks, an image or an array, such as ``seg.png``."""
    classes: tuple[str, ...] | None = None
    """Names of the classes, by index."""
    tokenizer: AnyTokenizer | None = None
    """How texts become numbers, as for the source `text`."""
    max_length: int | None = None
    """Tokens of a text that are taken at most, the first ones."""

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by, named or read."""
        super().__post_init__()
        labelling.check_names(self.classes)
        if self.max_length is not None and self.max_length < 1:
            raise ValueError(f"got max_length {self.max_length}, expected at least 1")
        for name in (*self.input_members, *filter(None, [self.mask_member])):
            if _kind(name) not in (*IMAGES, *ARRAYS, *TEXTS):
                raise ValueError(
                    f"got the extension {name!r}, expected one that ends in "
                    f"{', '.join((*IMAGES, *ARRAYS, *TEXTS))}"
                )

    def rooted(self, base: Path) -> Self:
        """Return the source with its archives and its vocabulary below `base`."""
        tokenizer = None if self.tokenizer is None else self.tokenizer.rooted(base)
        return replace(self, path=files.rooted(base, self.path), tokenizer=tokenizer)

    def records(self) -> list[Record]:
        """Return the samples in order, of the archives by name.

        Raises
        ------
        PlanError
            If there are no archives or samples, or none has what the model takes or its label.
        """
        found = [self._record(*each) for each in self._samples]
        if not found:
            raise PlanError(
                f"the archives of {self.path!r} are empty",
                fix="correct data.path",
                page="no-samples",
            )
        if all(_FAULT in record.source.rpartition("#")[2][:1] for record in found):
            present = Counter(name for _, _, _, members in self._samples for name in members)
            raise PlanError(
                f"no sample of {self.path!r} has a file {', '.join(self.input_members)}; they have "
                f"{', '.join(present)}",
                fix="name what the model takes with data.input_members; texts need data.tokenizer",
                page="missing-column",
            )
        labels = self._labels
        return [
            replace(record, index=index, label=labels[index] if labels else -1)
            for index, record in enumerate(found)
        ]

    def notes(self) -> tuple[str, ...]:
        """Return which archives could not be read to their end."""
        return tuple(
            f"{file.name} {index.problem}" for file, index in self._indices if index.problem
        )

    def load(self, record: Record) -> Tensor:
        """Return one sample's image, array or tokens, as the model takes it."""
        name, content = self._content(record.source)
        if _kind(name) in TEXTS:
            return torch.tensor(self._tokens(content).ids, dtype=torch.int64)
        return self.input_of(content if _kind(name) in IMAGES else _array(name, content))

    def load_mask(self, record: Record) -> Tensor | None:
        """Return one sample's mask, resized and cropped as its image."""
        if record.mask is None:
            return None
        name, content = self._content(record.mask)
        return self.mask_of(content if _kind(name) in IMAGES else _array(name, content))

    def tokens(self, record: Record) -> tuple[str, ...] | None:
        """Return the words of a text."""
        name, content = self._content(record.source)
        return self._tokens(content).words if _kind(name) in TEXTS else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Those that the run file gives."""
        return self.classes

    def code_files(self) -> tuple[Path, ...]:
        """Return the files of the tokenizer, which decide what is read."""
        return () if self.tokenizer is None else self.tokenizer.files()

    def _record(
        self, file: Found, index: TarIndex, key: str, members: dict[str, list[int]]
    ) -> Record:
        name = next((name for name in self.input_members if self._is_usable(name, members)), None)
        if name is None:
            source = f"{file.name}#{_FAULT}no file of its own is usable; it has {_listed(members)}"
        else:
            source = _place(file, index, name, members[name])
        mask = members.get(self.mask_member or "")
        length = None
        if name is not None and _kind(name) in TEXTS:
            length = self._length(index.texts[str(members[name][0])])
        return Record(
            0,
            f"{file.name.removesuffix('.tar')}/{key}",
            source,
            mask=_place(file, index, self.mask_member or "", mask) if mask else None,
            length=length,
            digest=file.digest,
        )

    def _is_usable(self, name: str, members: dict[str, list[int]]) -> bool:
        return name in members and (self.tokenizer is not None or _kind(name) not in TEXTS)

    def _content(self, source: str) -> tuple[str, bytes]:
        """Return the extension of a member, and what it holds."""
        archive, _, place = source.rpartition("#")
        if place.startswith(_FAULT):
            raise ValueError(place.removeprefix(_FAULT))
        name, _, span = place.rpartition("=")
        start, size = map(int, span.split("+"))
        return name, self._ranges.read(files.joined(self._root, archive), start, size)

    def _tokens(self, content: bytes) -> Tokens:
        text = content.decode("utf-8")
        if self.tokenizer is None:
            raise ValueError("there is no tokenizer for texts")
        found = self.tokenizer(text, self.max_length) if text.strip() else None
        if found is None or not found.ids:
            raise ValueError("the text has nothing that makes a token")
        return found

    def _length(self, text: str) -> int | None:
        try:
            return len(self._tokens(text.encode()).ids)
        except PlanError:
            # also a ValueError: of the tokenizer, not of this text
            raise
        except ValueError:
            return None

    @property
    def _labels(self) -> list[int] | None:
        wanted = self._label_member
        texts = [
            index.texts[str(members[wanted][0])] if wanted in members else None
            for _, index, _, members in self._samples
        ]
        if all(text is None for text in texts):
            if self.label_member is None and self.label_field is None:
                return None
            raise PlanError(
                f"no sample of {self.path!r} has a file {wanted}",
                fix="correct data.label_member, or leave it out",
                page="missing-column",
            )
        values = (
            texts
            if self.label_field is None
            else [_field(text, self.label_field) for text in texts]
        )
        if self.label_field is not None and all(value is None for value in values):
            raise PlanError(
                f"no sample of {self.path!r} has the field {self.label_field!r} in its {wanted}; "
                f"the first says {next(filter(None, texts))[:100]}",
                fix="correct data.label_field",
                page="missing-column",
            )
        return labelling.indices(values, self.classes, f"{self.path!r}, {wanted}")

    @property
    def _label_member(self) -> str:
        return self.label_member or (_LABEL if self.label_field is None else _JSON)

    @functools.cached_property
    def _samples(self) -> list[tuple[Found, TarIndex, str, dict[str, list[int]]]]:
        """Archive, its index, the key, and positions of members by extension."""
        return [
            (file, index, key, members)
            for file, index in self._indices
            for key, members in _grouped(index)
        ]

    @functools.cached_property
    def _indices(self) -> list[tuple[Found, TarIndex]]:
        found = patterns.matching(self.path, SUFFIXES)
        kept = [self._label_member]
        if self.tokenizer is not None:
            kept += [name for name in self.input_members if _kind(name) in TEXTS]
        with ThreadPoolExecutor(min(_N_OPENED, len(found))) as pool:
            read = pool.map(functools.partial(tar_index.index_of, kept=kept), found)
            return list(zip(found, read, strict=True))

    @functools.cached_property
    def _root(self) -> str:
        return patterns.root_of(self.path, SUFFIXES)

    @functools.cached_property
    def _ranges(self) -> Ranges:
        return Ranges()


def _grouped(index: TarIndex) -> Iterator[tuple[str, dict[str, list[int]]]]:
    """Yield the samples in the order of their first members, which need not be neighbours."""
    found: dict[str, dict[str, list[int]]] = {}
    for position, name in enumerate(index.names):
        folder, _, last = name.rpartition("/")
        stem, point, _ = last.partition(".")
        if point and stem:
            key = f"{folder}/{stem}" if folder else stem
            found.setdefault(key, {}).setdefault(tar_index.extension(name), []).append(position)
    yield from found.items()


def _place(file: Found, index: TarIndex, name: str, positions: list[int]) -> str:
    if len(positions) > 1:
        return f"{file.name}#{_FAULT}it has {len(positions)} files {name}"
    start, size = index.starts[positions[0]], index.sizes[positions[0]]
    return f"{file.name}#{name}={start}+{size}"


def _listed(members: dict[str, list[int]]) -> str:
    return ", ".join(members).replace("#", "")


def _kind(name: str) -> str:
    return name.rpartition(".")[2]


def _field(text: str | None, path: str) -> Any:
    try:
        value = json.loads(text or "null")
    except ValueError:
        # of this sample alone, whose label is then not known
        return None
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _array(name: str, content: bytes) -> Any:
    """Return the numbers in a file; what would have to be executed is refused."""
    if _kind(name) == "npy":
        return np.load(io.BytesIO(content), allow_pickle=False)
    try:
        if content[:1] == _PICKLE[:1] and content[:2] != _PICKLE:
            # torch would warn of it, then refuse it
            raise pickle.UnpicklingError
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # its own message is a page, and advises to run the file
        raise ValueError(
            f"the file {name} holds more than tensors, or none, and pickles are not run"
        ) from error
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"got {type(value).__name__} in the file {name}, expected a tensor")
    return (value.float() if value.dtype == torch.bfloat16 else value).detach().numpy()
