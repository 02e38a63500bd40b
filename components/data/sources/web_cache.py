"""What was fetched from the internet, kept by content, so that nothing unchanged is fetched twice."""

import json
import os
import tempfile
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from components.data.cache_file import CacheFile
from components.data.sources.digests import SHA256, digest_of
from components.errors import no_space_is_a_user_error
from components.settings import Settings

KEPT_SECONDS = 30 * 24 * 3600
"""Age at which an address that no snapshot asked for is forgotten, unless the lock at hand names its bytes."""
LEFTOVER_SECONDS = 3600
"""Age at which a file that nothing names is nobody's: a younger one may be about to be named."""
_TABLE = "CREATE TABLE IF NOT EXISTS addresses (url TEXT PRIMARY KEY, size INT, digest TEXT, validators TEXT)"


class Kept(NamedTuple):
    """What an address gave when it was last fetched."""

    size: int
    digest: str
    """`sha256:…` of the bytes."""
    validators: Mapping[str, str]
    """Headers to ask with whether it has changed."""


class WebCache:
    """Bytes by digest, and digests by address, in a folder; losing it costs time only.

    The time of last change of a file says when a snapshot last asked for it.

    Args:
        folder: made where it is absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, url: str) -> Kept | None:
        """What an address gave last, if its bytes are still here."""
        with self._addresses() as addresses:
            rows = addresses.rows("SELECT size, digest, validators FROM addresses WHERE url = ?", (url,))
        try:
            ((size, digest, validators),) = rows
            kept = Kept(size, digest, dict(json.loads(validators)))
            os.utime(self._path(digest))
        except (ValueError, TypeError, OSError):
            return None
        return kept

    def keep(self, url: str, data: bytes, validators: Mapping[str, str]) -> Kept:
        """Keeps what an address gave.

        Raises:
            UserError: if there is no space.
        """
        kept = Kept(len(data), digest_of(data), validators)
        path = self._path(kept.digest)
        try:
            os.utime(path)
        except FileNotFoundError:
            with no_space_is_a_user_error("keeping what was fetched"):
                _write_whole(data, path)
        row = (url, kept.size, kept.digest, json.dumps(dict(validators)))
        with self._addresses() as addresses:
            addresses.write(("INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?)", [row]))
        return kept

    def forget(self, url: str) -> None:
        """Lets go of an address that is gone."""
        with self._addresses() as addresses:
            addresses.write(("DELETE FROM addresses WHERE url = ?", [(url,)]))

    def read(self, digest: str) -> bytes | None:
        """The bytes of a digest; None if they are not here or damaged."""
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None
        return data if digest == digest_of(data) else None

    def clean(self, named: Collection[str], forgotten: Collection[str]) -> None:
        """Deletes what is of no use any more.

        That is: images that are forgotten, at once; what no address gives any more, and leftovers of processes that
        were killed, after an hour; addresses that no snapshot asks for, after a month.

        Args:
            named: digests of a lock, whose bytes stay.
            forgotten: SHA-256 of images that must never be used, hexadecimal.
        """
        if not self._folder.exists():
            return
        with self._addresses() as addresses:
            given = {_digits(digest) for (digest,) in addresses.rows("SELECT digest FROM addresses")}
            kept = {_digits(digest) for digest in named}.difference(forgotten)
            now, dropped = time.time(), set(forgotten)
            for path in self._folder.glob("??/*"):
                with suppress(FileNotFoundError):
                    most = KEPT_SECONDS if path.name in given else LEFTOVER_SECONDS
                    if path.name not in kept and now - path.stat().st_mtime > most:
                        dropped.add(path.name)
                    if path.name in dropped:
                        path.unlink()
            rows = [(SHA256 + one,) for one in given & dropped]
            addresses.write(("DELETE FROM addresses WHERE digest = ?", rows))

    def _addresses(self) -> CacheFile:
        return CacheFile(self._folder / "addresses.sqlite", _TABLE)

    def _path(self, digest: str) -> Path:
        digits = _digits(digest)
        return self._folder / digits[:2] / digits


def web_cache(settings: Settings) -> WebCache:
    """The cache that all lists of addresses share."""
    return WebCache(settings.cache / "web")


def _digits(digest: str) -> str:
    return digest.removeprefix(SHA256)


def _write_whole(data: bytes, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
