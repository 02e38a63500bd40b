"""A folder of images."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from components.data.lock import Annotation, Role, SourceObject
from components.data.sources.digests import DigestCache, Stamp, digest_of, digest_of_path
from components.data.sources.protocol import CHANGED
from components.data.sources.selection import Selection, annotate, safe_name
from components.errors import UserError

VANISHED = ""
"""Digest of a file that is not there any more when it is to be hashed."""


class FolderSource:
    """Every image below a folder; names are relative, with `/`.

    A link to a file inside the folder is read as a file. A link to a folder inside is not followed, as its files are
    listed where they are. A link that leads outside is refused.

    Args:
        uri: the folder, as given.
        role: `train` or `eval`.
        selection: which files are images.
        cache: remembered digests.
    """

    def __init__(self, uri: str, role: Role, selection: Selection, cache: DigestCache) -> None:
        self.uri = uri
        self.role = role
        self._selection = selection
        self._cache = cache
        self._root = Path(uri).expanduser().resolve()
        self._parents: dict[str, str] = {}

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its size and SHA-256, sorted by name; one that vanishes meanwhile is not there."""
        taken = self._selection.of(files_below(self._root, self.uri, self._selection), self.uri)
        found = [(name, stat) for name, entry in taken if (stat := _state(entry)) is not None]
        stamps = [Stamp.of(f"{self._root}/{name}", stat) for name, stat in found]
        for (name, stat), digest in zip(found, self._cache.digests(stamps, _hash), strict=True):
            if digest != VANISHED:
                yield SourceObject(self.role, name, stat.st_size, digest)

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of a file, see `Source.read`."""
        parent, _, base = safe_name(name, self.uri).rpartition("/")
        try:
            path = f"{self._inside(parent, name)}/{base}"
            try:
                data = _bytes_of(path)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                target = Path(path).resolve(strict=True)
                if not target.is_relative_to(self._root):
                    raise _leads_outside(self.uri, name) from None
                data = _bytes_of(str(target))
        except OSError as error:
            raise UserError(f"{self.uri}/{name}: {error.strerror}", remedy=CHANGED) from None
        if digest is not None and digest_of(data) != digest:
            raise UserError(f"{self.uri}/{name}: changed since the snapshot", remedy=CHANGED)
        return data

    def annotation(self, name: str) -> Annotation:
        """The parent folder is the label."""
        return annotate(name)

    def truth(self) -> None:
        """Nothing is known about files but their names."""

    def _inside(self, parent: str, name: str) -> str:
        """The folder of a name, made sure once to be inside the source."""
        if parent not in self._parents:
            folder = (self._root / parent).resolve(strict=True)
            if not folder.is_relative_to(self._root):
                raise _leads_outside(self.uri, name)
            self._parents[parent] = str(folder)
        return self._parents[parent]


def _bytes_of(path: str) -> bytes:
    """Reads a file; a link is refused with ELOOP, so that a name and what is read at it cannot part in between."""
    with open(path, "rb", buffering=0, opener=_no_link) as file:
        return file.read()


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def files_below(root: Path, uri: str, wanted: Selection) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the name and entry of every file below a folder, hidden folders left out.

    Args:
        root: the folder, resolved.
        uri: the source, for messages.
        wanted: of a link that leads outside only one to a folder, or to such a file, is refused; others are left out.

    Raises:
        UserError: if a folder cannot be read, or a link leads outside.
    """
    yield from _walk(root, root, "", uri, wanted)


def _walk(root: Path, folder: Path, prefix: str, uri: str, wanted: Selection) -> Iterator[tuple[str, os.DirEntry[str]]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if folder != root and isinstance(error, FileNotFoundError):
            return  # it has vanished since its name was read
        raise UserError(f"{folder}: {error.strerror}", remedy="make it readable, or move it elsewhere") from None
    for entry in entries:
        name = prefix + entry.name
        if entry.is_symlink() and not _leads_to_file(root, name, uri, wanted):
            continue
        if entry.is_dir(follow_symlinks=False):
            if not entry.name.startswith("."):
                yield from _walk(root, folder / entry.name, f"{name}/", uri, wanted)
        elif entry.is_file():
            yield name, entry


def _leads_to_file(root: Path, name: str, uri: str, wanted: Selection) -> bool:
    try:
        target = (root / name).resolve(strict=True)
    except (OSError, RuntimeError):
        return False  # dangling or circular
    if not target.is_relative_to(root):
        if target.is_dir() or wanted.takes(name):
            raise _leads_outside(uri, name)
        return False
    return target.is_file()


def _leads_outside(uri: str, name: str) -> UserError:
    remedy = "replace the link by the files, or give the folder it points to"
    return UserError(f"{uri}/{name}: a link that leads outside the source", remedy=remedy)


def _state(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except FileNotFoundError:
        return None


def _hash(stamp: Stamp) -> str:
    path = Path(stamp.key)
    try:
        return digest_of_path(path)
    except UserError:
        if path.exists():
            raise
        return VANISHED
