"""Which registered versions have seen an image: those trained on it, and those that began with their weights."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from components.registry.images import ImageRecords, among
from components.registry.versions import RegisteredVersion, aliases, all_versions
from components.settings import Settings

OWN_HASHES = ("artifact.sha256", "teacher.sha256", "student.sha256")
INITIAL_TAG = "initial.sha256"
FOREIGN_TAG = "initial.converted_from"
"""Stands on a version that began with weights which came from elsewhere, in a foreign format."""


@dataclass(frozen=True)
class Sighting:
    """A version that has seen images that were asked for."""

    version: RegisteredVersion
    aliases: tuple[str, ...]
    images: frozenset[str]
    """Those that it was trained on; none if only the version it began with was."""
    ancestor: RegisteredVersion | None = None
    """The version whose weights it began with, if that one has seen some."""


@dataclass(frozen=True)
class Unknown:
    """A version of which it cannot be said that it has not seen the images."""

    version: RegisteredVersion
    reason: str
    """As it goes on after "unknown, "."""


@dataclass(frozen=True)
class Sightings:
    """The answer for all versions."""

    seen: tuple[Sighting, ...]
    """The newest first."""
    unknown: tuple[Unknown, ...]
    """The newest first; a version that has seen some of the images for certain, and perhaps others, is in both."""

    def version(self, number: str) -> Sighting | None:
        """What is known of one version; None if it saw none."""
        return next((one for one in self.seen if one.version.version == number), None)


def who_saw(ids: Collection[str], settings: Settings) -> Sightings:
    """Looks for images in the training sets of all registered versions.

    Args:
        ids: SHA-256 of the images.
        settings: where MLflow and the cache are.

    Raises:
        RegistryUnavailable: if MLflow does not answer.
    """
    versions, records, carried = all_versions(settings), ImageRecords(settings), aliases(settings)
    lists = {one.version: records.trained(one) for one in versions}
    trained = {number: among(ids, packed) for number, packed in lists.items() if packed is not None}
    owners = _owners(versions)
    seen, unknown = [], []
    for version in versions:
        images, line = trained.get(version.version, frozenset()), ancestors(version, versions)
        ancestor = next((one for one in line if trained.get(one.version)), None)
        if images or ancestor is not None:
            seen.append(Sighting(version, tuple(carried.get(version.version, ())), images, ancestor))
        known = images.union(*(trained.get(one.version, ()) for one in line))
        reason = _gap([version, *line], trained, owners)
        if reason is not None and known != frozenset(ids):
            unknown.append(Unknown(version, reason))
    return Sightings(tuple(seen), tuple(unknown))


def _gap(
    line: Sequence[RegisteredVersion],
    trained: Collection[str],
    owners: Mapping[str, RegisteredVersion],
) -> str | None:
    """What nothing tells any more of a version and its ancestors, the nearest first; None if all is known."""
    untold = next((one for one in line if one.version not in trained), None)
    if untold is not None:
        which = "it" if untold == line[0] else f"version {untold}, whose weights it began with,"
        return f"nothing tells any more what {which} was trained on"
    first = line[-1]
    beginning = first.tags.get(INITIAL_TAG)
    if beginning is None or beginning in owners or FOREIGN_TAG in first.tags:
        return None
    which = "it" if first == line[0] else f"version {first}, whose weights it began with,"
    return f"{which} began with weights that are those of no registered version, or of one that was deleted"


def ancestors(version: RegisteredVersion, versions: Sequence[RegisteredVersion]) -> list[RegisteredVersion]:
    """Versions whose weights a version began with, the nearest first: it knows what they have seen.

    Args:
        version: where to begin.
        versions: all that are registered.
    """
    owners = _owners(versions)
    found: list[RegisteredVersion] = []
    parent = owners.get(version.tags.get(INITIAL_TAG, ""))
    while parent is not None and parent != version and parent not in found:
        found.append(parent)
        parent = owners.get(parent.tags.get(INITIAL_TAG, ""))
    return found


def _owners(versions: Sequence[RegisteredVersion]) -> Mapping[str, RegisteredVersion]:
    """The version that each hash of weights belongs to."""
    return {one.tags[name]: one for one in versions for name in OWN_HASHES if name in one.tags}
