"""Several evaluation sets, each with its own bound for what leaks from it."""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int
from pydantic import Field

from components.data.manifest import Manifest
from components.errors import UserError
from components.parameters import Params

_log = logging.getLogger(__name__)
REST = "evaluation"
"""Name of the set that holds the evaluation images of no other."""


class EvaluationSet(Params):
    """One of several evaluation sources, or a part of one."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$", description="in metrics and tables")
    pattern: str | None = Field(
        None,
        min_length=1,
        description="what the names of its images match, such as flowers/*; null: NAME/*, those of the evaluation "
        "source of that name",
    )
    leak_threshold: float = Field(gt=0, le=1, description="as dedup.leak_threshold, for this set")

    @property
    def images(self) -> str:
        """What the names of its images match."""
        return self.pattern or f"{self.name}/*"


class Membership(NamedTuple):
    """Which images are of which evaluation set."""

    names: tuple[str, ...]
    members: Bool[np.ndarray, "sets n"]
    """An image may be of several sets."""
    threshold: Float[np.ndarray, " n"]
    """Agreement from which on another image leaks from this one; the lowest of its sets; 2 outside of all."""

    @property
    def evaluation(self) -> Bool[np.ndarray, " n"]:
        """Whether an image is of any set."""
        return np.asarray(self.members.any(axis=0))


def matched(sources: pa.Table, patterns: Sequence[str]) -> list[tuple[str, str, list[bool]]]:
    """Match the names of evaluation images, as `dedup.evaluation_sets` and `retrieve.sets` do.

    Args:
        sources: `id`, `name`, `split` of the manifest.
        patterns: as of a shell, but `*` also stands for `/`; case counts.

    Returns:
        Id and name of each evaluation object, and which of the patterns it matches.
    """
    rows = sources.filter(pc.equal(sources["split"], "eval"))
    return [
        (one, name, [fnmatchcase(name, pattern) for pattern in patterns])
        for one, name in zip(rows["id"].to_pylist(), rows["name"].to_pylist(), strict=True)
    ]


def sources_with_images(names: Iterable[str], manifest: Manifest, forgotten: Collection[str]) -> list[str]:
    """Those of several evaluation sources that have an image that can be used; of the others a warning says why not.

    Args:
        names: of the sources.
        manifest: all images, forgotten ones too.
        forgotten: ids of images that must not be used.
    """
    patterns = {name: f"{name}/*" for name in names}
    found = []
    for name, one in zip(patterns, _counted(manifest, forgotten, list(patterns.values())), strict=True):
        if one.usable:
            found.append(name)
        else:
            _log.warning("evaluation source %s is left out: none of its images can be used (%s)", name, one.lost)
    return found


def require_usable(patterns: Mapping[str, str], manifest: Manifest, forgotten: Collection[str]) -> None:
    """Refuses sets of evaluation images none of which can be used; a set that matches no name is another mistake.

    Args:
        patterns: of the names of the images of each set, by what errors call it.
        manifest: all images, forgotten ones too.
        forgotten: ids of images that must not be used.

    Raises:
        UserError: if a set has images, but all are quarantined or forgotten.
    """
    for name, one in zip(patterns, _counted(manifest, forgotten, list(patterns.values())), strict=True):
        if one.lost and not one.usable:
            raise UserError(
                f"{name} matches only evaluation images that cannot be used ({one.lost})",
                remedy="remove the set, or take a snapshot with images of it that decode",
            )


class _Counts(NamedTuple):
    """Distinct evaluation images that a pattern matches."""

    usable: int
    quarantined: int
    forgotten: int
    """Quarantined ones too."""

    @property
    def lost(self) -> str:
        """Those that cannot be used, such as `2 quarantined, 1 forgotten`; nothing if there are none."""
        counts = {"quarantined": self.quarantined, "forgotten": self.forgotten}
        return ", ".join(f"{count} {why}" for why, count in counts.items() if count)


def _counted(manifest: Manifest, forgotten: Collection[str], patterns: Sequence[str]) -> list[_Counts]:
    gone, readable = frozenset(forgotten), frozenset(manifest.ids("eval"))
    images: list[set[str]] = [set() for _ in patterns]
    for image, _, hits in matched(manifest.sources, patterns):
        for members, hit in zip(images, hits, strict=True):
            if hit:
                members.add(image)
    return [_Counts(len((one & readable) - gone), len(one - readable - gone), len(one & gone)) for one in images]


def sets_of_sources(names: Iterable[str], leak_threshold: float) -> tuple[EvaluationSet, ...]:
    """One set for each of several evaluation sources, for where no sets are given.

    Args:
        names: of the sources. One of the name of the rest is the rest.
        leak_threshold: of all of them.
    """
    return tuple(EvaluationSet(name=name, leak_threshold=leak_threshold) for name in names if name != REST)


def assign(sets: Sequence[EvaluationSet], rest: float, ids: Sequence[str], sources: pa.Table) -> Membership:
    """Tell evaluation images apart by their names.

    Args:
        sets: what there is.
        rest: threshold of the evaluation images that are of no set.
        ids: all images.
        sources: `id`, `name`, `split` of the manifest.

    Raises:
        UserError: if a set has no image.
    """
    place = {one: number for number, one in enumerate(ids)}
    names, thresholds = [one.name for one in sets], [one.leak_threshold for one in sets]
    members = np.zeros((len(sets) + 1, len(ids)), bool)
    for image, _, hits in matched(sources, [each.images for each in sets]):
        if image in place:
            members[:, place[image]] |= [*hits, not any(hits)]
    for one, row in zip(sets, members, strict=False):
        if not row.any():
            remedy = "it is matched with names such as in data/source.lock; mend dedup.evaluation_sets"
            raise UserError(f"{one.images} of the set {one.name} matches no evaluation image", remedy=remedy)
    bounds = np.where(members, np.array([*thresholds, rest])[:, None], 2.0)
    return Membership((*names, REST), members, bounds.min(axis=0))


def leaks_by_set(
    membership: Membership, training: Bool[np.ndarray, " n"], components: Int[np.ndarray, " n"]
) -> dict[str, int]:
    """Count the training images whose component touches each set; one may touch several."""
    touched = (np.isin(components, np.unique(components[one])) & training for one in membership.members)
    return {name: int(rows.sum()) for name, rows in zip(membership.names, touched, strict=True)}
