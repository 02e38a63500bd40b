"""From the objects of a snapshot to the manifest and the shards."""

import re
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from components.data.decoding import EXTENSIONS, MAX_PIXELS
from components.data.inspection import Inspection, Inspector
from components.data.lock import Role, SourceLock, SourceObject
from components.data.manifest import Manifest
from components.data.manifest_builder import ManifestBuilder
from components.data.shards import SHARD_LIMIT, ShardWriter
from components.data.sources import Source, open_source
from components.data.workers import chunked, map_chunks
from components.parameters import Params
from components.settings import Settings
from components.tracking import progress

MANY_OBJECTS = 1000
MANY_BYTES = 64 << 20
ASSUMED_BYTES = 16 << 10
"""Size of an object of unknown size, for cutting chunks."""
SHARD_OVERHEAD = 4096


class IngestParams(Params):
    """How images are checked and stored."""

    holdout_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of the groups, or images, held out where there is no evaluation source"
    )
    seed: int = Field(0, ge=0, description="seed of the held-out draw")
    max_pixels: int = Field(
        50_000_000, ge=1, le=MAX_PIXELS, description="width × height above which an image is quarantined, pixels"
    )
    max_bytes: int = Field(
        100 << 20, ge=1, le=SHARD_LIMIT - SHARD_OVERHEAD, description="file size above which it is quarantined, bytes"
    )
    min_side: int = Field(8, ge=1, description="shorter side below which an image is quarantined, pixels")
    max_aspect: float = Field(
        50.0, ge=1, le=1000, description="longer side over shorter side above which an image is quarantined"
    )
    shard_bytes: int = Field(SHARD_LIMIT, ge=1 << 16, le=SHARD_LIMIT, description="size of a shard at most, bytes")
    group_pattern: str | None = Field(
        None,
        description="regular expression searched in names; (?P<group>…) names the video or instance, whose images "
        "stay on one side of the held-out split, and (?P<frame>\\d+) the frame",
    )

    @field_validator("group_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        if pattern is None:
            return None
        try:
            names = set(re.compile(pattern).groupindex)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if "group" not in names or names - {"group", "frame"}:
            raise ValueError("it needs a part (?P<group>…), and may have (?P<frame>…)")
        return pattern

    @model_validator(mode="after")
    def _fits(self) -> "IngestParams":
        if self.max_bytes > self.shard_bytes - SHARD_OVERHEAD:
            raise ValueError(f"max_bytes must be at most shard_bytes - {SHARD_OVERHEAD}")
        return self


def build_manifest(
    lock: SourceLock, params: IngestParams, out_manifest: Path, out_shards: Path, settings: Settings
) -> dict[str, float]:
    """Reads every object of a lock once, in the order of the lock, and writes manifest and shards.

    Every object is verified against the lock. An image that decodes goes into a shard, once however often it occurs;
    one that does not is quarantined with a reason. Shards hold the images in the order of the lock (role, then name),
    so that images whose names sort last leave the shards before them as they are. Memory holds a bounded number of
    objects, and some hundred bytes an image for the tables.

    Args:
        lock: the snapshot.
        params: limits, and the held-out draw.
        out_manifest: folder to make for the tables.
        out_shards: folder to make for the shards.
        settings: where S3 is, and how many processes decode.

    Returns:
        Flat metrics: `images` (distinct), `ok`, `quarantined`, `quarantined.<reason>`, `sources` (objects),
        `duplicates_exact`, `train`, `eval` (images that decode), `classes`, `shards`, `bytes` (of images that
        decode) and, where the truth is known, `broken.planted` and `broken.quarantined` (files).

    Raises:
        UserError: if an object is gone or changed, or if too few images decode.
    """
    sources = _open(lock, settings)
    out_manifest.mkdir(parents=True)
    out_shards.mkdir(parents=True)
    builder = ManifestBuilder(lock, params.group_pattern)
    inspected = _inspected(lock, sources, params, settings)
    with closing(inspected), ShardWriter(out_shards, params.shard_bytes) as shards:
        for found in progress(inspected, total=len(lock.objects), description="ingest"):
            if builder.add(found) and found.data is not None:
                shards.write(found.id, EXTENSIONS[found.format or ""], found.data)
        locations = shards.locations()
    truth = {role: table for role, source in sources.items() if (table := source.truth()) is not None}
    manifest = builder.build(locations, truth, fraction=params.holdout_fraction, seed=params.seed)
    manifest.save(out_manifest)
    return _metrics(manifest, shards)


def _open(lock: SourceLock, settings: Settings) -> dict[Role, Source]:
    patterns = {"include": lock.include, "exclude": lock.exclude}
    sources: dict[Role, Source] = {"train": open_source(lock.train_uri, role="train", settings=settings, **patterns)}
    if lock.eval_uri is not None:
        sources["eval"] = open_source(lock.eval_uri, role="eval", settings=settings, **patterns)
    return sources


def _inspected(
    lock: SourceLock, sources: Mapping[Role, Source], params: IngestParams, settings: Settings
) -> Generator[Inspection, None, None]:
    inspector = Inspector(sources, params.max_pixels, params.max_bytes, params.min_side, params.max_aspect)
    sizes = [_assumed_bytes(one, params) for one in lock.objects]
    many = len(sizes) >= MANY_OBJECTS or sum(sizes) >= MANY_BYTES  # else starting workers takes longer than the work
    chunks = chunked(lock.objects, lambda one: _assumed_bytes(one, params))
    return map_chunks(inspector.inspect_all, chunks, workers=settings.thread_count() if many else 1)


def _assumed_bytes(one: SourceObject, params: IngestParams) -> int:
    return ASSUMED_BYTES if one.size is None else min(one.size, params.max_bytes)


def _metrics(manifest: Manifest, shards: ShardWriter) -> dict[str, float]:
    images, rows = manifest.images.num_rows, manifest.sources.num_rows
    reasons = Counter(manifest.images["reason"].drop_null().to_pylist())
    metrics: dict[str, float] = {
        "images": images,
        "ok": images - reasons.total(),
        "quarantined": reasons.total(),
        **{f"quarantined.{reason}": count for reason, count in reasons.items()},
        "sources": rows,
        "duplicates_exact": rows - images,
        "train": len(manifest.ids("train")),
        "eval": len(manifest.ids("eval")),
        "classes": len(manifest.class_names),
        "shards": shards.shards,
        "bytes": shards.nbytes,
    }
    if manifest.truth is not None:
        metrics |= _broken(manifest.truth, set(manifest.ids(status="quarantined")))
    return metrics


def _broken(truth: pa.Table, quarantined: set[str]) -> dict[str, float]:
    """Files known to be broken, and how many of them were quarantined."""
    planted = [
        one for one, kind in zip(truth["id"].to_pylist(), truth["kind"].to_pylist(), strict=True) if kind == "broken"
    ]
    return {"broken.planted": len(planted), "broken.quarantined": sum(one in quarantined for one in planted)}
