"""The kinds of files that hold many images, and how their names tell them apart."""

import re
from collections.abc import Callable, Collection, Iterable
from fractions import Fraction
from typing import NamedTuple

from components.data.sources.archive import Tars
from components.data.sources.containers import Kind
from components.data.sources.digests import DigestCache
from components.data.sources.parquet import Parquets
from components.data.sources.selection import Selection
from components.data.sources.video import PATTERNS as VIDEO_PATTERNS
from components.data.sources.video import Videos
from components.errors import UserError

RATE = re.compile(r"\?fps=([0-9]+(?:\.[0-9]+)?|[0-9]+/[1-9][0-9]*)$")


class Files(NamedTuple):
    """Files of one kind."""

    what: str
    """For messages."""
    patterns: tuple[str, ...]
    """Of their names."""
    kind: Callable[[Fraction, DigestCache], Kind]
    """Makes what reads them, from the frames a second that are taken of a video."""


_KINDS = (
    Files("tars", ("*.tar",), lambda rate, cache: Tars()),
    Files("Parquet files", ("*.parquet",), lambda rate, cache: Parquets()),
    Files("videos", VIDEO_PATTERNS, Videos),
)


def kind_of(name: str) -> Files | None:
    """The kind of a file by its name; None if it holds no images."""
    base = name.rpartition("/")[2]
    return next((one for one in _KINDS if Selection(one.patterns).takes(base)), None)


def one_kind(names: Iterable[str], uri: str) -> Files | None:
    """The kind of all files that hold images among those of a pattern; None if there are none.

    Raises:
        UserError: if there are several.
    """
    kinds = {kind.what: kind for name in names if (kind := kind_of(name)) is not None}
    if len(kinds) > 1:
        raise UserError(f"{uri}: matches {' and '.join(sorted(kinds))}", remedy="give a pattern of files of one kind")
    return next(iter(kinds.values()), None)


def found_instead(names: Collection[str]) -> tuple[str, str] | None:
    """What files hold images, in words, and a pattern that matches those of one kind; None if none do.

    Args:
        names: one of each extension there is, relative to where the pattern begins.
    """
    kinds = {kind.what: name for name in names if (kind := kind_of(name)) is not None}
    if not kinds:
        return None
    name = kinds[min(kinds)]
    return " and ".join(sorted(kinds)), f"{'**/' if '/' in name else ''}*.{name.rpartition('.')[2]}"


def path_and_rate(uri: str) -> tuple[str, Fraction]:
    """Takes `?fps=RATE` off the end; without it one frame a second is taken.

    Raises:
        UserError: if the rate is 0.
    """
    found = RATE.search(uri)
    if found is None:
        return uri, Fraction(1)
    rate = Fraction(found[1])
    if not rate:
        raise UserError(f"{uri}: 0 frames a second", remedy="give a rate above 0, such as ?fps=0.5")
    return uri[: found.start()], rate
