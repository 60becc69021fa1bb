"""A small LSTM that reads a sentence word by word and says whether it is praise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 32
"""Numbers that a word is looked up as."""
HIDDEN = 64
"""Units of the recurrence."""


class Sentiment(nn.Module):
    """Embedding, LSTM (Hochreiter and Schmidhuber 1997), linear layer on its last state.

    Batches hold sentences of one length, so that there is nothing to pad or to pack: `xpipe` makes
    them so, and training does.
    """

    def __init__(self, n_words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_words, WIDTH)
        self.dropout = nn.Dropout(0.6)
        self.lstm = nn.LSTM(WIDTH, HIDDEN, batch_first=True)
        self.linear = nn.Linear(HIDDEN, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Return two logits, negative and positive, of word numbers ``(batch, words)``."""
        looked_up = self.dropout(self.embedding(words))  # (batch, words, WIDTH)
        states, _ = self.lstm(looked_up)  # (batch, words, HIDDEN)
        logits: Tensor = self.linear(self.dropout(states[:, -1]))
        return logits


def load() -> Sentiment:
    """Return the model for the vocabulary beside this file, without weights.

    The run file's ``weights`` names those.
    """
    vocabulary = Path(__file__).parent / "vocabulary.txt"
    return Sentiment(len(vocabulary.read_text(encoding="utf-8").splitlines()))
