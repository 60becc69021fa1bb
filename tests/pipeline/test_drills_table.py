"""Every fault of docs/drills.md is drilled, and every drill has a row there."""

from __future__ import annotations

import re
from pathlib import Path

from tests.pipeline import drills


def drilled() -> set[int]:
    found: set[int] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        found |= {
            int(n) for n in re.findall(r"^@pytest.mark.drill\((\d+)\)", path.read_text(), re.M)
        }
    return found


def test_twenty_faults_are_drilled() -> None:
    faults = drills.faults()
    assert sorted(faults) == list(range(1, 21))
    assert drilled() == set(faults)
    for fault in faults.values():
        assert all((fault.what, fault.expected, fault.exit_code, fault.then))


def test_the_table_says_what_was_seen_and_what_was_not_run() -> None:
    seen = drills.Seen((7,), [])
    seen("exit 1", "error: no\n space left")
    lines = list(drills.table([("passed", "test_x", [seen.numbers, seen.facts])]))
    text = "\n".join(lines)
    assert max(map(len, lines)) <= drills.WIDTH
    assert text.count("[not run]") == 19
    assert "observed  exit 1; error: no space left\n              [passed] test_x" in text
    before, after = text.split("observed  exit 1")
    assert " 7  the disk is full" in before
    assert "the disk is full" not in after
