from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import DataConfig
from pipeline.data import Record, select_records, selection_notes
from pipeline.data.sampling import quotas
from pipeline.errors import PlanError

COUNTS = st.dictionaries(st.integers(0, 20), st.integers(1, 50), min_size=1, max_size=8)


def records(*counts: int) -> list[Record]:
    """So many of each class, in turn as far as they go."""
    rounds = [(turn, label) for label, n in enumerate(counts) for turn in range(n)]
    labels = [label for _, label in sorted(rounds)]
    return [Record(index, f"s{index}", str(index), label) for index, label in enumerate(labels)]


def config(**fields: Any) -> DataConfig:
    return DataConfig(source="any", **fields)


def drawn(given: list[Record], seed: int = 0, **fields: Any) -> dict[int, int]:
    chosen = select_records(config(**fields), given, seed)
    return dict(sorted(Counter(record.label for record in chosen).items()))


@pytest.mark.parametrize(
    ("counts", "n", "expected"),
    [
        # 10 of 100: shares 5, 3, 2
        ((50, 30, 20), 10, (5, 3, 2)),
        # Hamilton's own case: 2.5, 1.5 and 1 give 2, 1, 1, and the one that is left goes to the
        # lower index of the two largest fractions
        ((5, 3, 2), 5, (3, 1, 1)),
        # 0.7, 0.2, 0.1: all to the largest fraction
        ((7, 2, 1), 1, (1, 0, 0)),
        ((7, 2, 1), 10, (7, 2, 1)),
        ((7, 2, 1), 99, (7, 2, 1)),
    ],
)
def test_classes_are_as_frequent_as_in_the_data(
    counts: tuple[int, ...], n: int, expected: tuple[int, ...]
) -> None:
    found = drawn(records(*counts), sample=n, stratify="proportional")
    assert found == {label: count for label, count in enumerate(expected) if count}


@pytest.mark.parametrize(
    ("counts", "n", "expected"),
    [
        ((50, 30, 20), 9, (3, 3, 3)),
        # 10 / 3: one class gets one more, that of the lowest index
        ((50, 30, 20), 10, (4, 3, 3)),
        ((50, 30, 2), 30, (10, 10, 2)),
        ((5, 5), 10, (5, 5)),
        # no class has enough, and nothing is drawn twice
        ((3, 1), 100, (3, 1)),
    ],
)
def test_classes_are_equally_frequent(
    counts: tuple[int, ...], n: int, expected: tuple[int, ...]
) -> None:
    found = drawn(records(*counts), sample=n, stratify="equal")
    assert found == dict(enumerate(expected))


@settings(max_examples=30, deadline=None)
@given(counts=COUNTS, share=st.floats(0.01, 1))
def test_no_class_is_a_sample_away_from_its_share(counts: dict[int, int], share: float) -> None:
    total = sum(counts.values())
    n = max(int(share * total), 1)
    found = quotas(counts, n, is_equal=False)
    assert sum(found.values()) == n
    # what makes it a quota method: each gets its share rounded down or up
    assert all(abs(found[label] - n * counts[label] / total) < 1 for label in counts)


@settings(max_examples=30, deadline=None)
@given(counts=COUNTS, n=st.integers(1, 200))
def test_equal_classes_differ_by_one_unless_one_is_used_up(counts: dict[int, int], n: int) -> None:
    found = quotas(counts, n, is_equal=True)
    largest = max(found.values())
    assert all(found[label] in {counts[label], largest, largest - 1} for label in counts)
    assert sum(found.values()) <= n


def test_a_draw_is_that_of_its_seed_in_order_and_fair() -> None:
    given = records(40, 20, 10)
    fields = {"sample": 7, "stratify": "proportional"}
    once = select_records(config(**fields), given, 3)
    assert once == select_records(config(**fields), given, 3)
    assert [record.index for record in once] == list(range(7))
    positions = [int(record.source) for record in once]
    assert positions == sorted(positions)
    # every sample of a class is drawn alike: 4 of 40 in each of 400 draws, 40 times each on the
    # average, with a standard deviation of 6
    seen = Counter(
        record.source
        for seed in range(400)
        for record in select_records(config(**fields), given, seed)
        if record.label == 0
    )
    assert sum(seen.values()) == 1600
    assert len(seen) == 40
    assert max(abs(count - 40) for count in seen.values()) < 5 * 6


def test_without_strata_the_draw_is_what_it_was() -> None:
    given = records(10, 10)
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(5)).tolist()
    found = select_records(config(sample=6), given, 5)
    assert [int(record.source) for record in found] == sorted(shuffled[:6])


def test_strata_are_those_of_what_the_limit_leaves() -> None:
    assert drawn(records(9, 9, 9), limit=12, sample=6, stratify="equal") == {0: 2, 1: 2, 2: 2}
    given = [*records(4), *[Record(9, "late", "9", 1)]]
    assert drawn(given, limit=4, sample=2, stratify="equal") == {0: 2}


def test_classes_that_have_too_few_are_told() -> None:
    given = records(50, 30, 2)
    (note,) = selection_notes(config(sample=30, stratify="equal"), given)
    assert "draws 22 samples, not 30" in note
    assert note.endswith("class 2 has 2 of 10")
    (note,) = selection_notes(config(sample=80, stratify="equal"), records(*[1] * 8))
    assert "class 4 has 1 of 10 and 3 more" in note
    assert selection_notes(config(sample=6, stratify="equal"), given) == ()
    assert selection_notes(config(sample=30, stratify="proportional"), given) == ()
    assert selection_notes(config(limit=3), given) == ()


def test_strata_without_labels_or_a_sample_are_refused() -> None:
    with pytest.raises(PlanError, match="2 of 3 have no label, the first is 'b'"):
        drawn(
            [Record(0, "a", "a", 1), Record(1, "b", "b"), Record(2, "c", "c")],
            sample=2,
            stratify="proportional",
        )
    with pytest.raises(PlanError, match=r"data.sample draws nothing"):
        drawn(records(3, 3), stratify="equal")
