"""Times and sizes in words."""

import pytest

from pipeline import quantities


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.85, "850 ms"), (12.34, "12.3 s"), (250, "4 min 10 s"), (7260, "2 h 01 min")],
)
def test_durations_are_said_in_words(value: float, said: str) -> None:
    assert quantities.duration(value) == said


@pytest.mark.parametrize(
    ("value", "said"), [(999, "999 B"), (12_340, "12.3 kB"), (4.2e9, "4.2 GB"), (7e13, "70.0 TB")]
)
def test_sizes_are_said_with_units(value: float, said: str) -> None:
    assert quantities.size(value) == said
