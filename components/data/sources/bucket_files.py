"""Files in a bucket that hold many images: found by a pattern, fetched whole, and read as local ones."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from components.data.lock import Role
from components.data.sources.bucket import Bucket, Listed
from components.data.sources.containers import ContainerSource
from components.data.sources.digests import DigestCache, Stamp
from components.data.sources.downloads import Downloads, Wanted, downloads
from components.data.sources.kinds import kind_of, one_kind, path_and_rate
from components.data.sources.listings import ListingCache
from components.data.sources.patterns import MAGIC, base_of, chosen, expanded
from components.data.sources.protocol import Source
from components.data.sources.selection import Selection
from components.errors import UserError
from components.s3 import SCHEME, S3Address
from components.settings import Settings


@dataclass(frozen=True)
class BucketFile:
    """One version of an object.

    Args:
        bucket: that it is in.
        listed: the version.
        kept: where its bytes are while they are read.
    """

    bucket: Bucket
    listed: Listed
    kept: Downloads

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.listed.key.rpartition("/")[2]

    def stamp(self) -> Stamp:
        """Address, ETag and size, as listed: nothing is asked."""
        return Stamp(f"{self} {self.listed.etag}", self.listed.size, 0, 0)

    @contextmanager
    def at_hand(self) -> Iterator[Path]:
        """The path of the downloaded file, verified."""
        wanted = Wanted(self._kept_name, self.listed.size, str(self))
        with self.kept.at_hand(wanted, lambda file: self.bucket.download(self.listed, file, str(self))) as path:
            yield path

    def doubt(self) -> None:
        """It is fetched anew when it is wanted again."""
        self.kept.drop(self._kept_name)

    @property
    def _kept_name(self) -> str:
        extension = PurePosixPath(self.name).suffix.lower()  # some formats of video are guessed by it
        return hashlib.sha256(self.stamp().key.encode()).hexdigest() + extension

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket.name}/{self.listed.key}"


class _Key(NamedTuple):
    """What a URI of files in a bucket names."""

    bucket: str
    key: str
    """Of one object, or a pattern of keys."""

    @property
    def is_pattern(self) -> bool:
        return MAGIC.search(self.key) is not None

    @property
    def base(self) -> str:
        """The last folder before the pattern begins: empty, or ending in `/`."""
        base = base_of(self.key)
        return f"{base}/" if base else ""


@dataclass(frozen=True)
class BucketOpener:
    """Opens files in a bucket that hold images.

    Args:
        role: `train` or `eval`.
        settings: where S3 and the caches are.
        selection: which members are images.
    """

    role: Role
    settings: Settings
    selection: Selection

    def open(self, uri: str) -> Source | None:
        """Opens a file, or what a pattern matches: the bucket is listed, nothing is fetched.

        Args:
            uri: `s3://BUCKET/KEY`, where KEY may be a pattern; that of videos may end in `?fps=RATE`.

        Returns:
            The source; None if the URI does not end in the extension of a file that holds images: it is a prefix.

        Raises:
            UserError: if there is no such file, or the bucket cannot be listed.
        """
        where, rate = path_and_rate(uri)
        place = _key(where)
        if place is None:
            return None
        S3Address.parse(where)  # refuses credentials
        bucket = Bucket(place.bucket, self.settings.s3_endpoint)
        found = _matching(bucket, place, uri) if place.is_pattern else _alone(bucket, place, uri)
        kind = one_kind((one.key for one in found.values()), uri)
        if kind is None:
            raise UserError(f"{uri}: no such file in the bucket", remedy="check the name, or give a prefix of images")
        digests = DigestCache(self.settings.cache / "digests.sqlite", workers=self.settings.thread_count())
        kept = downloads(self.settings)
        files = {name: BucketFile(bucket, one, kept) for name, one in found.items()}
        listings = ListingCache(digests.path, digests.workers)
        return ContainerSource(uri, self.role, self.selection, listings, kind.kind(rate, digests), files)


@lru_cache(maxsize=16)
def bucket_prefix(uri: str) -> str:
    """What stands before the name of an object in its address: `s3://bucket/prefix/`, or `s3://bucket/a.tar#`."""
    where, _ = path_and_rate(uri)
    place = _key(where)
    if place is None:
        return f"{uri.rstrip('/')}/"
    return f"{SCHEME}{place.bucket}/{place.base}" if place.is_pattern else f"{where}#"


def _key(where: str) -> _Key | None:
    """The key or pattern of keys; None if it is a prefix."""
    bucket, _, key = where.removeprefix(SCHEME).partition("/")
    return _Key(bucket, key) if any(map(kind_of, expanded(key))) else None


def _alone(bucket: Bucket, place: _Key, uri: str) -> Mapping[str, Listed]:
    first = next(iter(bucket.objects(place.key, uri)), None)  # of the keys that begin with it, the shortest
    return {"": first} if first is not None and first.key == place.key else {}


def _matching(bucket: Bucket, place: _Key, uri: str) -> Mapping[str, Listed]:
    """All files that a pattern matches, named from the last folder before it begins."""
    literal = MAGIC.split(place.key)[0]
    listed = {one.key: one for one in bucket.objects(literal, uri) if kind_of(one.key) is not None}
    return {key.removeprefix(place.base): listed[key] for key in chosen(place.key, listed)}
