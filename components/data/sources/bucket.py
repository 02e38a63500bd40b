"""Buckets of S3: what is in them, their objects as they were listed, and the images below a prefix."""

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeVar

from components.data.lock import Annotation, Role, SourceObject
from components.data.sources.digests import CHUNK, ETAG
from components.data.sources.kinds import found_instead
from components.data.sources.patterns import MAGIC
from components.data.sources.protocol import CHANGED
from components.data.sources.selection import Selection, Tally, annotate
from components.errors import UserError
from components.s3 import ATTEMPTS, READ_SECONDS, S3Address, error_code, md5_of, s3_client, s3_errors_explained

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

T = TypeVar("T")
_connecting = threading.Lock()
_log = logging.getLogger(__name__)
BACKOFF_SECONDS = 0.2
"""Pause after the first body that was cut short; each further one is twice as long."""
PAGE = 1000
"""Objects asked for in one listing request."""
_GONE = {"NoSuchKey", "404", "PreconditionFailed", "412"}


class Listed(NamedTuple):
    """An object in the listing of a bucket."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Of this version of it, without quotation marks."""


class Bucket:
    """The objects of a bucket; picklable, and used by several threads.

    Credentials come from the usual chain of the AWS libraries. The ETag identifies a version of an object.

    Args:
        name: of the bucket.
        endpoint: URL of an S3-compatible server; None for AWS.
    """

    def __init__(self, name: str, endpoint: str | None) -> None:
        self.name = name
        self._endpoint = endpoint
        self._client: S3Client | None = None
        # decided here: what reads may be another process
        self._attempts, self._pause, self._read_seconds = ATTEMPTS, BACKOFF_SECONDS, READ_SECONDS

    def objects(self, prefix: str, what: str) -> Iterator[Listed]:
        """Yields the objects whose keys begin with `prefix`, sorted by the bytes of their keys; no folders.

        Args:
            prefix: of keys.
            what: the source, for messages.

        Raises:
            UserError: if the bucket cannot be listed.
        """
        with self._explained(what):
            pages = self._connected().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.name, Prefix=prefix, PaginationConfig={"PageSize": PAGE}):
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):
                        yield Listed(entry["Key"], entry["Size"], _etag(entry))

    def read(self, key: str, etag: str | None, what: str) -> bytes:
        """Returns the bytes of an object; a body cut short or damaged is asked for again.

        Args:
            key: of the object.
            etag: of the version that is wanted; None for whatever is there now.
            what: the object, for messages.

        Raises:
            UserError: if it is gone or changed, or cannot be had whole.
        """
        return self._got(key, etag, what, None, b"".join)

    def download(self, one: Listed, file: BinaryIO, what: str) -> None:
        """Writes the bytes of an object into a file, from its beginning, in constant memory.

        Raises:
            UserError: as `read`.
        """

        def write(parts: Iterator[bytes]) -> None:
            file.seek(0)
            left = one.size
            for part in parts:
                left -= len(part)
                if left < 0:
                    break
                file.write(part)
            if left:
                raise _SpoiltError("of another length than listed")

        self._got(one.key, one.etag, what, CHUNK, write)

    def _got(self, key: str, etag: str | None, what: str, most: int | None, take: Callable[[Iterator[bytes]], T]) -> T:
        """What `take` makes of the parts of a whole body, each of `most` bytes at most; it may have to begin again."""
        request = {"Bucket": self.name, "Key": key}
        if etag is not None:
            request["IfMatch"] = f'"{etag}"'
        for attempt in range(self._attempts):
            with self._explained(what):
                answer = self._connected().get_object(**request)  # type: ignore[arg-type]
            if etag is not None and _etag(answer) not in ("", etag):
                raise UserError(f"{what}: gone or changed since the snapshot", remedy=CHANGED)
            try:
                return take(_parts(answer, most))
            except _SpoiltError as error:
                _log.warning("%s: %s", what, error)
            time.sleep(self._pause * 2**attempt)
        message = f"{what}: {self._attempts} answers were cut short, or not what their ETag says"
        raise UserError(message, remedy="try again later; nothing of it was kept")

    def _connected(self) -> "S3Client":
        with _connecting:  # eight threads would make eight clients, half a second of work each
            if self._client is None:
                self._client = s3_client(self._endpoint, attempts=self._attempts, read_seconds=self._read_seconds)
            return self._client

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """As `s3_errors_explained`; an object that is gone or another one is told as a change since the snapshot."""
        from botocore.exceptions import ClientError

        with s3_errors_explained(what, self.name, self._endpoint):
            try:
                yield
            except ClientError as error:
                if error_code(error) not in _GONE:
                    raise
                raise UserError(f"{what}: gone or changed since the snapshot", remedy=CHANGED) from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_client": None}


class S3Source:
    """Every image below `s3://bucket/prefix`; names are the keys without the prefix.

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
        self._bucket = Bucket(self._address.bucket, endpoint)

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its size and ETag, sorted by name."""
        tally = Tally(self._selection, self.uri)
        others: dict[str, str] = {}
        found = tally.taken(self._named(others))
        if not found:
            self._refuse(others)
        tally.close()
        for name, one in found:
            yield SourceObject(self.role, name, one.size, f"{ETAG}{one.etag}")

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an object, see `Source.read`; reading asks for exactly the locked version."""
        etag = None if digest is None else digest.removeprefix(ETAG)
        return self._bucket.read(self._address.key(name), etag, f"{self.uri.rstrip('/')}/{name}")

    def annotation(self, name: str) -> Annotation:
        """The last part of the prefix or key before the file is the label."""
        return annotate(name)

    def truth(self) -> None:
        """Nothing is known about objects but their keys."""

    def _named(self, others: dict[str, str]) -> Iterator[tuple[str, Listed]]:
        """The objects by name; one name of each extension is put into `others`, one in a folder if there is one."""
        for one in self._bucket.objects(self._address.prefix, self.uri):
            name = one.key.removeprefix(self._address.prefix)
            _, dot, extension = name.rpartition("/")[2].rpartition(".")
            if dot and ("/" in name or extension not in others):
                others[extension] = name
            yield name, one

    def _refuse(self, others: Mapping[str, str]) -> None:
        """Tells what is below the prefix in the place of images, if it is something that holds images."""
        where = self.uri.rstrip("/")
        instead = found_instead(others.values())
        if instead is not None:
            what, pattern = instead
            remedy = f"give them as a pattern: '{where}/{pattern}'"
            raise UserError(f"{self.uri}: holds {what} and no image", remedy=remedy)
        if not others and MAGIC.search(self._address.prefix):
            remedy = f"let the pattern end in the extension of its files: '{where}.tar'"
            raise UserError(f"{self.uri}: nothing is below a prefix of this name", remedy=remedy)


class _SpoiltError(Exception):
    """A body that is not whole, or not what was stored."""


def _parts(answer: Any, most: int | None) -> Iterator[bytes]:
    """The parts of a body; at the end it is compared with its MD5, where that is known."""
    from botocore.exceptions import FlexibleChecksumError, HTTPClientError, IncompleteReadError

    expected, found = md5_of(answer), hashlib.md5(usedforsecurity=False)
    try:
        while part := answer["Body"].read(most):
            if expected is not None:
                found.update(part)
            yield part
    except (HTTPClientError, IncompleteReadError, FlexibleChecksumError, OSError) as error:
        raise _SpoiltError(f"cut short ({type(error).__name__})") from None
    if expected is not None and found.hexdigest() != expected:
        raise _SpoiltError("not what its ETag says")


def _etag(answer: Mapping[str, Any]) -> str:
    """The ETag in an answer, empty if there is none; not every server heeds the one that a request asks for."""
    return str(answer.get("ETag", "")).strip('"')
