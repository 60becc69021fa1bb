"""Verdicts as JUnit XML, which CI systems show beside the results of tests."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipeline.gates.verdict import Verdict

_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold, even escaped."""


def write(path: Path, suite: str, verdicts: Sequence[Verdict], refused: str = "") -> None:
    """Write the verdicts as one test suite; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_xml(suite, verdicts, refused), encoding="utf-8")


def to_xml(suite: str, verdicts: Sequence[Verdict], refused: str = "") -> str:
    """Return the verdicts as XML: a test case each, failed where the gate is broken.

    JUnit has no warnings: a gate that is held with one has passed, and says so in its output.

    Parameters
    ----------
    suite
        What was judged.
    verdicts
        What became of the gates.
    refused
        Why nothing could be judged, if so: a test case with an error.
    """
    counts = {
        "tests": str(len(verdicts) + bool(refused)),
        "failures": str(sum(verdict.is_broken for verdict in verdicts)),
        "errors": str(int(bool(refused))),
        "time": "0",
    }
    # schemas allow the number of skipped cases at suites alone
    root = ElementTree.Element("testsuites", {"name": "xpipe gates", **counts})
    n_skipped = sum(verdict.status == "skipped" for verdict in verdicts)
    of_suite = {"name": _clean(suite), **counts, "skipped": str(n_skipped)}
    cases = ElementTree.SubElement(root, "testsuite", of_suite)
    for verdict in verdicts:
        _case(cases, verdict)
    if refused:
        _error(cases, _clean(refused))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _case(suite: ElementTree.Element, verdict: Verdict) -> None:
    # readers group cases by the part of the class name before its last dot
    named = {
        "classname": f"gates.{verdict.kind}.{verdict.metric}",
        "name": f"{verdict.name}: {verdict.gate}",
        "time": "0",
    }
    case = ElementTree.SubElement(
        suite, "testcase", {key: _clean(value) for key, value in named.items()}
    )
    message = _clean(verdict.message)
    if verdict.status == "failed":
        failure = ElementTree.SubElement(case, "failure", {"message": message, "type": "gate"})
        failure.text = message
    elif verdict.status == "skipped":
        ElementTree.SubElement(case, "skipped", {"message": message})
    else:
        prefix = "warning: " if verdict.status == "warned" else ""
        ElementTree.SubElement(case, "system-out").text = f"{prefix}{message}"


def _error(suite: ElementTree.Element, message: str) -> None:
    named = {"classname": "gates.refused", "name": "nothing was judged", "time": "0"}
    case = ElementTree.SubElement(suite, "testcase", named)
    first = message.partition("\n")[0]
    error = ElementTree.SubElement(case, "error", {"message": first, "type": "refused"})
    error.text = message


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
