"""Letters for tables: contestants that share one cannot be told apart."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def letters(names: Sequence[str], different: Collection[frozenset[str]]) -> dict[str, str]:
    """Return the letters of each name: two share one exactly if they are not known to differ.

    Start with one group of all; each pair that differs splits the groups which hold both, and
    groups that are part of others go.

    Parameters
    ----------
    names
        The best first: it gets the first letter.
    different
        Pairs that differ significantly.

    References
    ----------
    H.-P. Piepho, "An algorithm for a letter-based representation of all-pairwise comparisons",
    J. Comput. Graph. Stat., 2004, doi:10.1198/1061860043515.
    """
    groups: list[frozenset[str]] = [frozenset(names)]
    place = {name: position for position, name in enumerate(names)}
    for pair in sorted(different, key=lambda pair: sorted(place[name] for name in pair)):
        split = [group - {name} for group in groups if pair <= group for name in sorted(pair)]
        groups = [group for group in groups if not pair <= group]
        groups += list(dict.fromkeys(split))
        groups = [group for group in groups if not any(group < other for other in groups)]
    groups = list(dict.fromkeys(group for group in groups if group))
    groups.sort(key=lambda group: sorted(place[name] for name in group))
    marks = [_mark(number) for number in range(len(groups))]
    return {
        name: "".join(mark for mark, group in zip(marks, groups, strict=True) if name in group)
        for name in names
    }


def _mark(number: int) -> str:
    """Return a, b, ..., z, a1, b1, ..."""
    turn, place = divmod(number, len(string.ascii_lowercase))
    return string.ascii_lowercase[place] + (str(turn) if turn else "")
