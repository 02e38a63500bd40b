"""Which files of a place are images of the source, and what their names say."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath
from typing import TypeVar

from components.data.sources.protocol import Annotation
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
        return not self._left_out(name) and _matches(name, self.include)

    def _left_out(self, name: str) -> bool:
        """Whether a file is none of the source's whatever its extension: hidden, excluded, or of a broken name."""
        if any(part.startswith(".") or part == "__MACOSX" for part in name.split("/")):
            return True
        if not _is_text(name):
            _log.warning("skipped %r: its name is not UTF-8", name)
            return True
        return _matches(name, self.exclude)

    def of(self, files: Iterable[tuple[str, T]], uri: str) -> list[tuple[str, T]]:
        """The images among the files of a source, sorted by name; what is in it besides is counted in the log.

        Args:
            files: names, each with whatever the source keeps beside it.
            uri: the source, for messages.

        Raises:
            UserError: if there is no file at all, none that is taken, or one name twice.
        """
        count, taken, others = 0, [], Counter[str]()
        for name, what in files:
            count += 1
            if self._left_out(name):
                continue
            if _matches(name, self.include):
                taken.append((name, what))
            else:
                others[_extension(name)] += 1
        if others:
            counts = ", ".join(f"{number} {extension}" for extension, number in others.most_common(MOST_EXTENSIONS))
            more = ", …" if len(others) > MOST_EXTENSIONS else ""
            _log.warning("%s: %d files are not taken for images: %s%s", uri, others.total(), counts, more)
        if not count:
            raise UserError(f"{uri}: is empty", remedy="give a source that holds images")
        if not taken:
            remedy = f"names must match one of {', '.join(self.include)}"
            if self.exclude:
                remedy += f" and none of {', '.join(self.exclude)}"
            raise UserError(f"{uri}: none of its {count} files is an image", remedy=remedy)
        taken.sort(key=lambda one: one[0])
        for (before, _), (name, _) in pairwise(taken):
            if before == name:
                raise UserError(f"{uri}: two files are named '{name}'", remedy="rename one of them")
        return taken


def annotate(name: str) -> Annotation:
    """What a name says: the parent folder, where there is one, is the label."""
    return Annotation(label=name.rpartition("/")[0].rpartition("/")[2] or None)


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
