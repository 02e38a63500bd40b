"""Pairs to choose a threshold by: copies planted in images of one's own, or pairs that somebody has labelled."""

import csv
import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from components.curation.copies import FINE_SIDE, compare
from components.curation.deduplication import DedupParams
from components.curation.embedder import BUILTIN
from components.curation.embedding import Describe
from components.curation.thresholds import ScoredPairs
from components.data.decoding import decode_stored
from components.data.phash import phash
from components.data.reading import Reader
from components.data.scenes.planting import TRANSFORMS, plant
from components.errors import UserError
from components.features.descriptor import describe_many
from components.features.search import top_k
from components.features.thumbnails import load_thumbnails

Measure = Literal["agreement", "cosine"]
COPIES = 3
"""Copies of each picture, each by another transformation."""
LEAST = 0.4
"""Agreement below which pairs are not looked at closely; no threshold lies there."""
QUALITY = 95
"""JPEG quality that planted pictures are stored with, on top of what was done to them."""
YES, NO = ("1", "true", "yes"), ("0", "false", "no")


class Described(NamedTuple):
    """All images that a threshold will work on."""

    ids: Sequence[str]
    vectors: Float[np.ndarray, "n dim"]
    """Of the stage `embed`."""


class _WithPlants:
    """Planted pictures in memory, all others from where they are."""

    def __init__(self, reader: Reader, plants: Mapping[str, bytes]) -> None:
        self.reader = reader
        self.plants = plants

    def read(self, image_id: str) -> bytes:
        return self.plants[image_id] if image_id in self.plants else self.reader.read(image_id)

    def prefetch(self, image_ids: Sequence[str]) -> None:
        self.reader.prefetch([one for one in image_ids if one not in self.plants])


class _Space(NamedTuple):
    """Vectors of images and of copies planted in some of them."""

    images: Float[np.ndarray, "n dim"]
    copies: Float[np.ndarray, "copies dim"]

    def cosine(self, rows: Int[np.ndarray, " copies"]) -> Float[np.ndarray, " copies"]:
        """Of each copy with its original, which is in that row."""
        found: Float[np.ndarray, " copies"] = np.einsum("pd,pd->p", self.copies, self.images[rows])
        return found

    def others(self, chosen: Int[np.ndarray, " chosen"], neighbours: int) -> Int[np.ndarray, "pairs 2"]:
        """Each of the chosen images with its nearest; the smaller row first, each pair once."""
        base = torch.from_numpy(self.images)
        near = top_k(base[torch.from_numpy(chosen)], base, neighbours + 1)[1].numpy()
        queries, rank = (near != chosen[:, None]).nonzero()
        pairs: Int[np.ndarray, "pairs 2"] = np.stack([chosen[queries], near[queries, rank]], axis=1)
        return np.unique(np.sort(pairs, axis=1), axis=0)

    def proposes(self, rows: Int[np.ndarray, " copies"], neighbours: int) -> Bool[np.ndarray, " copies"]:
        """Whether the original is among the nearest of its copy."""
        nearest, _ = top_k(torch.from_numpy(self.copies), torch.from_numpy(self.images), neighbours)
        found: Bool[np.ndarray, " copies"] = self.cosine(rows) >= nearest[:, -1].numpy() - 1e-6
        return found


def planted_pairs(
    reader: Reader, described: Described, describe: Describe, *, measure: Measure, images: int, params: DedupParams
) -> ScoredPairs:
    """Plant copies of some images, and measure them beside the nearest images that are no planted copies.

    A copy that deduplication would not compare with its original, because others are nearer, has the score 0.

    Args:
        reader: gives the bytes of an image.
        described: the training images.
        describe: gives the vectors of images by id, of the same embedder; made for any reader.
        measure: as `dedup.measure`.
        images: how many to plant copies of, spread over all.
        params: neighbours and distance of hashes.
    """
    ids = described.ids
    chosen = np.unique(np.linspace(0, len(ids) - 1, min(images, len(ids))).astype(np.int64))
    rows = np.repeat(chosen, COPIES)
    plants, names = _plant(reader, [ids[row] for row in rows.tolist()])
    copies = list(plants)
    whole = _WithPlants(reader, plants)
    spaces = [_Space(described.vectors, describe.of(whole)(copies))]
    if measure == "agreement" and describe.lock.uri != BUILTIN:  # as `dedup` does
        spaces.append(_Space(*(describe_many(load_thumbnails(*some)) for some in ((reader, ids), (whole, copies)))))
    others = np.unique(np.concatenate([space.others(chosen, params.neighbours) for space in spaces]), axis=0)
    firsts = [ids[row] for row in [*rows.tolist(), *others[:, 0].tolist()]]
    seconds = [*copies, *(ids[row] for row in others[:, 1].tolist())]
    if measure == "cosine":
        one, other = (described.vectors[others[:, side]] for side in (0, 1))
        score = np.concatenate([spaces[0].cosine(rows), np.einsum("pd,pd->p", one, other)])
    else:
        score = _agreement(whole, firsts, seconds)
        proposed = _like_hashes(whole, firsts[: len(copies)], copies, params.hash_distance)
        for space in spaces:
            proposed |= space.proposes(rows, params.neighbours)
        score[: len(copies)] *= proposed
    same = np.arange(len(firsts)) < len(copies)
    return ScoredPairs(firsts, seconds, score.astype(np.float32), same, [*names, *[None] * len(others)])


def labelled_pairs(
    path: Path, named: Mapping[str, str], reader: Reader, describe: Describe, measure: Measure
) -> ScoredPairs:
    """Measure the pairs of a CSV file with the columns `first`, `second`, `same`.

    Args:
        path: the file; images are named by id or by their name in the source, `same` is 1 or 0.
        named: id by name.
        reader: gives the bytes of an image by id.
        describe: gives vectors.
        measure: as `dedup.measure`.

    Raises:
        UserError: naming the line that is not understood.
    """
    firsts, seconds, same = [], [], []
    for number, row in enumerate(_rows(path), start=2):
        found = [named.get(row.get(key) or "", "") for key in ("first", "second")]
        label = (row.get("same") or "").strip().lower()
        if not all(found) or label not in (*YES, *NO):
            remedy = "name two images that were ingested, by id or by name in the source, and 1 or 0"
            raise UserError(f"{path}: line {number} is {list(row.values())}", remedy=remedy)
        firsts.append(found[0])
        seconds.append(found[1])
        same.append(label in YES)
    if not any(same):
        raise UserError(f"{path}: no pair of copies", remedy="label some pairs with 1 in the column 'same'")
    if measure == "cosine":
        one, other = describe(firsts), describe(seconds)
        score = np.einsum("pd,pd->p", one, other)
    else:
        score = _agreement(reader, firsts, seconds)
    return ScoredPairs(firsts, seconds, score.astype(np.float32), np.array(same, bool), [None] * len(firsts))


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        raise UserError(f"{path}: no readable CSV", remedy="give a file with the columns first,second,same") from None


def _plant(reader: Reader, originals: Sequence[str]) -> tuple[dict[str, bytes], list[str]]:
    """One copy of each, the transformations in turn; ids as those of any image, from the bytes."""
    rng = np.random.default_rng(0)
    plants: dict[str, bytes] = {}
    names = []
    for number, one in enumerate(originals):
        name = list(TRANSFORMS)[number % len(TRANSFORMS)]
        picture, _ = plant(decode_stored(reader.read, one), rng, name)
        buffer = BytesIO()
        picture.save(buffer, "JPEG", quality=QUALITY)
        # numbered, because two transformations may give the same bytes
        plants[f"{number}:{hashlib.sha256(buffer.getvalue()).hexdigest()}"] = buffer.getvalue()
        names.append(name)
    return plants, names


def _agreement(reader: Reader, firsts: Sequence[str], seconds: Sequence[str]) -> Float[np.ndarray, " pairs"]:
    ids = sorted({*firsts, *seconds})
    place = {one: number for number, one in enumerate(ids)}
    pairs = np.array([[place[a], place[b]] for a, b in zip(firsts, seconds, strict=True)], np.int64).reshape(-1, 2)

    def fine(rows: Int[np.ndarray, " rows"]) -> np.ndarray:
        return load_thumbnails(reader, [ids[row] for row in rows], side=FINE_SIDE)

    return compare(load_thumbnails(reader, ids), pairs, fine, least=LEAST).agreement


def _like_hashes(
    reader: Reader, firsts: Sequence[str], seconds: Sequence[str], distance: int
) -> Bool[np.ndarray, " copies"]:
    def bits(one: str) -> int:
        return phash(decode_stored(reader.read, one))

    return np.array([(bits(a) ^ bits(b)).bit_count() <= distance for a, b in zip(firsts, seconds, strict=True)], bool)
