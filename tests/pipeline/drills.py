"""Drills: what a test that provokes a fault saw of it, and the table that `make drills` prints.

A drill is a test with ``@pytest.mark.drill(number)``, which takes the fixture of that name and
tells it what it observed: exit codes, counts and messages as they were, not as they should be. What
should be is said in ``docs/drills.md``, whose rows have the same numbers.
"""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.pipeline.tiny_run import ROOT, committed, events

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "drills.md"
WIDTH = 110


@dataclass(frozen=True)
class Fault:
    """A row of the page."""

    number: int
    what: str
    expected: str
    exit_code: str
    then: str


@dataclass
class Seen:
    """What one test saw of the faults that it drills."""

    numbers: tuple[int, ...]
    facts: list[str]

    def __call__(self, *facts: object) -> None:
        """Note facts: numbers, words and messages as they were observed."""
        self.facts.extend(" ".join(str(fact).split()) for fact in facts)

    def run(self, path: Path, exit_code: int) -> None:
        """Note what became of the run in a folder, from its events, and how its command ended."""
        shards = Counter(committed(path))
        twice = sum(n > 1 for n in shards.values())
        self(f"exit {exit_code}", f"{len(shards)} shards committed, {twice} of them twice")
        kinds = Counter(event["event"] for event in events(path))
        for kind in ("worker_lost", "shard_failed", "shard_quarantined", "shard_skipped"):
            if kinds[kind]:
                self(f"{kinds[kind]} {kind.replace('_', ' ')}")
        for event in events(path, "run_finished"):
            if event["message"]:
                self(event["message"])


def faults() -> dict[int, Fault]:
    """Return the rows of the page by number."""
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = [Fault(int(number), *map(str.strip, rest.split("|"))) for number, rest in rows]
    return {fault.number: fault for fault in found}


def table(reports: Iterable[tuple[str, str, list[Any]]]) -> Iterator[str]:
    """Yield the lines of the table: per fault what is expected, and what each test observed.

    Parameters
    ----------
    reports
        Outcome and name of each test, and what it handed on: numbers and facts.
    """
    by_number: dict[int, list[tuple[str, str, list[str]]]] = {}
    for outcome, name, (numbers, facts) in reports:
        for number in numbers:
            by_number.setdefault(number, []).append((outcome, name, facts))
    for number, fault in sorted(faults().items()):
        yield f"{number:2}  {fault.what}"
        yield from _entry("expected", f"{fault.expected} Exit code: {fault.exit_code}.")
        for outcome, name, facts in by_number.get(number, [("not run", "", [])]):
            yield from _entry("observed", "; ".join(facts) if facts else "nothing")
            yield from _entry("", f"[{outcome}] {name}")


def _entry(title: str, text: str) -> list[str]:
    return textwrap.wrap(
        text.replace("`", ""),
        WIDTH,
        initial_indent=f"    {title:9} ",
        subsequent_indent=" " * 14,
        break_long_words=False,
    )
