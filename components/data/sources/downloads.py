"""Whole files of buckets, kept in a folder of bounded size while they are read."""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, NamedTuple

from components.errors import UserError, no_space_is_a_user_error
from components.settings import Settings
from components.tracking.locking import file_lock

PARTIAL = ".partial"
WAIT_SECONDS = 0.1
"""Pause of who waits for others to be done with what takes up the room."""
LOCKS = "locks"
"""Folder of lock files; as these are never removed, their number is bounded: files may share one."""
_LOCK_DIGITS = 3


class Wanted(NamedTuple):
    """A file that is to be at hand."""

    name: str
    """Of it in the folder; another version of the same file has another one."""
    nbytes: int
    what: str
    """For messages."""


class _Kept(NamedTuple):
    used_ns: int
    nbytes: int
    path: Path


class Downloads:
    """Files that are fetched when they are needed; the least recently used ones make room for new ones.

    Several processes of one machine may share the folder, and the bound holds for all of them: a file has its room from
    when it begins to arrive. Of several that want the same file one fetches it, and the others wait. Who opens a file
    keeps it readable, though another one may take its name away; its space is free when it is closed. What was left by
    processes that were killed goes when room is made. Losing the folder costs time only. Picklable.

    Args:
        folder: made where it is absent.
        max_bytes: size of all files together at most.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    @contextmanager
    def at_hand(self, wanted: Wanted, fetch: Callable[[BinaryIO], None]) -> Iterator[Path]:
        """The path of a file, which stays there for the length of the block: long enough to open it.

        Args:
            wanted: the file.
            fetch: writes its bytes into an open file, or fails.

        Raises:
            UserError: if the file is larger than the bound, or the folder cannot be used.
        """
        if wanted.nbytes > self._max_bytes:
            message = f"{wanted.what}: {wanted.nbytes} bytes, and at most {self._max_bytes} are kept in the cache"
            raise UserError(message, remedy="raise SELFSIGHT_ARCHIVE_CACHE_BYTES")
        path = self._folder / wanted.name
        self._make_folder()
        with self._lock_of(wanted.name):
            if _nbytes(path) == wanted.nbytes:
                os.utime(path)
            else:
                self._fetch(wanted, path, fetch)
            yield path

    def drop(self, name: str) -> None:
        """Lets go of a file, unless somebody is about to open it."""
        self._dropped(self._folder / name)

    def clear(self) -> None:
        """Lets go of all files, but those that somebody is fetching or about to open."""
        for one in self._kept():
            self._dropped(one.path)

    def _fetch(self, wanted: Wanted, path: Path, fetch: Callable[[BinaryIO], None]) -> None:
        partial = path.with_name(path.name + PARTIAL)
        partial.unlink(missing_ok=True)
        try:
            with no_space_is_a_user_error(f"fetching {wanted.what}"):
                while not self._has_room(wanted, partial):
                    time.sleep(WAIT_SECONDS)
                with partial.open("r+b") as file:
                    fetch(file)
                    file.flush()
                    os.fdatasync(file.fileno())  # a power cut must not leave the length without the bytes
                partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def _has_room(self, wanted: Wanted, partial: Path) -> bool:
        """Makes room and takes it up, with a partial file of the whole length; False if there is none as yet."""
        with file_lock(self._folder / LOCKS / "room"):
            kept = sorted(self._kept())
            left = self._max_bytes - sum(one.nbytes for one in kept)
            for one in sorted(kept, key=lambda one: not _is_partial(one.path)):
                unwanted = _is_partial(one.path) or left < wanted.nbytes
                if unwanted and self._dropped(one.path, held=_lock_name(wanted.name)):
                    left += one.nbytes
            if left < wanted.nbytes:
                return False
            with partial.open("wb") as file:
                file.truncate(wanted.nbytes)
            return True

    def _dropped(self, path: Path, *, held: str | None = None) -> bool:
        """Deletes a file; False if somebody is fetching it or about to open it: not who holds the lock `held`."""
        if held == _lock_name(path.name):
            path.unlink(missing_ok=True)
            return True
        with self._lock_of(path.name, blocking=False) as alone:
            if alone:
                path.unlink(missing_ok=True)
            return alone

    def _kept(self) -> Iterator[_Kept]:
        for path in self._folder.glob("*"):
            with suppress(FileNotFoundError):
                stat = path.stat()
                if S_ISREG(stat.st_mode):
                    yield _Kept(stat.st_mtime_ns, stat.st_size, path)

    def _lock_of(self, name: str, *, blocking: bool = True) -> AbstractContextManager[bool]:
        return file_lock(self._folder / LOCKS / _lock_name(name), blocking=blocking)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            remedy = "set SELFSIGHT_CACHE_DIR to a folder that can be written"
            raise UserError(f"{self._folder}: {error.strerror}", remedy=remedy) from None


def downloads(settings: Settings) -> Downloads:
    """The folder that all sources in buckets share."""
    return Downloads(settings.cache / "containers", settings.archive_cache_bytes)


def _lock_name(name: str) -> str:
    """The lock of a file, whole or partial."""
    return hashlib.sha256(name.removesuffix(PARTIAL).encode()).hexdigest()[:_LOCK_DIGITS]


def _is_partial(path: Path) -> bool:
    return path.name.endswith(PARTIAL)


def _nbytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
