"""Times and sizes in words."""

import pytest

from pipeline import quantities


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.85, "850 ms"),
        (0.9996, "1.0 s"),
        (12.34, "12.3 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (250, "4 min 10 s"),
        (3599.7, "1 h 00 min"),
        (7199, "1 h 59 min"),
        (7260, "2 h 01 min"),
    ],
)
def test_durations_are_said_in_words(value: float, said: str) -> None:
    assert quantities.duration(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (999, "999 B"),
        (12_340, "12.3 kB"),
        (999_960, "1.0 MB"),
        (4.2e9, "4.2 GB"),
        (7e13, "70.0 TB"),
    ],
)
def test_sizes_are_said_with_units(value: float, said: str) -> None:
    assert quantities.size(value) == said
