"""What became of the objects of a source between snapshots.

An object is told by its role, the URI of its source and its name in there: another name of the source is no change.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from components.data.lock import Role, SourceLock, SourceObject
from components.data.named_sources import divided, joined, named, prefixes

_ROLES: tuple[Role, ...] = ("train", "eval")
_UNNAMED = "source"
"""Name in the record of a source that has none."""
_STEM = 32
"""Letters of a name to which a number is added: `named_sources.NAME` has 40 at most."""


@dataclass(frozen=True)
class Changes:
    """What became of the objects of a source from one lock to a later one."""

    new: tuple[SourceObject, ...]
    changed: tuple[SourceObject, ...]
    """As they are now."""
    removed: tuple[SourceObject, ...]
    """As they were."""

    @classmethod
    def between(cls, before: SourceLock, after: SourceLock) -> "Changes":
        """Compares two locks; one object that a lock lists under two names of its source counts once."""
        old, now = dict(_placed(before)), dict(_placed(after))
        return cls(
            new=tuple(one for place, one in now.items() if place not in old),
            changed=tuple(one for place, one in now.items() if place in old and _content(old[place]) != _content(one)),
            removed=tuple(one for place, one in old.items() if place not in now),
        )


def removed_since(after: SourceLock, before: SourceLock | None, recorded: SourceLock | None = None) -> SourceLock:
    """The objects that sources have lost, as they were last, until they are there again.

    The objects of a source that is left out are not lost, and stay unknown to the record; those that it had lost before
    stay in it.

    Args:
        after: the newest lock.
        before: the one before it.
        recorded: what this function returned for that one.

    Returns:
        A lock with the sources of `after` and, under a name that is free, each other source that objects are of.
    """
    here = {(role, uri) for role in _ROLES for uri in prefixes(after.uri(role)).values()}
    gone = dict(_placed(recorded)) if recorded is not None else {}
    if before is not None:
        gone |= {place: one for place, one in _placed(before) if (place.role, place.uri) in here}
    for place, _ in _placed(after):
        gone.pop(place, None)
    uris: dict[Role, str | None] = {}
    for role in _ROLES:
        wanted = {place.uri for place in gone if place.role == role}
        uris[role] = _of_all(after.uri(role), wanted, {} if recorded is None else named(recorded.uri(role)))
    begin = {(role, one): prefix for role, uri in uris.items() for prefix, one in prefixes(uri).items()}
    objects = [replace(one, name=begin[place.role, place.uri] + place.name) for place, one in gone.items()]
    return replace(
        after,
        train_uri=uris["train"] or after.train_uri,
        eval_uri=uris["eval"],
        objects=tuple(sorted(objects, key=lambda one: (one.role, one.name))),
    )


class _Place(NamedTuple):
    role: Role
    uri: str
    """Of its source, one of several too."""
    name: str
    """In there."""


def _placed(lock: SourceLock) -> Iterator[tuple[_Place, SourceObject]]:
    sources = {role: prefixes(lock.uri(role)) for role in _ROLES}
    for one in lock.objects:
        prefix, name = divided(lock.uri(one.role), one.name)
        yield _Place(one.role, sources[one.role][prefix], name), one


def _content(one: SourceObject) -> SourceObject:
    return replace(one, name="")


def _of_all(uri: str | None, wanted: set[str], known: Mapping[str, str]) -> str | None:
    """The URI of these sources and of others; it is as it was where there are no others.

    Args:
        uri: of the sources whose names stay.
        wanted: URIs of sources, these and others.
        known: sources by the names that the others had.
    """
    others = sorted(wanted.difference(prefixes(uri).values()))
    if not others:
        return uri
    if uri is None and len(others) == 1:
        return others[0]
    names = {one: name for name, one in known.items()}
    found = dict(named(uri))
    unnamed = [] if uri is None or found else [uri]
    for one in unnamed + others:
        found[_free(names.get(one, _UNNAMED), found)] = one
    return joined(found)


def _free(name: str, taken: Mapping[str, str]) -> str:
    """This name, or if it is taken the first that is not, such as `web-2`."""
    numbered = (f"{name[:_STEM]}-{number}" for number in range(2, len(taken) + 3))
    return name if name not in taken else next(one for one in numbered if one not in taken)
