"""Functions that a run file names are those that the file holds now."""

import os
import sys
from pathlib import Path

import pytest

from pipeline import user_code


def test_a_file_edited_twice_within_a_second_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "model.py"
    for value in (1, 2, 3):
        path.write_text(f"def load():\n    return {value}\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert user_code.find("model.py:load", tmp_path)() == value
