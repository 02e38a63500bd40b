"""Several sources under names, written as one URI: `sets?ours=.%2Fholdout&val=s3%3A%2F%2Fteam%2Fval`.

Whatever keeps a URI keeps this one like any other. The objects of a source among several are named `NAME/name`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import parse_qsl, quote

from components.errors import UserError
from components.redaction import redact

NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")
"""A folder in the names of objects, part of a pattern and of a metric."""
NAMING = "a name has 1 to 40 letters, digits, - and _"
_SCHEME = "sets?"
_JOINED = re.compile(rf"sets\?{NAME.pattern}=")


def joined(sources: Mapping[str, str]) -> str:
    """The URI of several sources; the order in which they are given does not matter.

    Args:
        sources: URIs by name, one at least.
    """
    return _SCHEME + "&".join(f"{name}={quote(uri, safe='')}" for name, uri in sorted(sources.items()))


@lru_cache(maxsize=64)
def named(uri: str | None) -> Mapping[str, str]:
    """The sources that a URI joins, by name and in its order; none for the URI of a single source.

    Raises:
        UserError: if it is not as `joined` writes it.
    """
    if uri is None or not is_joined(uri):
        return MappingProxyType({})
    found = dict(parse_qsl(uri.removeprefix(_SCHEME), keep_blank_values=True))
    if joined(found) != uri:
        raise UserError(f"{uri}: is damaged", remedy="name the sources in params.yaml and take a new snapshot")
    return MappingProxyType(found)


def is_joined(uri: str) -> bool:
    """Whether a URI is of several sources; a pattern of such files is written `./sets?…`."""
    return _JOINED.match(uri) is not None


def each(uri: str) -> tuple[str, ...]:
    """The URIs of the sources that a URI joins; of a single source its own."""
    return tuple(named(uri).values()) or (uri,)


def prefixes(uri: str | None) -> Mapping[str, str]:
    """The URI of each source by what names of its objects begin with: `NAME/`, for a single source nothing."""
    if uri is None:
        return MappingProxyType({})
    return {f"{name}/": one for name, one in named(uri).items()} or {"": uri}


def divided(uri: str | None, name: str) -> tuple[str, str]:
    """The name of an object in two parts: `NAME/` of its source among several, else nothing, and the name in there."""
    if not named(uri):
        return "", name
    prefix, slash, rest = name.partition("/")
    return prefix + slash, rest


def readable(uri: str) -> str:
    """A URI for people, without secrets: `ours=./holdout, val=s3://team/val`."""
    return ", ".join(f"{name}={redact(one)}" for name, one in named(uri).items()) or redact(uri)
