"""Thread counts hold inside the block, in torch and in BLAS; processors are those of a process."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info

from pipeline import threads
from pipeline.threads import computing_threads


def _blas_threads() -> set[int]:
    np.ones((2, 2)) @ np.ones((2, 2))
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_thread_counts_hold_inside_and_are_put_back() -> None:
    before = torch.get_num_threads(), _blas_threads()
    with computing_threads(1):
        assert (torch.get_num_threads(), _blas_threads()) == (1, {1})
        with computing_threads(2):
            assert torch.get_num_threads() == 2
        assert (torch.get_num_threads(), _blas_threads()) == (1, {1})
    assert (torch.get_num_threads(), _blas_threads()) == before


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 8), ("350000 100000", 3), ("50000 100000", 1), ("1600000 100000", 8), ("", 8)],
)
def test_processors_are_those_that_may_be_used(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    monkeypatch.setattr(threads, "_CPU_MAX", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: set(range(8)), raising=False)
    assert threads.processors() == expected


def test_a_system_without_control_groups_has_the_processors_of_its_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_CPU_MAX", tmp_path / "nothing")
    monkeypatch.setattr(os, "sched_getaffinity", lambda who: {1, 5}, raising=False)
    assert threads.processors() == 2
