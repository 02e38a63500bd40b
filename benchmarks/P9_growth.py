"""P9: what curation costs from N to 10 N: time for each image and peak memory, step by step.

`python -m benchmarks.P9_growth`: 10,000 and 100,000 images through embedding, deduplication, retrieval (by neighbours
and by clusters) and audit, 100,000 and 1,000,000 embeddings and hashes through faiss; `--tiny` for a trial. Every
measurement is a process of its own. Memory is what the process holds beyond what it held when the libraries were
loaded; pages of files, which the system may drop, are not counted.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.report import report

TINY = "--tiny" in sys.argv
IMAGES = (300, 900) if TINY else (10_000, 100_000)
EMBEDDINGS = (3_000, 9_000) if TINY else (100_000, 1_000_000)
REPEATS = 1 if TINY else 5
"""Of the smaller size; the larger is measured once, and takes ten times as long."""
DIMENSION, NEIGHBOURS = 384, 17
QUERIES = 50 if TINY else 500
HASHES_ASKED = 10_000
"""Hashes whose neighbours among all are looked for, at most; the time is scaled to all of them."""
GROWING = ("exact search", "retrieve by clusters")
"""Steps that are not flat by their nature: all with all, and clusters that grow with the root of the images."""
FLAT = 1.25
"""Time for an image at 10 N, of that at N, that counts as flat."""
KIB_AN_IMAGE, FIXED_MIB = 24, 1024
"""Stated bound of memory: so much for each image beside a fixed part."""


def main() -> None:
    """Measures and reports, or is one of the measured processes."""
    if "--child" in sys.argv:
        what, count = sys.argv[sys.argv.index("--child") + 1 :][:2]
        print(json.dumps({"images": images, "embeddings": embeddings}[what](int(count))))
        return
    images_found = [apart("images", count, repeats) for count, repeats in zip(IMAGES, (REPEATS, 1), strict=True)]
    ivf = [apart("embeddings", count, 1) for count in EMBEDDINGS]
    growth = {
        step: round(big / small, 3)
        for step, small, big in (
            (step, *(one["milliseconds_an_image"][step] for one in images_found))
            for step in images_found[0]["milliseconds_an_image"]
        )
    }
    flat = max(value for step, value in growth.items() if step not in GROWING)
    bounded = all(one["peak_mib"] <= FIXED_MIB + one["count"] * KIB_AN_IMAGE / 1024 for one in (*images_found, *ivf))
    report(
        "P9",
        "time for an image at 10 N of that at N, the step that grows most but for exact search and clusters",
        ratio=flat,
        bound=f"<= {FLAT}, memory <= {FIXED_MIB} MiB + {KIB_AN_IMAGE} KiB an image",
        holds=flat <= FLAT and bounded,
        figures={"growth": growth, "images": images_found, "faiss_ivf": ivf, "repeats": REPEATS},
        keep=not TINY,
    )


def apart(what: str, count: int, repeats: int) -> dict[str, Any]:
    """Medians over processes of their own."""
    command = [sys.executable, "-m", "benchmarks.P9_growth", "--child", what, str(count)]
    found = []
    for _ in range(repeats):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    steps = found[0]["milliseconds_an_image"]
    times = {step: statistics.median(one["milliseconds_an_image"][step] for one in found) for step in steps}
    return {**found[0], "milliseconds_an_image": times, "peak_mib": max(one["peak_mib"] for one in found)}


def images(count: int) -> dict[str, Any]:
    """Embedding, deduplication, retrieval and audit of so many images."""
    from components.curation.candidates import Search, candidate_pairs
    from components.curation.copies import FINE_SIDE, compare
    from components.curation.deduplication import (
        SHARPNESS_SIDE,
        DedupParams,
        choose,
        copy_components,
        pair_table,
        sharpness,
    )
    from components.curation.embedder import BUILTIN, EmbedderLock
    from components.curation.embedding import EmbedParams, Resources, embed
    from components.curation.expectations import expectations
    from components.curation.retrieval import RetrieveParams, retrieve
    from components.data.decoding import decode_rgb
    from components.data.shards import ShardReader
    from components.features.descriptor import descriptor_name
    from components.features.thumbnails import load_thumbnails

    expectations()  # loads Great Expectations
    with tempfile.TemporaryDirectory(prefix="selfsight-growth-") as temporary, watched(count) as watch:
        folder, params = Path(temporary), DedupParams(exact_up_to=max(EMBEDDINGS))
        with watch.step("made"):
            ids, hashes, locations = make_shards(folder, count)
        reader = ShardReader(folder, locations)
        with watch.step("embed"):
            vectors = embed(
                EmbedderLock(BUILTIN, descriptor_name(), ""), reader, ids, EmbedParams(),
                resources=Resources(threads=2), locations=locations,
            )  # fmt: skip
        nothing = np.zeros(count, bool)
        with watch.step("exact search"):
            candidates = candidate_pairs(
                [vectors], hashes, nothing[None], neighbours=params.neighbours, hash_distance=params.hash_distance,
                search=Search(params.exact_up_to, params.probes),
            )  # fmt: skip
        with watch.step("compare"):
            copies = compare(
                load_thumbnails(reader, ids),
                candidates.pairs,
                lambda rows: load_thumbnails(reader, [ids[row] for row in rows], side=FINE_SIDE),
                least=params.least,
            )
        with watch.step("components"):
            components, accepted = copy_components(copies, params.threshold, np.full(count, 2.0))
            groups = choose(
                ids, ~nothing, nothing, components, np.full(count, 4096),
                lambda one: sharpness(decode_rgb(reader.read(one), min_side=2 * SHARPNESS_SIDE)),
            )  # fmt: skip
        kept = groups["kept"].to_numpy()
        queries = {"some": vectors[:: max(1, count // QUERIES)][:QUERIES]}
        with watch.step("retrieve by neighbours"):
            found = retrieve(vectors[kept], queries, RetrieveParams(mode="knn"), "cpu")
        with watch.step("retrieve by clusters"):
            retrieve(vectors[kept], queries, RetrieveParams(mode="clusters", votes={"least": 1}), "cpu")
        with watch.step("audit"):
            curated = [ids[row] for row in np.flatnonzero(kept)[found.rows]]
            audit(ids, hashes, locations, vectors, groups, pair_table(ids, copies, accepted), curated)
        reader.close()
    found = watch.result()
    del found["milliseconds_an_image"]["made"]
    return {**found, "candidates": len(candidates.pairs), "groups": count - len(np.unique(components))}


def audit(
    ids: list[str], hashes: np.ndarray, locations: Any, vectors: np.ndarray, groups: Any, pairs: Any, curated: list[str]
) -> None:
    """Clusters, the map and both suites of the stage, without its page of pictures, whose number is fixed."""
    import pyarrow as pa

    from components.curation.audit import AuditParams, Curation, check_curated, check_embeddings
    from components.curation.clusters import training_clusters
    from components.curation.pictures import spread
    from components.curation.projection import principal_plane
    from components.data.manifest import IMAGES, SOURCES, Manifest

    same = {"format": "JPEG", "width": 64, "height": 64, "status": "ok", "reason": None}
    images = [{"id": one, "phash": int(code), **same} for one, code in zip(ids, hashes, strict=True)]
    sources = [{"id": one, "uri": f"clouds/{one}", "name": f"{one}.jpg", "split": "train"} for one in ids]
    manifest = Manifest(
        pa.Table.from_pylist(images, schema=IMAGES), pa.Table.from_pylist(sources, schema=SOURCES), locations
    )
    params, chosen = AuditParams(), set(curated)
    stays = np.array([one in chosen for one in ids], bool)
    curation = Curation(manifest, ids, vectors, groups, pairs, curated)
    clusters = training_clusters(ids, vectors, stays, params.clusters, params.seed)
    check_embeddings(curation, params)
    check_curated(curation, clusters.labels[stays], params)
    principal_plane(vectors[spread(range(len(ids)), params.points)])


def embeddings(count: int) -> dict[str, Any]:
    """Neighbours of so many embeddings, and of so many hashes, by faiss."""
    from components.features.large_search import ivf_top_k, nearest_hashes

    with watched(count) as watch:
        rng = np.random.default_rng(0)
        centres = rng.standard_normal((max(20, count // 500), DIMENSION), dtype=np.float32)
        vectors = np.empty((count, DIMENSION), np.float32)
        for first in range(0, count, 8192):
            rows = vectors[first : first + 8192]
            rows[:] = centres[rng.integers(0, len(centres), len(rows))]
            rows += 0.7 * rng.standard_normal(rows.shape, dtype=np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        with watch.step("faiss IVF"):
            found = ivf_top_k(vectors, vectors, NEIGHBOURS, probes=32)
        hashes = rng.integers(0, 2**63, count, dtype=np.uint64)
        asked = hashes[:: max(1, count // HASHES_ASKED)][:HASHES_ASKED]
        with watch.step("nearest hashes"):
            nearest_hashes(asked, hashes, NEIGHBOURS)
        watch.seconds["nearest hashes"] *= count / len(asked)
    return {**watch.result(), "recall": round(found.recall, 4)}


def make_shards(folder: Path, count: int) -> tuple[list[str], np.ndarray, Any]:
    """Small coloured clouds, every twentieth a copy of one before in another quality."""
    import hashlib

    from components.data.phash import phash
    from components.data.shard_writer import ShardWriter

    rng, known, before = np.random.default_rng(0), {}, []
    with ShardWriter(folder) as writer:
        for number in range(count):
            copied = number % 20 == 19
            if copied:
                picture = before[int(rng.integers(len(before)))]
            else:
                clouds = Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8))
                picture = clouds.resize((64, 64), Image.Resampling.BICUBIC)
                before = [*before[-50:], picture]
            buffer = BytesIO()
            picture.save(buffer, "JPEG", quality=60 + number % 30 if copied else 92)
            one = hashlib.sha256(buffer.getvalue()).hexdigest()
            if one not in known:
                known[one] = phash(picture)
                writer.write(one, "jpg", buffer.getvalue())
            else:  # the same bytes again: another picture instead, so that the count is kept
                extra = buffer.getvalue() + number.to_bytes(4, "big")
                one = hashlib.sha256(extra).hexdigest()
                known[one] = phash(picture)
                writer.write(one, "jpg", extra)
    locations = writer.locations()
    ids = sorted(known)
    return ids, np.array([known[one] for one in ids], np.uint64), locations


class Watch:
    """Times of steps, and the largest memory seen while they ran.

    Args:
        count: images.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: dict[str, float] = {}
        self.before = self.peak = anonymous()
        self.over = threading.Event()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Times a block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def look(self) -> None:
        """Looks at the memory until it is over."""
        while not self.over.wait(0.02):
            self.peak = max(self.peak, anonymous())

    def result(self) -> dict[str, Any]:
        """What was seen."""
        times = {name: round(1000 * taken / self.count, 5) for name, taken in self.seconds.items()}
        return {
            "count": self.count,
            "milliseconds_an_image": times,
            "peak_mib": round((self.peak - self.before) / 2**20, 1),
        }


@contextmanager
def watched(count: int) -> Iterator[Watch]:
    """Watches a block with two threads of torch."""
    import torch

    torch.set_num_threads(2)
    watch = Watch(count)
    looker = threading.Thread(target=watch.look, daemon=True)
    looker.start()
    try:
        yield watch
    finally:
        watch.over.set()
        looker.join()


def anonymous() -> int:
    """Bytes of memory that this process holds and that belong to no file."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
