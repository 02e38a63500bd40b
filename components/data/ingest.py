"""From the objects of a snapshot to the manifest and the shards."""

import logging
import re
from collections import Counter
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import islice, tee
from pathlib import Path

import PIL
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from components.data import decoding, inspection, phash
from components.data.decoding import EXTENSIONS, MAX_PIXELS
from components.data.ingest_cache import Finding, IngestCache, policy_of
from components.data.inspection import Inspection, Inspector, Wanted
from components.data.lock import Role, SourceLock, SourceObject
from components.data.manifest import Manifest
from components.data.manifest_builder import ManifestBuilder
from components.data.shard_writer import ShardWriter
from components.data.shards import SHARD_LIMIT
from components.data.sources import Source, open_source
from components.data.sources.downloads import downloads
from components.data.sources.web_cache import web_cache
from components.data.worker_process import Bounds
from components.data.workers import map_chunks
from components.parameters import Params
from components.settings import Settings
from components.tracking import progress

_log = logging.getLogger(__name__)
SHARD_OVERHEAD = 4096
CHUNK_ITEMS, CHUNK_BYTES = 64, 16 << 20
"""Most objects and bytes that a worker reads at a time; an object that is larger alone is read alone."""
STRETCH = 2048
"""Most objects, read or remembered, that are looked at in between."""
ASSUMED_BYTES = CHUNK_BYTES // 8
"""Size of an object of unknown size, for cutting chunks: a frame of a video may have megabytes."""
BYTES_OF_PIXEL = 32
"""Memory that decoding takes at its peak: a transparent image is at hand five times, with four bytes a pixel."""
WORKER_BYTES = 512 << 20
"""Memory of a worker beside an image: threads, a chunk, results that wait to be sent."""


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
    max_seconds: float = Field(
        30.0, ge=1, description="processor time of decoding above which an image is quarantined, seconds"
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
    lock: SourceLock,
    params: IngestParams,
    out_manifest: Path,
    out_shards: Path,
    settings: Settings,
    forgotten: Collection[str] = (),
) -> dict[str, float]:
    """Reads every object of a lock once, in the order of the lock, and writes manifest and shards.

    Every object is verified against the lock. An image that decodes goes into a shard, once however often it occurs;
    one that does not is quarantined with a reason. Shards hold the images in the order of the lock (role, then name),
    and where one ends depends on its last image alone (`shard_writer`). What an earlier run found out under the same
    digest, code and parameters is not found out again, and shards that it finished are used again; see `ingest_cache`.
    Memory holds a bounded number of objects, and some hundred bytes an image for the tables.

    Args:
        lock: the snapshot.
        params: limits, and the held-out draw.
        out_manifest: folder to make for the tables.
        out_shards: folder to make for the shards.
        settings: where S3 and the cache are, and how many processes decode.
        forgotten: images that must never be used. Those of the source are read as the others, `dedup` leaves them out;
            what an earlier run kept of them is deleted.

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
    cache_folder = settings.cache / "ingest"
    with IngestCache(cache_folder, _policy(params), verify=settings.verify_reads, forgotten=forgotten) as cache:
        inspector = Inspector(
            sources, params.max_pixels, params.max_bytes, params.min_side, params.max_aspect, cache.kept
        )
        inspected = _Inspected(lock, inspector, cache, params.max_seconds, settings.thread_count())
        with closing(iter(inspected)) as found_all, ShardWriter(out_shards, params.shard_bytes, cache) as shards:
            for found in progress(found_all, total=len(lock.objects), description="ingest"):
                if builder.add(found) and found.ok:
                    _store(found, inspector, shards)
        locations = shards.locations()
        _log.info("ingest: %d of %d objects were read", inspected.read, len(lock.objects))
    truth = {role: table for role, source in sources.items() if (table := source.truth()) is not None}
    manifest = builder.build(locations, truth, fraction=params.holdout_fraction, seed=params.seed)
    manifest.save(out_manifest)
    downloads(settings).clear()  # what is of use of it is in the shards; it may hold forgotten images
    web_cache(settings).clean({one.digest for one in lock.objects}, forgotten)
    return _metrics(manifest, shards)


def _open(lock: SourceLock, settings: Settings) -> dict[Role, Source]:
    patterns = {"include": lock.include, "exclude": lock.exclude}
    sources: dict[Role, Source] = {"train": open_source(lock.train_uri, role="train", settings=settings, **patterns)}
    if lock.eval_uri is not None:
        sources["eval"] = open_source(lock.eval_uri, role="eval", settings=settings, **patterns)
    return sources


def _policy(params: IngestParams) -> str:
    """What a verdict depends on besides the bytes."""
    code = [Path(str(module.__file__)) for module in (decoding, inspection, phash)]
    limits = params.model_dump(include={"max_pixels", "max_bytes", "min_side", "max_aspect", "max_seconds"})
    return policy_of(code, {**limits, "pillow": PIL.__version__})


def _store(found: Inspection, inspector: Inspector, shards: ShardWriter) -> None:
    extension = EXTENSIONS[found.verdict.format or ""]
    if found.data is not None:
        shards.write(found.id, extension, found.data)
        return
    assert found.place is not None
    wanted = Wanted(found.source, found.id, found.place)
    shards.reuse(found.id, extension, found.place.nbytes, lambda: inspector.read(wanted) or b"")


@dataclass
class _Stretch:
    """Some objects of a lock in a row."""

    objects: list[SourceObject]
    known: dict[int, Inspection] = field(default_factory=dict)
    """By place, those that an earlier run has inspected."""
    wanted: list[Wanted] = field(default_factory=list)
    """The others."""

    def merged(self, fresh: Iterable[Inspection]) -> Iterator[Inspection]:
        others = iter(fresh)
        for place in range(len(self.objects)):
            yield self.known[place] if place in self.known else next(others)


class _Inspected:
    """What becomes of the objects of a lock, in its order."""

    def __init__(
        self, lock: SourceLock, inspector: Inspector, cache: IngestCache, max_seconds: float, workers: int
    ) -> None:
        self.read = 0
        """How many have been inspected now."""
        self._lock = lock
        self._inspector = inspector
        self._cache = cache
        self._workers = workers
        memory = WORKER_BYTES + 2 * inspector.max_bytes + BYTES_OF_PIXEL * inspector.max_pixels
        self._bounds = Bounds(max_seconds, memory)
        here = Path(__file__).parent
        makers = {"pillow": PIL.__version__, "av": _version("av")}  # of frames, and of generated images
        self._key = partial(inspector.key, code=policy_of(here.rglob("*.py"), makers))

    def __iter__(self) -> Generator[Inspection, None, None]:
        stretches, ahead = tee(self._stretches())
        chunks = (stretch.wanted for stretch in ahead)
        with closing(
            map_chunks(
                self._inspector.inspect_all,
                chunks,
                workers=self._workers,
                bounds=self._bounds,
                refuse=self._inspector.refuse,
            )
        ) as results:
            for outcomes, stretch in zip(results, stretches, strict=True):
                self.read += len(outcomes)
                sources = (one.source for one in stretch.wanted)
                fresh = [self._inspector.inspection(*one) for one in zip(sources, outcomes, strict=True)]
                for found in fresh:
                    if (key := self._key(found.source)) is not None:
                        self._cache.remember(key, found.id, found.verdict)
                yield from stretch.merged(fresh)

    def _stretches(self) -> Iterator[_Stretch]:
        objects = iter(self._lock.objects)
        while some := list(islice(objects, STRETCH)):
            keys = [self._key(one) for one in some]
            findings = self._cache.recall([key for key in keys if key is not None])
            stretch, nbytes = _Stretch([]), 0
            for one, key in zip(some, keys, strict=True):
                found = self._known(one, findings.get(key or ""))
                size = self._assumed_bytes(one) if isinstance(found, Wanted) else 0
                if stretch.wanted and size and (len(stretch.wanted) == CHUNK_ITEMS or nbytes + size > CHUNK_BYTES):
                    yield stretch
                    stretch, nbytes = _Stretch([]), 0
                if isinstance(found, Wanted):
                    stretch.wanted.append(found)
                else:
                    stretch.known[len(stretch.objects)] = found
                stretch.objects.append(one)
                nbytes += size
            yield stretch

    def _known(self, one: SourceObject, finding: Finding | None) -> Inspection | Wanted:
        if finding is None:
            return Wanted(one)
        if finding.verdict is None:
            return Wanted(one, finding.id, finding.place)
        return Inspection(one, self._inspector.annotation(one), finding.id, finding.verdict, place=finding.place)

    def _assumed_bytes(self, one: SourceObject) -> int:
        return ASSUMED_BYTES if one.size is None else max(1, min(one.size, self._inspector.max_bytes))


def _version(package: str) -> str | None:
    """The version of a package that may be absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


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
