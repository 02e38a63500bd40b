"""Which kind of source a path is: what is in a folder decides, or what a pattern matches."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

from components.data.lock import Role
from components.data.sources.containers import ContainerSource
from components.data.sources.digests import DigestCache
from components.data.sources.files import LocalFile
from components.data.sources.folder import FolderSource, files_below
from components.data.sources.https import SCHEME, Fetcher
from components.data.sources.kinds import Files, kind_of, one_kind, path_and_rate
from components.data.sources.listings import ListingCache
from components.data.sources.patterns import base_of, is_pattern, matches
from components.data.sources.protocol import Source
from components.data.sources.selection import Selection
from components.data.sources.urls import UrlSource
from components.data.sources.web_cache import web_cache
from components.errors import UserError
from components.settings import Settings

URL_LIST = ".txt"


@dataclass(frozen=True)
class LocalOpener:
    """Opens what is on this machine.

    Args:
        role: `train` or `eval`.
        settings: where the caches are, and which hosts are trusted.
        selection: which files are images.
    """

    role: Role
    settings: Settings
    selection: Selection

    def open(self, uri: str) -> Source | None:
        """Opens a folder, a file that holds images, a pattern of such files, or a list of addresses.

        Args:
            uri: the path; that of videos may end in `?fps=RATE`, frames a second.

        Returns:
            The source; None if there is nothing, or a file of no kind that holds images.

        Raises:
            UserError: if there are files of several kinds.
        """
        where, rate = _path_and_rate(uri)
        path = Path(where).expanduser()
        if path.is_dir():
            return self._folder(uri, path.resolve(), rate)
        if is_pattern(where):
            return self._matching(uri, os.path.expanduser(where), rate)  # noqa: PTH111
        if not path.is_file():
            return None
        if path.suffix.lower() == URL_LIST:
            fetcher = Fetcher(self.settings.trusted_hosts)
            return UrlSource(uri, self.role, self.selection, fetcher, web_cache(self.settings))
        kind = kind_of(path.name)
        return None if kind is None else self._containers(uri, kind, {"": path.resolve()}, rate)

    def _folder(self, uri: str, root: Path, rate: Fraction) -> Source:
        kind = self._kind_in(root, uri)
        if kind is None:
            return FolderSource(uri, self.role, self.selection, self._digests())
        wanted = Selection(kind.patterns)
        files = {name: root / name for name, _ in files_below(root, uri, wanted) if wanted.takes(name)}
        return self._containers(uri, kind, files, rate)

    def _kind_in(self, root: Path, uri: str) -> Files | None:
        """The kind of the files in a folder; None for a folder of images, whatever else is in it."""
        found: dict[str, Files] = {}
        for name, _ in files_below(root, uri, self.selection):
            if self.selection.takes(name):
                return None
            if kind := kind_of(name):
                found[kind.what] = kind
        if len(found) > 1:
            remedy = f"give those of one kind as a pattern, such as '{uri.rstrip('/')}/*.tar'"
            raise UserError(f"{uri}: holds {' and '.join(sorted(found))}", remedy=remedy)
        return next(iter(found.values()), None)

    def _matching(self, uri: str, pattern: str, rate: Fraction) -> Source | None:
        """All files that a pattern matches, named from the last folder before it begins."""
        base = Path(base_of(pattern))
        root = base.resolve()
        files: dict[str, Path] = {}
        for path in matches(pattern):
            if kind_of(path.name) is None or not path.is_file():
                continue
            if not path.resolve().is_relative_to(root):
                raise UserError(f"{path}: a link that leads outside", remedy="give the file that it points to")
            files[path.relative_to(base).as_posix()] = path.resolve()
        kind = one_kind(files, uri)
        return None if kind is None else self._containers(uri, kind, files, rate)

    def _containers(self, uri: str, files: Files, found: Mapping[str, Path], rate: Fraction) -> Source:
        digests = self._digests()
        listings = ListingCache(digests.path, digests.workers)
        local = {name: LocalFile(path) for name, path in found.items()}
        return ContainerSource(uri, self.role, self.selection, listings, files.kind(rate, digests), local)

    def _digests(self) -> DigestCache:
        return DigestCache(self.settings.cache / "digests.sqlite", workers=self.settings.thread_count())


@lru_cache(maxsize=16)
def local_prefix(uri: str) -> str:
    """What stands before the name of an object in its address: `folder/`, `a.tar#`, `https://`."""
    where, _ = _path_and_rate(uri)
    if is_pattern(where):
        return f"{base_of(where).rstrip('/')}/" if base_of(where) else ""
    path = Path(where).expanduser()
    if not path.is_dir():
        if path.suffix.lower() == URL_LIST:
            return SCHEME
        if kind_of(path.name):
            return f"{where}#"
    return f"{where.rstrip('/')}/"


def _path_and_rate(uri: str) -> tuple[str, Fraction]:
    """As `path_and_rate`, but for a file of just that name."""
    return (uri, Fraction(1)) if Path(uri).expanduser().exists() else path_and_rate(uri)
