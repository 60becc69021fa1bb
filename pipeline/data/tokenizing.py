"""Text cut into tokens, and their numbers: by words and a vocabulary, or by Hugging Face's."""

from __future__ import annotations

import functools
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import fsspec
from pydantic import ConfigDict, Discriminator, Tag

from pipeline.errors import PlanError

WORDS = r"\w+(?:['\u2019]\w+)*|[^\w\s]"
"""Words, with the apostrophes inside them, and every other visible character by itself."""


class Tokens(NamedTuple):
    """What a text is made of."""

    ids: tuple[int, ...]
    """Rows of the model's embedding."""
    words: tuple[str, ...]
    """What each of them stands for, for people: the characters as they were written, between ``<``
    and ``>`` where the model sees only that it does not know them."""
    n_unknown: int
    """How many of them the model does not know."""


class Tokenizer(ABC):
    """Cuts texts; its fields are what ``data.tokenizer`` in a run file can say.

    What it has read stays behind when it is pickled, as with sources.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    @abstractmethod
    def __call__(self, text: str, max_length: int | None = None) -> Tokens:
        """Return the tokens of a text, the first `max_length` of them."""

    @abstractmethod
    def rooted(self, base: Path) -> Self:
        """Return the tokenizer with its relative paths starting at `base`."""

    @abstractmethod
    def files(self) -> tuple[Path, ...]:
        """Return the local files that decide what tokens are."""

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of the plan should know."""
        return ()

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Words(Tokenizer):
    """Words by a pattern, numbered by a list of them."""

    vocabulary: str
    """Text file with a token a line, the first of which has the number 0; relative to the run
    file."""
    lowercase: bool = True
    """Whether words are looked up in lower case."""
    unknown: str = "<unk>"
    """The line of the vocabulary that stands for words that have none."""
    pattern: str = WORDS
    """Regular expression of a token; what it does not match, as space, is left out."""

    def __post_init__(self) -> None:
        """Refuse what is no pattern."""
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"got pattern {self.pattern!r}, expected a regular expression: {error}"
            ) from error

    def __call__(self, text: str, max_length: int | None = None) -> Tokens:
        """Return the words; those that the vocabulary lacks have the number of `unknown`."""
        written = self.split(text)[:max_length]
        sought = [word.lower() for word in written] if self.lowercase else written
        ids = tuple(self._ids.get(word, self._unknown) for word in sought)
        lacks = [key not in self._ids for key in sought]
        shown = [
            _written(word, word, is_unknown=is_unknown)
            for word, is_unknown in zip(written, lacks, strict=True)
        ]
        return Tokens(ids, tuple(shown), sum(lacks))

    def split(self, text: str) -> list[str]:
        """Return the words of a text as they are written; no vocabulary is asked for."""
        # patterns such as \w* find nothing between all words
        return [match.group() for match in re.finditer(self.pattern, text) if match.group()]

    def rooted(self, base: Path) -> Self:
        """Return it with the vocabulary below `base`."""
        return replace(self, vocabulary=below(base, self.vocabulary))

    def files(self) -> tuple[Path, ...]:
        """Return the vocabulary."""
        return local(self.vocabulary)

    def notes(self) -> tuple[str, ...]:
        """Return that no word can be some lines of the vocabulary, if so."""
        sought = (word for word in self._ids if self.lowercase and word != self.unknown)
        # what is no word anyway, such as <PAD>, is not meant to be found in a text
        lost = [word for word in sought if word != word.lower() and self.split(word) == [word]]
        if not lost:
            return ()
        return (
            f"{len(lost)} of {len(self._ids)} lines of the vocabulary are not in lower case, such "
            f"as {lost[0]!r}, and words are: data.tokenizer.lowercase: false takes them as written",
        )

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        try:
            # tokens may hold other characters at which Python ends lines, such as U+2028
            with fsspec.open(self.vocabulary, "r", encoding="utf-8-sig", newline="\n") as file:
                lines = file.read().removesuffix("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(
                f"cannot read the vocabulary {self.vocabulary!r}: {error}",
                fix="correct data.tokenizer.vocabulary; it is relative to the run file",
                page="tokenizer",
            ) from error
        lines = [line.removesuffix("\r") for line in lines]
        ids = {word: number for number, word in enumerate(lines)}
        if len(ids) < len(lines):
            twice = next(word for number, word in enumerate(lines) if ids[word] != number)
            raise PlanError(
                f"the vocabulary {self.vocabulary!r} holds {twice!r} twice",
                fix="write every token on one line only: its number is that of the line",
                page="tokenizer",
            )
        return ids

    @property
    def _unknown(self) -> int:
        if self.unknown not in self._ids:
            raise PlanError(
                f"the vocabulary {self.vocabulary!r} has no line {self.unknown!r} for words that "
                "it lacks",
                fix="name the line that stands for them with data.tokenizer.unknown",
                page="tokenizer",
            )
        return self._ids[self.unknown]


@dataclass(frozen=True)
class Pretrained(Tokenizer):
    """A tokenizer of Hugging Face, from its ``tokenizer.json``; the extra ``[text]``."""

    file: str | None = None
    """The ``tokenizer.json``, relative to the run file."""
    name: str | None = None
    """In place of a file: what the model hub or its cache on disk knows it by."""
    revision: str = "main"
    """Of `name`: a branch, or better a commit, which nobody changes."""
    special_tokens: bool = True
    """Whether what the model expects around a text, such as ``[CLS]`` and ``[SEP]``, is put
    there."""

    def __post_init__(self) -> None:
        """Refuse two places, and none."""
        if (self.file is None) == (self.name is None):
            raise ValueError(f"got file {self.file!r} and name {self.name!r}, expected one of them")

    def __call__(self, text: str, max_length: int | None = None) -> Tokens:
        """Return the pieces; shortened ones keep the special tokens at their ends."""
        made = self._cut_to(max_length)
        try:
            encoding = made.encode(text, add_special_tokens=self.special_tokens)
        except Exception as error:
            # the library raises nothing more special
            raise ValueError(f"the tokenizer refuses the text: {error}") from error
        unknown: str | None = getattr(made.model, "unk_token", None)
        words = [
            _written(text[start:stop].strip(), token, is_unknown=token == unknown)
            for token, (start, stop) in zip(encoding.tokens, encoding.offsets, strict=True)
        ]
        return Tokens(tuple(encoding.ids), tuple(words), encoding.tokens.count(unknown))

    def rooted(self, base: Path) -> Self:
        """Return it with its file below `base`."""
        return self if self.file is None else replace(self, file=below(base, self.file))

    def files(self) -> tuple[Path, ...]:
        """Return the file; none where it has a name."""
        return () if self.file is None else local(self.file)

    def _cut_to(self, max_length: int | None) -> Any:
        """Return the library's object for a length; without one, the file's own limit holds."""
        if max_length not in self._made:
            made = self._read()
            # batches hold one length
            made.no_padding()
            if max_length is not None:
                self._check(made, max_length)
                made.enable_truncation(max_length)
            self._made[max_length] = made
        return self._made[max_length]

    def _check(self, made: Any, max_length: int) -> None:
        n_special = made.num_special_tokens_to_add(False) if self.special_tokens else 0
        if max_length <= n_special:
            raise PlanError(
                f"got max_length {max_length}, expected more than the {n_special} special tokens "
                "that are put around a text",
                fix="raise data.max_length, or say data.tokenizer.special_tokens: false",
                page="tokenizer",
            )

    @functools.cached_property
    def _made(self) -> dict[int | None, Any]:
        return {}

    def _read(self) -> Any:
        try:
            from tokenizers import Tokenizer as Pieces
        except ImportError as error:
            raise PlanError(
                "a tokenizer with a file or a name needs the package tokenizers, which is not "
                "installed",
                fix="pip install 'xpipe-xai[text]', or name a vocabulary of words",
                page="missing-extra",
            ) from error
        try:
            if self.name is not None:
                return Pieces.from_pretrained(self.name, revision=self.revision)
            with fsspec.open(self.file, "rb") as file:
                return Pieces.from_buffer(file.read())
        except Exception as error:
            # the library raises bare Exceptions, of its own parts and of the network's
            place = "file" if self.file is not None else "name"
            raise PlanError(
                f"cannot read the tokenizer {self.file or self.name!r}: {error}",
                fix=f"correct data.tokenizer.{place}",
                page="tokenizer",
            ) from error


def _written(written: str, token: str, *, is_unknown: bool) -> str:
    # special tokens stand for no characters
    if not written:
        return token
    return f"<{written}>" if is_unknown else written


def _kind_of(value: Any) -> str:
    is_words = isinstance(value, Words) or (isinstance(value, dict) and "vocabulary" in value)
    return "<words>" if is_words else "<pretrained>"


# chosen by its fields, so that what is wrong with one kind is not told in terms of the other
AnyTokenizer = Annotated[
    Annotated[Words, Tag("<words>")] | Annotated[Pretrained, Tag("<pretrained>")],
    Discriminator(_kind_of),
]


def below(base: Path, path: str) -> str:
    """Return a path as it is found from a folder; URLs stay as they are."""
    return path if "://" in path else str(base / path)


def local(path: str) -> tuple[Path, ...]:
    """Return a path as one of the local disk, if it is."""
    return () if "://" in path else (Path(path),)
