"""Images below a prefix of an S3 bucket."""

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from components.data.lock import Annotation, Role, SourceObject
from components.data.sources.digests import ETAG
from components.data.sources.selection import Selection, annotate
from components.errors import UserError
from components.s3 import ATTEMPTS, READ_SECONDS, S3Address, error_code, is_intact, s3_client, s3_errors_explained

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_connecting = threading.Lock()
_log = logging.getLogger(__name__)
BACKOFF_SECONDS = 0.2
"""Pause after the first body that was cut short; each further one is twice as long."""
PAGE = 1000
"""Objects asked for in one listing request."""
CHANGED = "take a new snapshot with `selfsight snapshot`"
_GONE = {"NoSuchKey", "404", "PreconditionFailed", "412"}


class S3Source:
    """Every image below `s3://bucket/prefix`; names are the keys without the prefix.

    Credentials come from the usual chain of the AWS libraries. The ETag identifies a version of an object: reading
    asks for exactly the locked one.

    Args:
        uri: `s3://bucket` or `s3://bucket/prefix`.
        role: `train` or `eval`.
        selection: which objects are images.
        endpoint: URL of an S3-compatible server; None for AWS.
    """

    def __init__(self, uri: str, role: Role, selection: Selection, endpoint: str | None) -> None:
        self._address = S3Address.parse(uri)
        self.uri = uri
        self.role = role
        self._selection = selection
        self._endpoint = endpoint
        self._client: S3Client | None = None
        # decided here: what reads may be another process
        self._attempts, self._pause, self._read_seconds = ATTEMPTS, BACKOFF_SECONDS, READ_SECONDS

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its size and ETag, sorted by name."""
        with self._explained(self.uri):
            found = self._selection.of(self._keys(), self.uri)
        for name, (size, etag) in found:
            yield SourceObject(self.role, name, size, f"{ETAG}{etag}")

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an object, see `Source.read`; a body cut short or damaged is asked for again."""
        request = {"Bucket": self._address.bucket, "Key": self._address.key(name)}
        if digest is not None:
            request["IfMatch"] = f'"{digest.removeprefix(ETAG)}"'
        what = f"{self.uri.rstrip('/')}/{name}"
        for attempt in range(self._attempts):
            with self._explained(what):
                answer = self._connected().get_object(**request)  # type: ignore[arg-type]
            if digest is not None and _etag(answer) not in ("", digest.removeprefix(ETAG)):
                raise UserError(f"{what}: gone or changed since the snapshot", remedy=CHANGED)
            data = _whole_body(answer["Body"], what)
            if data is not None and is_intact(data, answer):
                return data
            time.sleep(self._pause * 2**attempt)
        message = f"{what}: {self._attempts} answers were cut short, or not what their ETag says"
        raise UserError(message, remedy="try again later; nothing of it was kept")

    def annotation(self, name: str) -> Annotation:
        """The last part of the prefix or key before the file is the label."""
        return annotate(name)

    def truth(self) -> None:
        """Nothing is known about objects but their keys."""

    def _keys(self) -> Iterator[tuple[str, tuple[int, str]]]:
        pages = self._connected().get_paginator("list_objects_v2")
        bucket, prefix = self._address.bucket, self._address.prefix
        for page in pages.paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": PAGE}):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(prefix)
                if name and not name.endswith("/"):
                    yield name, (entry["Size"], _etag(entry))

    def _connected(self) -> "S3Client":
        with _connecting:  # eight threads would make eight clients, half a second of work each
            if self._client is None:
                self._client = s3_client(self._endpoint, attempts=self._attempts, read_seconds=self._read_seconds)
            return self._client

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """As `s3_errors_explained`; an object that is gone or another one is told as a change since the snapshot."""
        from botocore.exceptions import ClientError

        with s3_errors_explained(what, self._address.bucket, self._endpoint):
            try:
                yield
            except ClientError as error:
                if error_code(error) not in _GONE:
                    raise
                raise UserError(f"{what}: gone or changed since the snapshot", remedy=CHANGED) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}


def _etag(answer: Mapping[str, Any]) -> str:
    """The ETag in an answer, empty if there is none; not every server heeds the one that a request asks for."""
    return str(answer.get("ETag", "")).strip('"')


def _whole_body(body: "StreamingBody", what: str) -> bytes | None:
    """The body of an answer, or None if the connection broke before its end."""
    from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

    try:
        return body.read()
    except (HTTPClientError, IncompleteReadError, FlexibleChecksumError, OSError) as error:
        _log.warning("%s: cut short (%s)", what, type(error).__name__)
        return None
