"""What ingest finds out about one object: its bytes are read, verified, decoded and hashed."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from components.data.decoding import DecodingError, decode
from components.data.lock import Role, SourceObject
from components.data.phash import phash
from components.data.sources import REMOTE, Annotation, Source, object_uri
from components.errors import UserError

TOO_MANY_BYTES = "too-many-bytes"
SHA256 = "sha256:"
DECODED_SIDE = 64
"""Pixels of the shorter side that scaled decoding keeps: the whole file is read through, only pixels are saved."""
FETCHES = 8
"""Objects of a chunk that are fetched over the network at a time."""


@dataclass(frozen=True)
class Inspection:
    """What became of one object."""

    source: SourceObject
    annotation: Annotation
    id: str
    """SHA-256 of the bytes, hexadecimal."""
    data: bytes | None
    """The bytes of an image that decodes; None if quarantined."""
    format: str | None = None
    width: int | None = None
    height: int | None = None
    phash: int | None = None
    reason: str | None = None
    """Why it is quarantined; None for an image that decodes."""

    @property
    def status(self) -> str:
        """`ok` or `quarantined`."""
        return "ok" if self.reason is None else "quarantined"


@dataclass(frozen=True)
class Inspector:
    """Inspects objects of a snapshot; picklable.

    Args:
        sources: where the objects of each role are.
        max_pixels: width × height above which an image is quarantined.
        max_bytes: size of a file above which it is quarantined without being read.
        min_side: shorter side below which an image is quarantined, pixels.
        max_aspect: longer side over shorter side above which an image is quarantined.
    """

    sources: Mapping[Role, Source]
    max_pixels: int
    max_bytes: int
    min_side: int
    max_aspect: float

    def inspect_all(self, objects: Sequence[SourceObject]) -> list[Inspection]:
        """Inspects objects in order; all their bytes are in memory at once.

        Raises:
            UserError: if an object is gone or is not what the lock says, or if memory runs out.
        """
        return [self._inspect(one, data) for one, data in zip(objects, self._read_all(objects), strict=True)]

    def _read_all(self, objects: Sequence[SourceObject]) -> Iterator[bytes | None]:
        if any(isinstance(self.sources[one.role], REMOTE) for one in objects):
            with ThreadPoolExecutor(FETCHES) as pool:
                yield from pool.map(self._read, objects)
        else:
            yield from map(self._read, objects)

    def _read(self, one: SourceObject) -> bytes | None:
        if one.size is not None and one.size > self.max_bytes:
            return None
        return self.sources[one.role].read(one.name, one.digest)

    def _inspect(self, one: SourceObject, data: bytes | None) -> Inspection:
        annotation = one.annotation or self.sources[one.role].annotation(one.name)
        if data is None:
            return Inspection(one, annotation, _id_unread(one), None, reason=TOO_MANY_BYTES)
        image_id = _id_read(one, data)
        if len(data) > self.max_bytes:
            return Inspection(one, annotation, image_id, None, reason=TOO_MANY_BYTES)
        try:
            decoded = decode(
                data,
                max_pixels=self.max_pixels,
                min_side=DECODED_SIDE,
                least_side=self.min_side,
                max_aspect=self.max_aspect,
            )
        except DecodingError as error:
            return Inspection(one, annotation, image_id, None, reason=error.reason)
        except MemoryError:  # of the machine, not of the image: a quarantine would outlive it
            where = object_uri(self.sources[one.role].uri, one.name)
            remedy = "set SELFSIGHT_THREADS lower for fewer workers, lower ingest.max_pixels, or exclude it"
            raise UserError(f"{where}: memory ran out while decoding it", remedy=remedy) from None
        return Inspection(
            source=one,
            annotation=annotation,
            id=image_id,
            data=data,
            format=decoded.format,
            width=decoded.width,
            height=decoded.height,
            phash=phash(decoded.image),
        )


def _id_read(one: SourceObject, data: bytes) -> str:
    if one.digest.startswith(SHA256):  # the source has hashed the bytes to verify them
        return one.digest.removeprefix(SHA256)
    return hashlib.sha256(data).hexdigest()


def _id_unread(one: SourceObject) -> str:
    """The id of a file too large to read; where the lock holds no SHA-256 of it, that of its digest stands in."""
    if one.digest.startswith(SHA256):
        return one.digest.removeprefix(SHA256)
    return hashlib.sha256(one.digest.encode()).hexdigest()
