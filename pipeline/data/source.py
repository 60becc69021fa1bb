"""Where samples come from: each source is a frozen dataclass of parameters in a file of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

from explainers.registry import Registry

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from torch import Tensor

    from pipeline.inputs import Inputs


@dataclass(frozen=True, slots=True)
class Record:
    """One sample, before it is read."""

    index: int
    """Position in the manifest."""
    sample_id: str
    """What a person calls it; unique within a run."""
    source: str
    """Where its source finds it: a path below the source's folder, or a position."""
    label: int = -1
    """Class index; -1 where it is not known."""
    mask: str | None = None
    """Where its source finds the mask of what matters."""
    length: int | None = None
    """Number of tokens, where inputs differ in length."""
    digest: str | None = None
    """What tells the content from another, see `digests`; None where nothing is known of it."""


class Source(ABC):
    """Samples in a fixed order; picklable, and cheap to make.

    Subclasses are frozen dataclasses: their fields are what `data:` in a run file can say.
    What they read and keep (``functools.cached_property``) stays behind when they are pickled.
    """

    name: ClassVar[str] = ""
    decode_threads: ClassVar[int] = 1
    """Threads that are of use to `load`; 1 if no two may call it at once."""

    @abstractmethod
    def records(self) -> list[Record]:
        """Return all samples in order, numbered from 0, without decoding them if possible."""

    @abstractmethod
    def load(self, record: Record) -> Inputs:
        """Return the model's input for one sample; raise anything if it is bad.

        A tensor of numbers, or of tokens (integers of 32 or 64 bits), or a dict of such tensors
        for a model of several inputs: its keys are the names of the model's arguments.
        """

    def content(self, record: Record) -> bytes:
        """Return the bytes that a sample is made of, where it is a file or a part of one.

        A source that has them gives those that it reads in `load` to `digests.check_content`. Of
        others, the values that `load` gives stand for the sample.
        """
        raise NotImplementedError(f"samples of {type(self).__name__} are no files")

    @property
    def is_remote(self) -> bool:
        """Whether `load` waits for a network rather than for a processor."""
        return False

    @property
    def has_content(self) -> bool:
        """Whether there is a `content`."""
        return type(self).content is not Source.content

    def load_mask(self, record: Record) -> Tensor | None:
        """Return the mask that belongs to the input, bool ``(height, width)``."""
        return None

    def display(self, inputs: Tensor) -> Tensor:
        """Return inputs in [0, 1] for people to look at: normalisation undone."""
        return inputs.clamp(0, 1)

    def tokens(self, record: Record) -> tuple[str, ...] | None:
        """Return what each token of a sample stands for, for people; None where there are none."""
        return None

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the plan should know; raise PlanError where no run can mean it.

        Asked after `records`.
        """
        return ()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes, by index."""
        return None

    def rooted(self, base: Path) -> Self:
        """Return the source with its relative paths starting at `base`."""
        return self

    def code_files(self) -> tuple[Path, ...]:
        """Return the files of user code that decide what is read; for the digest."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


sources: Registry[type[Source]] = Registry("data source", ["pipeline.data"], "xpipe.sources")


def register(name: str) -> Any:
    """Return a decorator that enters a source class under `name` and names it so."""

    def enter(source: type[Source]) -> type[Source]:
        source.name = name
        return sources.register(name)(source)

    return enter
