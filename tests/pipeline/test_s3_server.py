from __future__ import annotations

import fsspec
import pytest

from pipeline.data import files
from tests.pipeline.s3_server import s3, s3_server  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("turn", range(2))
def test_every_test_gets_an_empty_bucket(s3: str, turn: int) -> None:  # noqa: F811
    assert files.listing(s3) == []
    with fsspec.open(f"{s3}/a/{turn}.txt", "wb") as file:
        file.write(b"abc")
    files.forget(s3)
    (found,) = files.listing(s3, is_deep=True)
    assert (found.name, found.size) == (f"a/{turn}.txt", 3)
    # what S3 calls the tag of a small object is its MD5
    assert found.tag == "900150983cd24fb0d6963f7d28e17f72"
    assert files.read(f"{s3}/a/{turn}.txt") == b"abc"
