"""F12: hostile images are quarantined with a reason or decoded by the stated policy, and the run goes on."""

import errno
import itertools
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data.decoding import decode_rgb
from components.data.ingest import IngestParams, build_manifest
from components.data.ingest_cache import KeptShards
from components.data.inspection import Inspector, Outcome, Wanted
from components.data.lock import Annotation, SourceObject
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.worker_process import Bounds
from components.data.workers import map_chunks
from components.errors import UserError
from components.settings import Settings
from tests.hostile import FORMATS, corpus, encode, many_scans, photo

REASONS = {
    "empty", "not-an-image", "truncated", "broken", "too-many-pixels", "too-small", "too-narrow", "unsupported-depth",
    "too-many-bytes", "too-much-memory", "too-slow", "decoder-crashed",
}  # fmt: skip
"""All that docs/decoding.md knows."""
GOOD = 12


def ingest(images: Path, out: Path, **params: object) -> Manifest:
    """An ingest of a folder, in two workers and without a memory of earlier ones."""
    fresh = Settings(root=out, home=out, threads=2, _env_file=None)
    lock = take_snapshot(SnapshotParams(source=str(images), include=("*",)), fresh)
    build_manifest(lock, IngestParams(**params), out / "manifest", out / "shards", fresh)
    return Manifest.load(out / "manifest")


def outcomes(manifest: Manifest) -> dict[str, tuple[str, tuple[int, int]]]:
    """`ok` or the reason, and the size, by name."""
    rows = manifest.sources.join(manifest.images, "id").to_pylist()
    return {row["name"]: (row["reason"] or row["status"], (row["width"], row["height"])) for row in rows}


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "shards").iterdir()}


def write_good(folder: Path) -> None:
    folder.mkdir()
    for seed in range(GOOD):
        (folder / f"good-{seed}.jpg").write_bytes(encode(photo(seed=100 + seed), "JPEG"))


def test_F12_every_hostile_file_has_the_outcome_that_the_policy_states(tmp_path: Path) -> None:
    hostile = corpus()
    assert len({one.name for one in hostile}) == len(hostile) >= 200
    folder = tmp_path / "images"
    write_good(folder)
    for one in hostile:
        (folder / one.name).write_bytes(one.data)
    manifest = ingest(folder, tmp_path / "out")
    found = outcomes(manifest)
    wrong = {one.name: found[one.name] for one in hostile if found[one.name][0] not in one.outcomes}
    assert not wrong
    assert all(found[one.name][1] == one.size for one in hostile if one.size is not None)
    assert all(found[f"good-{seed}.jpg"][0] == "ok" for seed in range(GOOD))
    with ShardReader(tmp_path / "out" / "shards", manifest.locations, verify=True) as reader:
        for row in manifest.images.filter(pc.equal(manifest.images["status"], "ok")).to_pylist():
            assert decode_rgb(reader.read(row["id"])).size == (row["width"], row["height"])


def test_F12_a_half_hostile_folder_gives_the_manifest_of_a_clean_one_and_the_quarantine(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_good(folder)
    for one in corpus()[::3]:
        (folder / one.name).write_bytes(one.data)
    manifest = ingest(folder, tmp_path / "hostile")
    for name, (status, _) in outcomes(manifest).items():
        if status != "ok":
            (folder / name).unlink()
    clean = ingest(folder, tmp_path / "clean")
    assert manifest.images.filter(pc.equal(manifest.images["status"], "ok")).equals(clean.images)
    assert manifest.locations.equals(clean.locations)
    assert shards(tmp_path / "hostile") == shards(tmp_path / "clean")


def test_F12_an_image_that_takes_too_long_is_quarantined_and_its_neighbours_are_not(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_good(folder)
    (folder / "good-5-slow.jpg").write_bytes(many_scans(side=4000, scans=3000))
    found = outcomes(ingest(folder, tmp_path / "out", max_seconds=1))
    assert found.pop("good-5-slow.jpg")[0] == "too-slow"
    assert {status for status, _ in found.values()} == {"ok"}


BASES = [encode(photo((48, 40), seed=50), form) for form in FORMATS]
BASES += [encode(photo((48, 40), seed=51).convert(mode), "PNG") for mode in ("1", "LA", "P", "RGBA")]
BASES += [encode(photo((48, 40), seed=52), "JPEG", progressive=True)]
BASES += [encode(photo((48, 40), seed=53), "TIFF", compression=one) for one in ("tiff_lzw", "packbits", "jpeg")]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file to which a few things have happened."""
    data = bytearray(draw(st.sampled_from(BASES)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(data)))
        end = draw(st.integers(place, min(len(data), place + 64)))
        match draw(st.sampled_from(("replace", "cut", "insert", "repeat", "splice", "number"))):
            case "replace":
                data[place:end] = draw(st.binary(max_size=16))
            case "cut":
                del data[place:]
            case "insert":
                data[place:place] = draw(st.binary(max_size=64))
            case "repeat":
                data[place:place] = data[place:end] * draw(st.integers(1, 50))
            case "splice":
                data[place:] = draw(st.sampled_from(BASES))[place:]
            case "number":
                values = st.sampled_from((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFF, 0xFFFFFFFF))
                data[place : place + 4] = draw(values).to_bytes(4, draw(st.sampled_from(("little", "big"))))
    return bytes(data)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))
@given(files=st.lists(mutated(), min_size=8, max_size=40))
def test_F12_whatever_happens_to_files_each_is_decoded_or_has_a_reason(
    tmp_path_factory: pytest.TempPathFactory, files: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("fuzz")
    write_good(root / "images")
    for number, data in enumerate(files):
        (root / "images" / f"fuzz-{number}").write_bytes(data)
    manifest = ingest(root / "images", root / "out", max_pixels=1_000_000)
    assert manifest.sources.num_rows == GOOD + len(files)
    assert {reason for reason in manifest.images["reason"].to_pylist() if reason} <= REASONS
    with ShardReader(root / "out" / "shards", manifest.locations, verify=True) as reader:
        for row in manifest.images.filter(pc.equal(manifest.images["status"], "ok")).to_pylist():
            assert decode_rgb(reader.read(row["id"])).size == (row["width"], row["height"])


@dataclass(frozen=True)
class Hostile:
    """A source in which reading an object is work, as it is with frames of a video."""

    uri: str = "hostile"

    def list(self) -> Iterator[SourceObject]:
        """Nothing is listed."""
        return iter(())

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Never ends, takes all memory, is refused a mapping, or reads the picture that the name is the number of."""
        if name == "hangs":
            sum(itertools.repeat(0))
        if name == "grows":
            return bytes(1 << 40)
        if name == "maps":
            mmap.mmap(-1, 1 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
        if name == "unreadable":
            raise OSError(errno.EIO, "Input/output error")
        return encode(photo(seed=int(name)), "JPEG")

    def annotation(self, name: str) -> Annotation:
        """Nothing is known."""
        return Annotation()

    def truth(self) -> None:
        """Nothing is known."""


def inspected(tmp_path: Path, *names: str) -> list[Outcome]:
    """What becomes of objects of a hostile source, in one chunk."""
    kept = KeptShards(tmp_path)
    inspector = Inspector({"train": Hostile()}, 1 << 24, 1 << 24, 8, 50.0, kept)
    wanted = [Wanted(SourceObject("train", name, None, f"video:{name}")) for name in names]
    bounds = Bounds(1.0, 1 << 30)
    (found,) = map_chunks(inspector.inspect_all, [wanted], workers=1, bounds=bounds, refuse=inspector.refuse)
    return found


def test_F12_reading_that_never_ends_or_takes_all_memory_is_quarantined_and_not_tried_in_the_stage(
    tmp_path: Path,
) -> None:
    found = inspected(tmp_path, "1", "hangs", "2", "grows", "maps", "3")
    reasons = ["too-slow", "too-much-memory", "too-much-memory"]
    assert [one.verdict.reason for one in found] == [None, reasons[0], None, *reasons[1:], None]
    assert len({one.id for one in found}) == 6


def test_F12_a_disk_that_cannot_be_read_is_no_hostile_image(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unreadable: Input/output error"):
        inspected(tmp_path, "1", "unreadable")
