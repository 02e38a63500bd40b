"""Which index of a set is what: pictures, copies, leaks, hard negatives.

Indices are planned in blocks of 100, each from its own stream, and refer only to earlier ones of their block (leaks:
to the eval part). So the first n pictures of a set are the same however many follow.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from numpy.random import Generator

from components.data.scenes.actions import FRAMES
from components.data.scenes.draws import below, permutation, pick, stream
from components.data.scenes.layout import EVAL, TRAIN, TWIN
from components.data.scenes.planting import TRANSFORMS
from components.data.scenes.spec import ScenesSpec

Kind = Literal["image", "copy", "leak", "off_topic", "broken", "negative"]
BLOCK = 100
PNG_SHARE = 0.03
NEGATIVE_KINDS = ("scene", "pose", "colours", "background")
"""Same instance in much the same pose in another scene; same instance and scene in another pose; another instance of
the class with the same colours; another object before the same background. Frames of a clip come on top, as `frame`."""
UNSEEN_SHARE = 0.25
"""Instances that only the eval part shows, for each one that the train part shows."""


@dataclass(frozen=True)
class Entry:
    """One file of a set. `original` is an index of the same part, for a leak one of the eval part."""

    part: int
    index: int
    kind: Kind
    category: str
    instance: int
    png: bool
    original: int | None = None
    transform: str | None = None
    negative_kind: str | None = None
    clip: int | None = None
    frame: int | None = None

    @property
    def name(self) -> str:
        """Path of the file: part, class and a number that tells nothing."""
        offset = 2_654_435_769 if self.part == TRAIN else 1_013_904_223
        number = (self.index * 2_246_822_519 + offset) % 2**32
        return (
            f"{'train' if self.part == TRAIN else 'eval'}/{self.category}/{number:010d}.{'png' if self.png else 'jpg'}"
        )


def entry(spec: ScenesSpec, part: int, index: int) -> Entry:
    """Return the plan of one index."""
    return _block(spec, part, index // BLOCK)[index % BLOCK]


def entries(spec: ScenesSpec, part: int) -> list[Entry]:
    """Return the plan of a whole part, in the order of the indices."""
    count = spec.images if part == TRAIN else spec.eval
    return [entry(spec, part, index) for index in range(count)]


@lru_cache(maxsize=1024)
def _block(spec: ScenesSpec, part: int, block: int) -> tuple[Entry, ...]:
    rng = stream(spec.seed, "plan", block, part)
    kinds = _kinds(spec, rng) if part == TRAIN else ["image"] * BLOCK
    shift = below(rng, spec.classes)
    categories = [spec.categories[(int(rank) + shift) % spec.classes] for rank in permutation(rng, BLOCK)]
    unseen = max(1, round(spec.instances * UNSEEN_SHARE)) if part == EVAL else 0
    planned: list[Entry] = []
    clip: list[Entry] = []
    for slot in range(BLOCK):
        one = Entry(
            part=part,
            index=block * BLOCK + slot,
            kind="image",
            category=categories[slot],
            instance=below(rng, spec.instances + unseen),
            png=rng.random() < PNG_SHARE,
        )
        one = _assign(spec, one, kinds[slot], planned, clip, rng)
        planned.append(one)
    return tuple(planned)


def _kinds(spec: ScenesSpec, rng: Generator) -> list[str]:
    """Deal the kinds out over a block: in every block within one of their share, in the mean exactly."""
    shares = {
        "copy": spec.copies,
        "leak": spec.leaks,
        "off_topic": spec.off_topic,
        "broken": spec.broken,
        "negative": spec.negatives,
        "clip": spec.clips,
    }
    offset = rng.random()
    kinds = []
    for rank in permutation(rng, BLOCK):
        level, kind = (int(rank) + offset) / BLOCK, "image"
        for candidate, share in shares.items():
            if level < share:
                kind = candidate
                break
            level -= share
        kinds.append(kind)
    return kinds


def _assign(spec: ScenesSpec, one: Entry, kind: str, earlier: list[Entry], clip: list[Entry], rng: Generator) -> Entry:
    """Give an entry its kind; without a fitting original before it in the block it stays an image."""
    originals = [other for other in earlier if other.kind == "image" and other.clip is None]
    if kind == "copy" and originals:
        original = pick(rng, originals)
        name = pick(rng, tuple(TRANSFORMS))
        return _like(one, original, kind="copy", transform=name)
    if kind == "leak":
        original = entry(spec, EVAL, below(rng, spec.eval))
        return _like(one, original, kind="leak", transform=pick(rng, tuple(TRANSFORMS)))
    if kind == "off_topic":
        return replace(one, kind="off_topic")
    if kind == "broken":
        return replace(one, kind="broken")
    if kind == "negative" and originals:
        return _negative(spec, one, pick(rng, originals), pick(rng, NEGATIVE_KINDS))
    if kind == "clip":
        return _frame(one, clip)
    return one


def _like(one: Entry, original: Entry, kind: Kind, transform: str) -> Entry:
    return replace(
        one,
        kind=kind,
        category=original.category,
        instance=original.instance,
        original=original.index,
        transform=transform,
    )


def _negative(spec: ScenesSpec, one: Entry, original: Entry, negative_kind: str) -> Entry:
    one = replace(one, kind="negative", negative_kind=negative_kind, original=original.index)
    if negative_kind == "background":
        names = spec.categories
        other = names[(names.index(original.category) + 1 + one.index % (len(names) - 1)) % len(names)]
        return replace(one, category=other)
    if negative_kind == "colours":
        return replace(one, category=original.category, instance=TWIN + original.instance)
    return replace(one, category=original.category, instance=original.instance)


def _frame(one: Entry, clip: list[Entry]) -> Entry:
    """Append a frame to the block's open clip, or start the next one."""
    if len(clip) == FRAMES:
        clip.clear()
    if not clip:
        one = replace(one, clip=one.index, frame=0)
    else:
        one = replace(
            one,
            kind="negative",
            negative_kind="frame",
            category=clip[0].category,
            instance=clip[0].instance,
            original=clip[-1].index,
            clip=clip[0].index,
            frame=len(clip),
        )
    clip.append(one)
    return one
