"""Which registered versions have seen an image: those trained on it, and those that began with their weights."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from components.registry.images import ImageRecords, among
from components.registry.versions import RegisteredVersion, aliases, all_versions
from components.settings import Settings

OWN_HASHES = ("artifact.sha256", "teacher.sha256", "student.sha256")
INITIAL_TAG = "initial.sha256"


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
class Sightings:
    """The answer for all versions."""

    seen: tuple[Sighting, ...]
    """The newest first."""
    unknown: tuple[RegisteredVersion, ...]
    """Versions of which nothing tells any more what they were trained on."""

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
    trained: dict[str, frozenset[str]] = {}
    unknown = []
    for version in versions:
        packed = records.trained(version)
        if packed is None:
            unknown.append(version)
        else:
            trained[version.version] = among(ids, packed)
    seen = []
    for version in versions:
        images = trained.get(version.version, frozenset())
        ancestor = next((one for one in ancestors(version, versions) if trained.get(one.version)), None)
        if images or ancestor is not None:
            seen.append(Sighting(version, tuple(carried.get(version.version, ())), images, ancestor))
    return Sightings(tuple(seen), tuple(unknown))


def ancestors(version: RegisteredVersion, versions: Sequence[RegisteredVersion]) -> list[RegisteredVersion]:
    """Versions whose weights a version began with, the nearest first: it knows what they have seen.

    Args:
        version: where to begin.
        versions: all that are registered.
    """
    owners: Mapping[str, RegisteredVersion] = {
        one.tags[name]: one for one in versions for name in OWN_HASHES if name in one.tags
    }
    found: list[RegisteredVersion] = []
    parent = owners.get(version.tags.get(INITIAL_TAG, ""))
    while parent is not None and parent != version and parent not in found:
        found.append(parent)
        parent = owners.get(parent.tags.get(INITIAL_TAG, ""))
    return found
