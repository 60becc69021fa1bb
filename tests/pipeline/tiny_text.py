"""A run over token sequences of different lengths, which takes a moment: a bag of embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from pipeline.config import load

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.config import RunConfig

CODE = '''
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence


class Bag(nn.Module):
    """Neighbours are looked at together, so that order matters."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(12, 4)
        self.fc = nn.Linear(4, 2)

    def forward(self, tokens, mask=None):
        values = self.embedding(tokens)
        both = (values + values.roll(1, 1)).relu()
        if mask is not None:
            both = both * mask[..., None]
        return self.fc(both.sum(1))


class Pairs(Bag):
    """Takes three tokens or more."""

    def forward(self, tokens):
        return super().forward(tokens.unfold(1, 3, 1)[..., 0])


class Packing(Bag):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, tokens):
        lengths = torch.full((len(tokens),), tokens.shape[1])
        packed = pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True)
        return self.fc(self.lstm(packed)[1][0][-1])


def model():
    return Bag().eval()


def pairs():
    return Pairs().eval()


def packing():
    return Packing().eval()


class Texts:
    def __init__(self, n, kind):
        generator = torch.Generator().manual_seed(1)
        self.lengths = [(4, 2, 4, 5, 5, 4, 2)[index % 7] for index in range(n)]
        self.targets = [index % 2 for index in range(n)]
        self.tokens = [torch.randint(1, 12, (k,), generator=generator) for k in self.lengths]
        self.kind = kind

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        tokens = self.tokens[index]
        if self.kind == "bad" and index == 2:
            tokens = tokens[:-1]
        if self.kind == "unknown" and index in (1, 3):
            tokens = tokens + 12
        if self.kind == "dict":
            return {"tokens": tokens, "mask": torch.arange(len(tokens)) > 0}, self.targets[index]
        return tokens, self.targets[index]


def texts(n=9, kind=""):
    return Texts(n, kind)
'''

EXPLAINERS: dict[str, Any] = {
    "occlusion": {"baseline": 3},
    "saliency": {},
    "tree": {"method": "agglomerative_contextual_decomposition", "score": "occlusion"},
    "shapley": {"method": "shapley_value_sampling", "n_samples": 40, "estimator": "permutation"},
}


def text_config(folder: Path, out: str = "out", **changes: Any) -> RunConfig:
    """Return the configuration of a run; `changes` are sections, or fields of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny_text.py").write_text(CODE)
    sections: dict[str, Any] = {
        "name": "tiny_text",
        "model": {"source": "python", "name": "tiny_text.py:model"},
        "data": {"source": "python", "function": "tiny_text.py:texts"},
        "explainers": EXPLAINERS,
        "output": {"path": str(folder / out), "shard_size": 5},
        "engine": {"kind": "serial", "batch_size": 2},
    }
    for name, value in changes.items():
        is_section = name in sections and name not in ("explainers", "name")
        sections[name] = {**sections[name], **value} if is_section else value
    path = folder / f"{out}.yaml"
    path.write_text(yaml.safe_dump(sections))
    return load(path)
