"""Images below a prefix of an S3 bucket."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from components.data.lock import Role, SourceObject
from components.data.sources.protocol import Annotation
from components.data.sources.selection import Selection, annotate
from components.errors import UserError

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_connecting = threading.Lock()
_log = logging.getLogger(__name__)
ATTEMPTS = 5
"""Tries of one request, or of one body cut short, before the stage gives up."""
BACKOFF_SECONDS = 0.2
CONNECT_SECONDS = 5
READ_SECONDS = 30
CONNECTIONS = 16
PAGE = 1000
"""Objects asked for in one listing request."""
CHANGED = "take a new snapshot with `selfsight snapshot`"
_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403", "401"}
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
        parts = urlsplit(uri)
        if "@" in parts.netloc:
            remedy = "leave credentials out of the URI; the usual AWS variables and files are read"
            raise UserError(f"s3://…@{parts.netloc.rpartition('@')[2]}: an S3 URI with credentials", remedy=remedy)
        if not parts.netloc:
            raise UserError(f"{uri}: names no bucket", remedy="write s3://BUCKET/PREFIX")
        self.uri = uri
        self.role = role
        self._selection = selection
        self._endpoint = endpoint
        self._bucket = parts.netloc
        # not parts.path: a key may hold '?' and '#'
        prefix = uri.removeprefix("s3://").partition("/")[2].rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client: S3Client | None = None

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its size and ETag, sorted by name."""
        with self._explained(self.uri):
            found = self._selection.of(self._keys(), self.uri)
        for name, (size, etag) in found:
            yield SourceObject(self.role, name, size, f"etag:{etag}")

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an object, see `Source.read`; a body cut short is asked for again."""
        request = {"Bucket": self._bucket, "Key": self._prefix + name}
        if digest is not None:
            request["IfMatch"] = f'"{digest.removeprefix("etag:")}"'
        what = f"{self.uri.rstrip('/')}/{name}"
        for attempt in range(ATTEMPTS):
            with self._explained(what):
                answer = self._connected().get_object(**request)  # type: ignore[arg-type]
            data = _whole_body(answer["Body"], what)
            if data is not None:
                return data
            time.sleep(BACKOFF_SECONDS * 2**attempt)
        message = f"{what}: the server cut the answer short {ATTEMPTS} times"
        raise UserError(message, remedy="try again later; nothing of it was kept")

    def annotation(self, name: str) -> Annotation:
        """The last part of the prefix or key before the file is the label."""
        return annotate(name)

    def truth(self) -> None:
        """Nothing is known about objects but their keys."""

    def _keys(self) -> Iterator[tuple[str, tuple[int, str]]]:
        pages = self._connected().get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix, PaginationConfig={"PageSize": PAGE}):
            for entry in page.get("Contents", []):
                name = entry["Key"].removeprefix(self._prefix)
                if name and not name.endswith("/"):
                    yield name, (entry["Size"], entry["ETag"].strip('"'))

    def _connected(self) -> "S3Client":
        with _connecting:  # eight threads would make eight clients, half a second of work each
            if self._client is None:
                self._client = _client(self._endpoint)
            return self._client

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turns what S3 may answer into one line with a remedy."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            raise self._client_error(error, what) from None
        except (BotoCoreError, ValueError) as error:
            raise self._connection_error(error, what) from None

    def _client_error(self, error: Any, what: str) -> UserError:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in ("NoSuchBucket", "InvalidBucketName"):
            return UserError(f"s3://{self._bucket}: no such bucket", remedy="give an existing one, or set the endpoint")
        if code in _REFUSED:
            remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY or AWS_PROFILE, and the right to read the bucket"
            return UserError(f"{what}: the credentials are refused ({code})", remedy=remedy)
        if code in _GONE:
            return UserError(f"{what}: gone or changed since the snapshot", remedy=CHANGED)
        return UserError(f"{what}: S3 answers {code}", remedy="try again later, or check the endpoint")

    def _connection_error(self, error: Exception, what: str) -> UserError:
        kind = type(error).__name__
        if kind in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "TokenRetrievalError"):
            remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            return UserError(f"{what}: no usable AWS credentials ({kind})", remedy=remedy)
        if kind == "ParamValidationError":
            return UserError(f"s3://{self._bucket}: not the name of a bucket", remedy="write s3://BUCKET/PREFIX")
        where = _without_credentials(self._endpoint) if self._endpoint else "AWS"
        remedy = "check SELFSIGHT_S3_ENDPOINT and the network"
        return UserError(f"{what}: {where} cannot be reached ({kind})", remedy=remedy)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}


def _client(endpoint: str | None) -> "S3Client":
    import boto3
    from botocore.config import Config

    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=CONNECTIONS,
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    # a session of its own: clients must not be made from the shared default one in several threads
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)


def _whole_body(body: "StreamingBody", what: str) -> bytes | None:
    """The body of an answer, or None if the connection broke before its end."""
    from botocore.exceptions import HTTPClientError, IncompleteReadError

    try:
        return body.read()
    except (HTTPClientError, IncompleteReadError, OSError) as error:
        _log.warning("%s: cut short (%s)", what, type(error).__name__)
        return None


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
