"""The fixture that drills tell what they saw, and the table of it after `pytest -m drill`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.pipeline import drills

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def drill(request: pytest.FixtureRequest) -> drills.Seen:
    """Return what a drill tells its observations; they travel with the test's report."""
    marks = request.node.iter_markers("drill")
    seen = drills.Seen(tuple(number for mark in marks for number in mark.args), [])
    # the list is the one that grows: reports are made when the test is over
    request.node.user_properties.append(("drill", [seen.numbers, seen.facts]))
    return seen


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = list(item.iter_markers("drill"))
        if marks and "drill" not in getattr(item, "fixturenames", ()):
            raise pytest.UsageError(f"{item.nodeid} is a drill and tells nothing: take `drill`")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table where drills were asked for."""
    if "drill" in config.option.markexpr:
        terminalreporter.section("drills: fault, expected, observed")
        for line in drills.table(_reports(terminalreporter)):
            terminalreporter.write_line(line)


def _reports(terminalreporter: Any) -> Iterator[tuple[str, str, list[Any]]]:
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            name = report.nodeid.rpartition("/")[2]
            for key, told in getattr(report, "user_properties", ()):
                if key == "drill":
                    yield outcome, name, told
