"""An object store on loopback: moto's S3, in a thread of the process that tests run in.

Processes that a test starts reach it, too: the address and keys are in the environment.

    from tests.pipeline.s3_server import s3, s3_server  # noqa: F401

    def test_something(s3: str) -> None:  # noqa: F811
        fsspec.open(f"{s3}/file", "wb")
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    # else botocore asks the network who it is
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


def environment(endpoint: str) -> dict[str, str]:
    """Return the variables by which clients find the server, or a proxy before it."""
    return {**KEYS, "AWS_ENDPOINT_URL": endpoint}


def forget_clients() -> None:
    """Make the next client anew: fsspec keeps those of an address."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Return the endpoint of a server that lasts as long as the tests of this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of an empty bucket, which is gone afterwards; the environment knows it."""
    import s3fs

    for name, value in environment(s3_server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    forget_clients()
    # a client of its own: what tests read through shall not remember these listings
    bucket = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    bucket.mkdir("bucket")
    yield "s3://bucket"
    bucket.rm("bucket", recursive=True)
    forget_clients()
