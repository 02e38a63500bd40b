"""A real server of the S3 protocol on loopback."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def s3_server() -> Iterator[str]:
    """Runs a server for the length of the block and gives its URL; its buckets go with it.

    All servers of one process keep their buckets in one place, so a server empties it before it stops.
    """
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    try:
        yield url
    finally:
        urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=30).close()
        server.stop()


@contextmanager
def filling_client(url: str) -> Iterator[Any]:
    """A client that fills buckets of the server, with an account of its own."""
    secrets = {"aws_access_key_id": "filling", "aws_secret_access_key": "filling", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=url, **secrets)
    try:
        yield client
    finally:
        client.close()


def own_account(monkeypatch: pytest.MonkeyPatch, folder: Path, *, secret: str = "not-to-be-shown") -> None:
    """Credentials of the test only, and no other source of them.

    Args:
        monkeypatch: sets the environment.
        folder: of the test; it holds no file of credentials.
        secret: the secret key.
    """
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(folder / "none"))
