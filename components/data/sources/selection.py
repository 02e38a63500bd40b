"""Which files of a place are images of the source, and what their names say."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TypeVar

from components.data.lock import Annotation
from components.errors import UserError

_log = logging.getLogger(__name__)
T = TypeVar("T")

IMAGE_PATTERNS = (
    "*.jpg", "*.jpeg", "*.jpe", "*.jfif", "*.png", "*.webp", "*.gif", "*.bmp", "*.tif", "*.tiff", "*.ppm", "*.pgm",
    "*.pbm",
)  # fmt: skip
"""Names of images, whatever the case; what is inside is found out by decoding."""
MOST_EXTENSIONS = 8
"""Kinds of other files that are told."""


class Selection:
    """Patterns that names must and must not match, as `fnmatch` patterns on the whole name, whatever the case.

    Hidden files and folders (a name that begins with a dot, and `__MACOSX`) are never images.

    Args:
        include: at least one must match; empty stands for `IMAGE_PATTERNS`.
        exclude: none may match, for example `masks/*`.
    """

    def __init__(self, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> None:
        self.include = tuple(pattern.lower() for pattern in include) or IMAGE_PATTERNS
        self.exclude = tuple(pattern.lower() for pattern in exclude)

    def takes(self, name: str) -> bool:
        """Whether a file of that name is an image of the source."""
        return not self.leaves_out(name) and self.matches(name)

    def matches(self, name: str) -> bool:
        """Whether a name is one of an image, left out or not."""
        return _matches(name, self.include)

    def of_everything(self) -> "Selection":
        """For names that no file has, such as rows of a table: all are images unless patterns were given."""
        return Selection(("*",) if self.include == IMAGE_PATTERNS else self.include, self.exclude)

    def leaves_out(self, name: str) -> bool:
        """Whether a file is none of the source's whatever its extension: hidden, excluded, or of a broken name."""
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            return True
        if not _is_text(name):
            _log.warning("skipped %r: its name is not UTF-8", name)
            return True
        return _matches(name, self.exclude)

    def of(self, files: Iterable[tuple[str, T]], uri: str) -> list[tuple[str, T]]:
        """The images among all files of a source, sorted by name.

        Args:
            files: names, each with whatever the source keeps beside it.
            uri: the source, for messages.

        Raises:
            UserError: as `Tally.taken` and `Tally.close`.
        """
        tally = Tally(self, uri)
        taken = tally.taken(files)
        tally.close()
        return taken


class Tally:
    """Sorts out the files of a source part by part, and tells at the end what is in it besides images.

    Args:
        selection: which files are images.
        uri: the source, for messages.
    """

    def __init__(self, selection: Selection, uri: str) -> None:
        self._selection = selection
        self._uri = uri
        self._files = 0
        self._taken = 0
        self._others = Counter[str]()

    def taken(self, files: Iterable[tuple[str, T]]) -> list[tuple[str, T]]:
        """The images among some files, sorted by name.

        Raises:
            UserError: if two are of one name.
        """
        taken = []
        for name, what in files:
            self._files += 1
            if self._selection.leaves_out(name):
                continue
            if self._selection.matches(name):
                taken.append((name, what))
            else:
                self._others[_extension(name)] += 1
        self._taken += len(taken)
        taken.sort(key=lambda one: one[0])
        for (before, _), (name, _) in pairwise(taken):
            if before == name:
                raise UserError(f"{self._uri}: two files are named '{name}'", remedy="rename one of them")
        return taken

    def close(self) -> None:
        """Counts in the log what was not taken.

        Raises:
            UserError: if there was no file at all, or none that is taken.
        """
        if self._others:
            counts = ", ".join(f"{number} {kind}" for kind, number in self._others.most_common(MOST_EXTENSIONS))
            more = ", …" if len(self._others) > MOST_EXTENSIONS else ""
            total = self._others.total()
            _log.warning("%s: %d files are not taken for images: %s%s", self._uri, total, counts, more)
        if not self._files:
            raise UserError(f"{self._uri}: is empty", remedy="give a source that holds images")
        if not self._taken:
            remedy = f"names must match one of {', '.join(self._selection.include)}"
            if self._selection.exclude:
                remedy += f" and none of {', '.join(self._selection.exclude)}"
            raise UserError(f"{self._uri}: none of its {self._files} files is an image", remedy=remedy)


def annotate(name: str) -> Annotation:
    """What a name says: the parent folder, where there is one, is the label."""
    return _labelled(name.rpartition("/")[0].rpartition("/")[2] or None)


@lru_cache(maxsize=4096)
def _labelled(label: str | None) -> Annotation:
    return Annotation(label=label)


def safe_name(name: str, uri: str) -> str:
    """Returns the name of a member of an archive or folder, without a leading `./`.

    Raises:
        UserError: if it is absolute or climbs out with `..`.
    """
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.startswith("/") or ".." in parts or "\0" in name:
        remedy = "make the source anew with relative names"
        raise UserError(f"{uri}: '{name}' names something outside of it", remedy=remedy)
    return "/".join(parts)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    lower = name.lower()
    return any(fnmatchcase(lower, pattern) for pattern in patterns)


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "without extension"


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
