from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
import torch

from pipeline.folds import Fold

if TYPE_CHECKING:
    from collections.abc import Iterable


def total(batches: Iterable[int]) -> int:
    return sum(batches)


def test_a_fold_sees_what_is_pushed_in_order() -> None:
    fold = Fold(list[int])
    for batch in range(5):
        fold.push(batch)
    assert fold.finish() == [0, 1, 2, 3, 4]


def test_an_empty_shard_folds_to_the_neutral_element() -> None:
    assert Fold(total).finish() == 0


def test_a_batch_is_used_before_push_returns_and_folds_take_turns() -> None:
    seen: list[tuple[str, int]] = []

    def watch(name: str, batches: Iterable[int]) -> None:
        seen.extend((name, batch) for batch in batches)

    folds = [Fold(lambda batches, name=name: watch(name, batches)) for name in "ab"]
    for batch in range(3):
        for fold in folds:
            fold.push(batch)
            assert seen[-1][1] == batch
    for fold in folds:
        fold.finish()
    assert seen == [(name, batch) for batch in range(3) for name in "ab"]


def test_what_a_fold_raises_arrives_where_the_batch_was_pushed() -> None:
    def refuse(batches: Iterable[int]) -> None:
        for batch in batches:
            if batch == 1:
                raise ValueError("not this one")

    fold = Fold(refuse)
    fold.push(0)
    with pytest.raises(ValueError, match="not this one"):
        fold.push(1)
    with pytest.raises(ValueError, match="not this one"):
        fold.finish()
    fold.abandon()


def test_a_fold_may_stop_early() -> None:
    def first(batches: Iterable[int]) -> int:
        return next(iter(batches))

    fold = Fold(first)
    for batch in range(7, 10):
        fold.push(batch)
    assert fold.finish() == 7


def test_an_abandoned_fold_ends_without_its_thread() -> None:
    before = threading.active_count()
    cleaned: list[bool] = []

    def careful(batches: Iterable[int]) -> int:
        try:
            return sum(batches)
        finally:
            cleaned.append(True)

    fold = Fold(careful)
    fold.push(1)
    fold.abandon()
    assert cleaned == [True]
    assert threading.active_count() == before


def test_a_fold_computes_with_the_torch_threads_of_its_caller() -> None:
    def threads(batches: Iterable[int]) -> int:
        return torch.get_num_threads()

    assert Fold(threads).finish() == torch.get_num_threads()
