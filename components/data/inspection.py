"""What ingest finds out about one object: its bytes are read, verified, decoded and hashed."""

import errno
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from components.data.decoding import DecodingError, decode
from components.data.ingest_cache import KeptShards, Place, Verdict
from components.data.lock import Role, SourceObject
from components.data.phash import grey_square, phashes
from components.data.sources import Annotation, Source, is_remote, object_uri, prepare
from components.data.sources.digests import ETAG, SHA256
from components.data.worker_process import NOTHING, Began
from components.errors import UserError

TOO_MANY_BYTES = "too-many-bytes"
TOO_MUCH_MEMORY = "too-much-memory"
DECODED_SIDE = 64
"""Pixels of the shorter side that scaled decoding keeps: the whole file is read through, only pixels are saved."""
FETCHES = 8
"""Objects of a chunk that are fetched over the network at a time."""


class Wanted(NamedTuple):
    """An object to inspect."""

    source: SourceObject
    id: str | None = None
    """SHA-256 of its bytes, where they are among the kept shards."""
    place: Place | None = None


class _Decoded(NamedTuple):
    """An image that decodes, before it is hashed."""

    id: str
    format: str
    width: int
    height: int
    square: bytes
    data: bytes


class Outcome(NamedTuple):
    """What a worker finds out about an object; what it was given is not sent back."""

    id: str
    """SHA-256 of the bytes, hexadecimal."""
    verdict: Verdict
    data: bytes | None = None
    """The bytes of an image that decodes; None if it is quarantined."""


@dataclass(frozen=True)
class Inspection:
    """What became of one object."""

    source: SourceObject
    annotation: Annotation
    id: str
    """SHA-256 of the bytes, hexadecimal."""
    verdict: Verdict
    data: bytes | None = None
    """The bytes of an image that decodes; None if it is quarantined, or its bytes are kept."""
    place: Place | None = None
    """Where the bytes of an image are kept that was not inspected again."""

    @property
    def ok(self) -> bool:
        """Whether it decodes; else it is quarantined."""
        return self.verdict.reason is None


@dataclass(frozen=True)
class Inspector:
    """Inspects objects of a snapshot; picklable.

    Args:
        sources: where the objects of each role are.
        max_pixels: width × height above which an image is quarantined.
        max_bytes: size of a file above which it is quarantined without being read.
        min_side: shorter side below which an image is quarantined, pixels.
        max_aspect: longer side over shorter side above which an image is quarantined.
        kept: shards of earlier runs.
    """

    sources: Mapping[Role, Source]
    max_pixels: int
    max_bytes: int
    min_side: int
    max_aspect: float
    kept: KeptShards

    def inspect_all(self, wanted: Sequence[Wanted], began: Began) -> list[Outcome]:
        """Inspects objects in order; all their bytes are in memory at once.

        Args:
            wanted: the objects.
            began: told which of them is read from a file and decoded, see `worker_process`: reading a frame of a video
                decodes it.

        Raises:
            UserError: if an object is gone or is not what the lock says.
        """
        pool = ThreadPoolExecutor(FETCHES, "fetch")
        found: list[Outcome | _Decoded] = []
        try:
            coming = {place: pool.submit(self.read, one) for place, one in enumerate(wanted) if self._is_remote(one)}
            for place, one in enumerate(wanted):
                fetched = coming.pop(place, None)
                data = self._kept(one) if fetched is None else fetched.result()
                is_read = fetched is not None or data is not None
                if not is_read:
                    self._prepare(one.source)
                began(place)
                found.append(self._inspect(one.source, data) if is_read else self._read_and_inspect(one.source))
                began(NOTHING)
        finally:
            pool.shutdown(cancel_futures=True)
        return _hashed(found)

    def read(self, one: Wanted) -> bytes | None:
        """The bytes of an object: from the kept shards, else from its source; None if they are too many.

        Raises:
            UserError: if the object is gone or is not what the lock says.
        """
        data = self._kept(one)
        return self._from_source(one.source) if data is None else data

    def refuse(self, one: Wanted, reason: str) -> Outcome:
        """The quarantine of an object that is better not decoded again, nor read where reading is decoding.

        An object of a bucket is read once more, for the id.

        Raises:
            UserError: if the object is gone or is not what the lock says.
        """
        read = one.id is None and one.source.digest.startswith(ETAG)
        refused = _quarantined(one.source, self.read(one) if read else None, reason)
        return refused if one.id is None else refused._replace(id=one.id)

    def inspection(self, one: SourceObject, found: Outcome) -> Inspection:
        """What became of an object, with what is known about it."""
        return Inspection(one, self.annotation(one), *found)

    def key(self, one: SourceObject, code: str) -> str | None:
        """What an object is remembered by, None if it is not.

        A SHA-256 says what the bytes are. An ETag says it of an object of a bucket. What another digest says (of a
        recipe, whose files are made when they are read) also depends on the code.

        Args:
            one: of the lock.
            code: identifies the code.
        """
        if self._is_too_large(one):
            return None
        if one.digest.startswith(SHA256):
            return one.digest
        uri = object_uri(self.sources[one.role].uri, one.name)
        return f"{uri} {one.digest}" + ("" if one.digest.startswith(ETAG) else f" {code}")

    def _is_remote(self, one: Wanted) -> bool:
        return is_remote(self.sources[one.source.role], one.source.name)

    def _is_too_large(self, one: SourceObject) -> bool:
        return one.size is not None and one.size > self.max_bytes

    def _kept(self, one: Wanted) -> bytes | None:
        return None if one.id is None or one.place is None else self.kept.read(one.id, one.place)

    def _from_source(self, one: SourceObject) -> bytes | None:
        return None if self._is_too_large(one) else self.sources[one.role].read(one.name, one.digest)

    def _prepare(self, one: SourceObject) -> None:
        """Fetches the file that an object is in: that takes time and memory which are not the object's."""
        if not self._is_too_large(one):
            with suppress(OSError, MemoryError):  # reading it tells
                prepare(self.sources[one.role], one.name)

    def _read_and_inspect(self, one: SourceObject) -> Outcome | _Decoded:
        try:
            return self._inspect(one, self._from_source(one))
        except MemoryError:
            return _quarantined(one, None, TOO_MUCH_MEMORY)
        except OSError as error:
            if error.errno == errno.ENOMEM:  # a mapping that the bound refuses
                return _quarantined(one, None, TOO_MUCH_MEMORY)
            where = object_uri(self.sources[one.role].uri, one.name)
            raise UserError(f"{where}: {error.strerror}", remedy="make it readable, or exclude it") from None

    def _inspect(self, one: SourceObject, data: bytes | None) -> Outcome | _Decoded:
        if data is None or len(data) > self.max_bytes:
            return _quarantined(one, data, TOO_MANY_BYTES)
        try:
            decoded = decode(
                data,
                max_pixels=self.max_pixels,
                min_side=DECODED_SIDE,
                least_side=self.min_side,
                max_aspect=self.max_aspect,
                grey=True,
            )
            square = grey_square(decoded.image)
        except DecodingError as error:
            return _quarantined(one, data, error.reason)
        except MemoryError:
            return _quarantined(one, data, TOO_MUCH_MEMORY)
        return _Decoded(_id_read(one, data), decoded.format, decoded.width, decoded.height, square, data)

    def annotation(self, one: SourceObject) -> Annotation:
        """What the source knows about an object."""
        return one.annotation or self.sources[one.role].annotation(one.name)


def _hashed(found: Sequence[Outcome | _Decoded]) -> list[Outcome]:
    """The outcomes of a chunk, all its images hashed at once."""
    hashes = iter(phashes([one.square for one in found if isinstance(one, _Decoded)]))
    return [
        Outcome(one.id, Verdict(one.format, one.width, one.height, next(hashes), None), one.data)
        if isinstance(one, _Decoded)
        else one
        for one in found
    ]


def _quarantined(one: SourceObject, data: bytes | None, reason: str) -> Outcome:
    image_id = _id_unread(one) if data is None else _id_read(one, data)
    return Outcome(image_id, Verdict(None, None, None, None, reason))


def _id_read(one: SourceObject, data: bytes) -> str:
    if one.digest.startswith(SHA256):  # the source has hashed the bytes to verify them
        return one.digest.removeprefix(SHA256)
    return hashlib.sha256(data).hexdigest()


def _id_unread(one: SourceObject) -> str:
    """The id of a file too large to read; where the lock holds no SHA-256 of it, that of its digest stands in."""
    if one.digest.startswith(SHA256):
        return one.digest.removeprefix(SHA256)
    return hashlib.sha256(one.digest.encode()).hexdigest()
