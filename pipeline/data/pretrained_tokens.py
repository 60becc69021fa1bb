"""Texts as the inputs of a language model, by the tokenizer that came with it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pipeline.errors import PlanError

if TYPE_CHECKING:
    from torch import Tensor

_IDS = "input_ids"


@dataclass(frozen=True)
class PretrainedTokens:
    """A tokenizer of transformers: what its model takes, by argument name."""

    name: str
    """A folder, or what the model hub or its cache on disk knows it by."""
    max_length: int | None
    """Tokens of a text that are taken at most, special ones included."""
    may_download: bool
    """Whether the hub is asked for what the cache lacks."""

    def inputs(self, text: str | None) -> dict[str, Tensor]:
        """Return the token numbers and what goes with them, each ``(tokens,)``.

        The attention mask is a boolean: batches hold one length, so it is true everywhere, and
        models that ask for one still get it.

        Raises
        ------
        ValueError
            If there is no text.
        """
        found = self._encoded(text)
        return {
            name: torch.tensor(values, dtype=torch.bool if "mask" in name else torch.int64)
            for name, values in found.items()
        }

    def length(self, text: str | None) -> int | None:
        """Return the number of tokens; None of what is no text."""
        try:
            return len(self._encoded(text)[_IDS])
        except PlanError:
            # also a ValueError: of the tokenizer, not of this text
            raise
        except (TypeError, ValueError):
            return None

    def words(self, text: str | None) -> tuple[str, ...]:
        """Return what each token stands for, as it was written if the tokenizer can tell.

        Between ``<`` and ``>`` stands what the model cannot tell from other unknown words.
        """
        ids = self._encoded(text)[_IDS]
        pieces: list[str] = self._made.convert_ids_to_tokens(ids)
        if not self._made.is_fast:
            return tuple(pieces)
        spans = self._encode(text, return_offsets_mapping=True)["offset_mapping"]
        unknown = self._made.unk_token_id
        return tuple(
            self._word(str(text)[start:stop].strip(), piece, is_unknown=number == unknown)
            for number, piece, (start, stop) in zip(ids, pieces, spans, strict=True)
        )

    def files(self) -> tuple[Path, ...]:
        """Return the files of a folder, which decide what tokens are."""
        folder = Path(self.name)
        return tuple(sorted(each for each in folder.glob("*") if each.is_file()))

    @staticmethod
    def _word(written: str, piece: str, *, is_unknown: bool) -> str:
        # special tokens stand for no characters
        if not written:
            return piece
        return f"<{written}>" if is_unknown else written

    def _encoded(self, text: str | None) -> dict[str, list[int]]:
        if not isinstance(text, str) or not text.strip():
            raise ValueError("there is no text that makes a token")
        found = self._encode(text)
        if not found[_IDS]:
            raise ValueError("there is no text that makes a token")
        return {name: list(values) for name, values in found.items()}

    def _encode(self, text: str | None, **options: Any) -> Any:
        return self._made(
            text, truncation=self.max_length is not None, max_length=self.max_length, **options
        )

    @functools.cached_property
    def _made(self) -> Any:
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise PlanError(
                "data.tokenizer needs the package transformers, which is not installed",
                fix="pip install 'xpipe-xai[huggingface]'",
                page="missing-extra",
            ) from error
        try:
            return AutoTokenizer.from_pretrained(
                self.name, local_files_only=not self.may_download, trust_remote_code=False
            )
        except Exception as error:
            # the library raises whatever its parts and the network do
            raise PlanError(
                f"cannot load the tokenizer {self.name!r}: {str(error).partition(chr(10))[0]}",
                fix="correct data.tokenizer: a folder relative to the run file, or a name of the "
                "model hub that is in its cache, or may be fetched with `download: true`",
                page="missing-download",
            ) from error
