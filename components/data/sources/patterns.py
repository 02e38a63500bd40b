"""Patterns of file names: `*`, `?`, `[…]`, and braces as shells have them."""

import glob
import os
import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from components.errors import UserError

MAGIC = re.compile(r"[*?\[{]")
BRACES = re.compile(r"\{([^{}]*)\}")
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST_FILES = 1_000_000
"""Names that braces may stand for."""


def is_pattern(path: str) -> bool:
    """Whether a path has to be expanded; a file of just that name is not."""
    return MAGIC.search(path) is not None and not Path(path).expanduser().exists()


def base_of(pattern: str) -> str:
    """The last folder before a pattern begins: empty for the current one."""
    return os.path.dirname(MAGIC.split(pattern)[0])  # noqa: PTH120


def matches(pattern: str) -> Iterator[Path]:
    """Yields what a pattern matches.

    Args:
        pattern: braces `{a,b}` stand for each, `{000..146}` for each number with as many digits.

    Raises:
        UserError: if a name that braces stand for is not there, or they stand for too many.
    """
    for one in expanded(pattern):
        if MAGIC.search(one):
            yield from map(Path, glob.glob(one, recursive=True))  # noqa: PTH207  # absolute and relative alike
        elif Path(one).exists():
            yield Path(one)
        else:
            raise _missing(one)


def chosen(pattern: str, keys: Collection[str]) -> Iterator[str]:
    """Yields the keys that a pattern matches: the same as `matches` where the keys are files in the current folder.

    Args:
        pattern: as of `matches`.
        keys: relative, with `/`.

    Raises:
        UserError: as `matches`.
    """
    for one in expanded(pattern):
        if MAGIC.search(one):
            parts = one.split("/")
            yield from (key for key in keys if _fits(key.split("/"), parts))
        elif one in keys:
            yield one
        else:
            raise _missing(one)


def expanded(pattern: str) -> list[str]:
    """The patterns that braces stand for.

    Raises:
        UserError: if they are too many.
    """
    names = [pattern]
    while any(BRACES.search(name) for name in names):
        names = [made for name in names for made in _once(name)]
        if len(names) > MOST_FILES:
            raise _too_many(pattern)
    return names


def _once(name: str) -> list[str]:
    braces = BRACES.search(name)
    if braces is None:
        return [name]
    span = RANGE.fullmatch(braces[1])
    if span is None:
        parts = braces[1].split(",")
    else:
        first, last = int(span[1]), int(span[2])
        if last - first > MOST_FILES:
            raise _too_many(name)
        parts = [str(number).zfill(len(span[1])) for number in range(first, last + 1)]
    return [f"{name[: braces.start()]}{part}{name[braces.end() :]}" for part in parts]


def _fits(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, by the rules of `glob`: what is hidden is asked for."""
    if not parts or not wanted:
        return not parts and not wanted
    part, pattern = parts[0], wanted[0]
    if not part or (part.startswith(".") and not pattern.startswith(".")):
        return False
    if pattern == "**":
        return _fits(parts, wanted[1:]) or _fits(parts[1:], wanted)
    return fnmatchcase(part, pattern) and _fits(parts[1:], wanted[1:])


def _missing(name: str) -> UserError:
    return UserError(f"{name}: no such file", remedy="give a pattern of files that are there")


def _too_many(pattern: str) -> UserError:
    return UserError(f"{pattern}: stands for more than {MOST_FILES} files", remedy="give a narrower pattern")
