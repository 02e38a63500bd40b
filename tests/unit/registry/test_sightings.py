"""Every registered version that has seen an image is found, and none that has not."""

import hashlib
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from artifacts import make_artifact

from components.data.forgotten import FORGOTTEN
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.data.tables import write_table
from components.registry.images import ImageRecords, ImageSources, among, pack
from components.registry.lineage import dvc_hash
from components.registry.promotion import promote
from components.registry.registration import register
from components.registry.sightings import Sightings, who_saw
from components.registry.versions import RegisteredVersion, by_number, champion
from components.settings import Settings
from components.tracking.mlflow_store import client


def ids(*numbers: int) -> list[str]:
    return sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in numbers)


def sources(root: Path, curated: list[str], pool: list[str]) -> ImageSources:
    """Outs of a pipeline with these images."""
    for name in ("manifest", "dedup", "curated"):
        shutil.rmtree(root / "data" / name, ignore_errors=True)
        (root / "data" / name).mkdir(parents=True)
    images = [{"id": one, "status": "ok"} for one in pool]
    places = [{"id": one, "uri": one, "name": one, "split": "train"} for one in pool]
    Manifest(
        images=pa.Table.from_pylist(images, schema=IMAGES),
        sources=pa.Table.from_pylist(places, schema=SOURCES),
        locations=LOCATIONS.empty_table(),
    ).save(root / "data" / "manifest")
    write_table(pa.table({"id": pa.array([], pa.string())}), root / "data" / "dedup" / FORGOTTEN)
    write_table(pa.table({"id": curated}), root / "data" / "curated" / "ids.parquet")
    return ImageSources(root, Path("data/manifest"), Path("data/dedup"), Path("data/curated"))


def registered(settings: Settings, seed: int, curated: list[str], **lineage: object) -> RegisteredVersion:
    """A version that was trained on these images, of a pool of one more."""
    found = sources(settings.root, curated, sorted({*curated, *ids(10_000 + seed)}))
    table = settings.root / "data" / "curated" / "ids.parquet"
    artifact = make_artifact(
        settings.root / f"artifact{seed}",
        seed,
        curated={"sha256": hashlib.sha256(table.read_bytes()).hexdigest(), "count": len(curated)},
        dependencies={name: dvc_hash(settings.root / name) for name in ("data/manifest", "data/curated")},
        **lineage,
    )
    return by_number(register(artifact, settings, images=found).version, settings)


def versions(found: Sightings) -> list[str]:
    return [one.version.version for one in found.seen]


def test_ids_are_found_in_a_packed_list_also_those_that_end_in_zeros() -> None:
    odd = ["0" * 64, "a" * 62 + "00", "f" * 64]
    packed = pack([*odd, *ids(1, 2, 3)])
    assert packed.nbytes == 6 * 32
    assert among([*odd, *ids(2, 9)], packed) == {*odd, *ids(2)}
    assert among(ids(1), pack([])) == among([], packed) == frozenset()


def test_versions_are_found_also_when_the_working_tree_has_moved_on(settings: Settings) -> None:
    registered(settings, 1, ids(1, 2))
    registered(settings, 2, ids(2, 3))
    shutil.rmtree(settings.root / "data")
    promote("2", settings, expected=None, reason="test")
    assert versions(who_saw(ids(1), settings)) == ["1"]
    assert versions(who_saw(ids(3), settings)) == ["2"]
    both = who_saw(ids(2), settings)
    assert [(one.version.version, one.aliases) for one in both.seen] == [("2", ("candidate", "champion")), ("1", ())]
    assert who_saw(ids(4), settings) == Sightings((), ())


def test_who_began_with_the_weights_of_a_version_has_seen_what_it_saw(settings: Settings) -> None:
    first = registered(settings, 1, ids(1))
    second = registered(settings, 2, ids(2), initial_sha256=first.digest, teacher_sha256="t" * 64)
    registered(settings, 3, ids(3), initial_sha256="t" * 64)
    registered(settings, 4, ids(4), initial_sha256="e" * 64, initial_converted_from_sha256="e" * 64)
    found = who_saw(ids(1), settings)
    assert found.unknown == (), "version 4 began with weights from elsewhere"
    assert versions(found) == ["3", "2", "1"]
    assert [one.ancestor and one.ancestor.version for one in found.seen] == ["1", "1", None]
    assert found.seen[0].images == frozenset()
    nearest = who_saw(ids(1, 2), settings).version("3")
    assert nearest is not None
    assert nearest.ancestor == second


def told_unknown(found: Sightings) -> list[tuple[str, str]]:
    return [(one.version.version, one.reason) for one in found.unknown]


def test_who_began_with_the_weights_of_a_version_that_was_deleted_is_unknown(settings: Settings) -> None:
    first = registered(settings, 1, ids(1))
    second = registered(settings, 2, ids(2), initial_sha256=first.digest)
    registered(settings, 3, ids(3), initial_sha256=second.digest)
    registered(settings, 4, ids(4))
    client(settings).delete_model_version("backbone", "1")
    found, lost = who_saw(ids(1), settings), "began with weights that are those of no registered version"
    assert found.seen == ()
    assert [number for number, _ in told_unknown(found)] == ["3", "2"]
    assert told_unknown(found)[0][1].startswith(f"version 2, whose weights it began with, {lost}")
    assert told_unknown(found)[1][1].startswith(f"it {lost}")
    assert told_unknown(who_saw(ids(2), settings)) == [], "both have seen it, whatever else they saw"
    assert [number for number, _ in told_unknown(who_saw(ids(2, 3), settings))] == ["2"]


def test_who_began_with_the_weights_of_a_version_whose_list_is_lost_is_unknown(settings: Settings) -> None:
    lost = make_artifact(settings.root / "lost", 9)
    first = register(lost, settings)
    registered(settings, 2, ids(2), initial_sha256=first.digest)
    assert told_unknown(who_saw(ids(1), settings)) == [
        ("2", "nothing tells any more what version 1, whose weights it began with, was trained on"),
        ("1", "nothing tells any more what it was trained on"),
    ]


def test_a_version_of_which_nothing_tells_is_named_and_told_once_its_images_are_back(settings: Settings) -> None:
    found = sources(settings.root, ids(1), ids(1))
    digest = hashlib.sha256((settings.root / "data/curated/ids.parquet").read_bytes()).hexdigest()
    artifact = make_artifact(settings.root / "a", 1, curated={"sha256": digest, "count": 1})
    aside = settings.root / "aside"
    shutil.move(settings.root / "data" / "curated", aside)
    register(artifact, settings, images=found)
    before = who_saw(ids(1), settings)
    assert before.seen == ()
    assert told_unknown(before) == [("1", "nothing tells any more what it was trained on")]
    shutil.move(aside, settings.root / "data" / "curated")
    register(artifact, settings, images=found)
    assert by_number("1", settings).tags["images.recorded"] == "trained.parquet"
    assert versions(who_saw(ids(1), settings)) == ["1"]


def test_a_version_from_before_the_record_is_found_through_dvcs_cache(settings: Settings) -> None:
    sources(settings.root, ids(1), ids(1))
    folder = settings.root / "data" / "curated"
    content = (folder / "ids.parquet").read_bytes()
    listing = dvc_hash(folder)
    md5 = hashlib.md5(content).hexdigest()
    cache = settings.root / ".dvc" / "cache" / "files" / "md5"
    for name, data in {md5: content, listing: f'[{{"md5": "{md5}", "relpath": "ids.parquet"}}]'.encode()}.items():
        (cache / name[:2]).mkdir(parents=True, exist_ok=True)
        (cache / name[:2] / name[2:]).write_bytes(data)
    curated = {"sha256": hashlib.sha256(content).hexdigest(), "count": 1}
    register(make_artifact(settings.root / "a", 1, curated=curated, dependencies={"data/curated": listing}), settings)
    shutil.rmtree(folder)
    assert versions(who_saw(ids(1), settings)) == ["1"]


def test_a_list_that_is_lost_does_not_hide_what_the_others_say(settings: Settings) -> None:
    lost = registered(settings, 1, ids(1, 2))
    registered(settings, 2, ids(2))
    shutil.rmtree(settings.root / "data")
    run = client(settings).get_run(lost.run_id)
    file = Path(run.info.artifact_uri.removeprefix("file://")) / "images" / "trained.parquet"
    file.write_bytes(b"another list")
    for _ in ("damaged", "gone"):
        found = who_saw(ids(2), settings)
        assert versions(found) == ["2"]
        assert [number for number, _ in told_unknown(found)] == ["1"]
        file.unlink(missing_ok=True)


def test_the_pool_of_a_version_holds_what_curation_dropped(settings: Settings) -> None:
    version = registered(settings, 1, ids(1, 2))
    shutil.rmtree(settings.root / "data")
    assert ImageRecords(settings).pool(version) == sorted(ids(1, 2, 10_001))
    unrecorded = register(make_artifact(settings.root / "b", 5), settings)
    assert ImageRecords(settings).pool(unrecorded) is None


def test_outs_of_another_run_are_not_recorded(settings: Settings) -> None:
    found = sources(settings.root, ids(1), ids(1))
    version = register(make_artifact(settings.root / "a", 1, curated={"sha256": "0" * 64}), settings, images=found)
    assert "images.recorded" not in by_number(version.version, settings).tags
    assert champion(settings) is None


@pytest.mark.slow
def test_an_image_is_looked_up_among_many_versions_in_about_a_second(settings: Settings) -> None:
    count, images = 60, 100_000
    packed = np.random.default_rng(0).bytes(32 * images)
    names = sorted(packed[start : start + 32].hex() for start in range(0, len(packed), 32))
    for seed in range(count):
        registered(settings, seed, sorted({*names[: images // 10], *ids(seed)}))
    who_saw(ids(0), settings)  # fetches the lists
    start = time.perf_counter()
    found = who_saw([*ids(7)], settings)
    took = time.perf_counter() - start
    assert versions(found) == ["8"]
    assert took < 3, took
