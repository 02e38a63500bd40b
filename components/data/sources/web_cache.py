"""What was fetched from the internet, kept by content, so that nothing unchanged is fetched twice."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from components.data.sources.digests import open_cache, remember
from components.errors import no_space_is_a_user_error

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

    Args:
        folder: made where it is absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, url: str) -> Kept | None:
        """What an address gave last, if its bytes are still here."""
        with closing(open_cache(self._folder / "addresses.sqlite", _TABLE)) as database:
            row = database.execute("SELECT size, digest, validators FROM addresses WHERE url = ?", (url,)).fetchone()
        if row is None or not self._path(row[1]).exists():
            return None
        return Kept(row[0], row[1], json.loads(row[2]))

    def keep(self, url: str, data: bytes, validators: Mapping[str, str]) -> Kept:
        """Keeps what an address gave.

        Raises:
            UserError: if there is no space.
        """
        kept = Kept(len(data), f"sha256:{hashlib.sha256(data).hexdigest()}", validators)
        path = self._path(kept.digest)
        if not path.exists():
            with no_space_is_a_user_error("keeping what was fetched"):
                _write_whole(data, path)
        row = (url, kept.size, kept.digest, json.dumps(dict(validators)))
        with closing(open_cache(self._folder / "addresses.sqlite", _TABLE)) as database:
            remember(database, "INSERT OR REPLACE INTO addresses VALUES (?, ?, ?, ?)", [row])
        return kept

    def read(self, digest: str) -> bytes | None:
        """The bytes of a digest; None if they are not here or damaged."""
        try:
            data = self._path(digest).read_bytes()
        except OSError:
            return None
        return data if digest == f"sha256:{hashlib.sha256(data).hexdigest()}" else None

    def _path(self, digest: str) -> Path:
        digits = digest.removeprefix("sha256:")
        return self._folder / digits[:2] / digits


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
