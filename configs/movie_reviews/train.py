"""Train the demo's LSTM: ``python train.py``, when prepare.py has fetched the sentences.

Writes ``vocabulary.txt`` and ``movie_reviews.safetensors`` beside itself. Sentences that are held
out are never seen here but for the final accuracy, which goes into the metadata of the weights
file beside that of the class that most of them have; what is written in capitals below, and
dropout, was chosen on parts of the others (``--choose``). Half a minute on one core; one thread,
so that the bits depend on the seed and the torch build alone.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch.nn import functional

from pipeline.data.text import Text
from pipeline.data.text_tables import read_columns
from pipeline.data.tokenizing import Words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

FOLDER = Path(__file__).parent
TRAIN, HELD_OUT = "train", "held_out"
CLASSES = ("negative", "positive")
UNKNOWN = "<unk>"
SEED = 0
LEAST_COUNT = 3
"""How often a word has to come in the sentences of training to be in the vocabulary."""
EPOCHS = 20
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
"""Peak of a one-cycle schedule for AdamW."""
WEIGHT_DECAY = 0.1
FORGOTTEN = 0.1
"""Part of the words that the model is not told in training: it has to have seen what it does not
know, and methods that leave words out put the same token in their place."""

Samples = list[tuple["Tensor", int]]


def vocabulary(texts: Iterable[str]) -> list[str]:
    """Return the words that come often enough, the most frequent first, behind the unknown one."""
    words = Words("")
    counts = Counter(word.lower() for text in texts for word in words.split(text))
    kept = sorted(word for word, count in counts.items() if count >= LEAST_COUNT)
    return [UNKNOWN, *sorted(kept, key=lambda word: -counts[word])]


def sentences(split: str) -> Text:
    """Return the sentences of a split, as the run file reads those that are held out."""
    return Text(
        str(FOLDER / "sentences.tsv"),
        Words(str(FOLDER / "vocabulary.txt")),
        label_column="label",
        classes=CLASSES,
        where={"split": split},
    )


def split(found: Samples, generator: torch.Generator) -> tuple[Samples, Samples]:
    """Return nine tenths of samples, and one, at random."""
    order = torch.randperm(len(found), generator=generator).tolist()
    n_judged = len(found) // 10
    return [found[row] for row in order[n_judged:]], [found[row] for row in order[:n_judged]]


def samples(source: Text) -> Samples:
    """Return the token numbers and the label of every sentence."""
    return [(source.load(record), record.label) for record in source.records()]


def batches(found: Samples, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of one length each, in random order: tokens and labels."""
    by_length: dict[int, list[int]] = {}
    for row in torch.randperm(len(found), generator=generator).tolist():
        by_length.setdefault(len(found[row][0]), []).append(row)
    cut = [
        rows[start : start + BATCH_SIZE]
        for rows in by_length.values()
        for start in range(0, len(rows), BATCH_SIZE)
    ]
    for place in torch.randperm(len(cut), generator=generator).tolist():
        chosen = [found[row] for row in cut[place]]
        yield torch.stack([words for words, _ in chosen]), torch.tensor([y for _, y in chosen])


def train(model: nn.Module, found: Samples, generator: torch.Generator) -> Iterator[int]:
    """Fit the model with AdamW and a one-cycle learning rate; yield the epochs that are done."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    n_steps = EPOCHS * len(list(batches(found, torch.Generator().manual_seed(SEED))))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=n_steps)
    for epoch in range(EPOCHS):
        model.train()
        total = 0.0
        for words, labels in batches(found, generator):
            is_forgotten = torch.rand(words.shape, generator=generator) < FORGOTTEN
            loss = functional.cross_entropy(model(words.masked_fill(is_forgotten, 0)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(words)
        logging.info("epoch %2d of %d: loss %.4f", epoch + 1, EPOCHS, total / len(found))
        yield epoch


@torch.no_grad()
def accuracy(model: nn.Module, found: Samples) -> float:
    """Return the part of the sentences that the model in eval mode gives their label."""
    model.eval()
    generator = torch.Generator().manual_seed(SEED)
    hits = [(model(x).argmax(1) == labels).sum() for x, labels in batches(found, generator)]
    return float(torch.stack(hits).sum()) / len(found)


def majority(found: Samples) -> float:
    """Return the part of the sentences that have the most frequent label."""
    (most,) = Counter(label for _, label in found).most_common(1)
    return most[1] / len(found)


def main() -> None:
    """Train, judge on the held-out sentences and write the vocabulary and the weights."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    parser = argparse.ArgumentParser(description="Train the demo's LSTM.")
    parser.add_argument(
        "--choose",
        action="store_true",
        help="judge every epoch on a tenth of the training sentences, and write no weights",
    )
    is_choosing = parser.parse_args().choose
    from model import load  # beside this file, which is the script's folder

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    rows = read_columns(str(FOLDER / "sentences.tsv"), ("text", "split"))
    seen = [text for text, split in zip(rows["text"], rows["split"], strict=True) if split == TRAIN]
    (FOLDER / "vocabulary.txt").write_text("\n".join(vocabulary(seen)) + "\n", encoding="utf-8")
    found, judged = samples(sentences(TRAIN)), samples(sentences(HELD_OUT))
    if is_choosing:
        found, judged = split(found, generator)
    model = load()
    for _ in train(model, found, generator):
        if is_choosing:
            logging.info("%.4f of a tenth", accuracy(model, judged))
    if is_choosing:
        return
    facts = {
        "held_out_accuracy": f"{accuracy(model, judged):.4f}",
        "held_out_majority": f"{majority(judged):.4f}",
        "train_accuracy": f"{accuracy(model, found):.4f}",
        "seed": str(SEED),
        "torch": torch.__version__,
    }
    save_file(model.state_dict(), FOLDER / "movie_reviews.safetensors", metadata=facts)
    logging.info(
        "%s of %d held-out sentences right; the most frequent class alone gives %s",
        facts["held_out_accuracy"],
        len(judged),
        facts["held_out_majority"],
    )


if __name__ == "__main__":
    main()
