"""Thread counts hold inside the block, in torch and in BLAS, and are put back."""

import numpy as np
import torch
from threadpoolctl import threadpool_info

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
