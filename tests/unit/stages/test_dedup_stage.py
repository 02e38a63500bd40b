"""The stages `embed` and `dedup` on real files, after a real ingest."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from components.curation.deduplication import DedupParams
from components.curation.embedder import BUILTIN, EmbedderLock, write_embedder_lock
from components.curation.embedding import EmbedParams
from components.data.forgotten import write_forgotten
from components.data.ingest import IngestParams
from components.data.lock import write_lock
from components.data.manifest import Manifest
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.tables import read_table
from components.errors import UserError
from components.features.descriptor import descriptor_name
from components.features.thumbnails import load_thumbnails
from components.settings import Settings
from components.stages import dedup, embed, ingest, paths
from tests.textures import jpeg, texture

SETS = [
    {"name": "flowers", "pattern": "flowers/*", "leak_threshold": 0.7},
    {"name": "streets", "pattern": "streets/*", "leak_threshold": 0.6},
]


def write(path: Path, seed: int, quality: int = 92) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(jpeg(texture(seed), quality))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures 0 to 11 to train on, the first four also as copies; 20 and 21 leak from either evaluation set."""
    folder = tmp_path_factory.mktemp("sources")
    for seed in range(12):
        write(folder / "train" / f"{seed}.jpg", seed)
    for seed in range(4):
        write(folder / "train" / f"copy-{seed}.jpg", seed, quality=60)
    for seed, name in ((20, "flowers"), (21, "streets"), (22, "streets")):
        write(folder / "eval" / name / f"{seed}.jpg", seed)
    for seed in (20, 21):
        write(folder / "train" / f"leak-{seed}.jpg", seed, quality=50)
    return folder


@pytest.fixture
def context(project: Path, made: Path) -> Any:
    settings = Settings(root=project, home=project, threads=2, _env_file=None)
    shutil.copytree(made, project / "sources")
    chosen = SnapshotParams(source="sources/train", eval="sources/eval")
    write_lock(take_snapshot(chosen, settings), paths.SOURCE_LOCK)
    write_embedder_lock(EmbedderLock(BUILTIN, descriptor_name(), ""), paths.EMBEDDER_LOCK)
    write_forgotten((), paths.FORGOTTEN_LOCK)
    logged: list[str] = []
    run = SimpleNamespace(set_tags=lambda tags: None, log_artifact=lambda path, folder: logged.append(path.name))
    found = SimpleNamespace(settings=settings, run=run, logged=logged)
    ingest.run(IngestParams(), found)
    embed.run(EmbedParams(), found)
    return found


def reasons() -> dict[str, str]:
    manifest = Manifest.load(paths.MANIFEST)
    named = dict(zip(manifest.sources["id"].to_pylist(), manifest.sources["name"].to_pylist(), strict=True))
    groups = read_table(paths.DEDUP / "groups.parquet").to_pylist()
    return {Path(named[row["id"]]).stem: row["reason"] for row in groups}


def check(found: dict[str, str]) -> None:
    assert found["leak-20"] == found["leak-21"] == "leak"
    for seed in range(4):
        assert sorted((found[f"{seed}"], found[f"copy-{seed}"])) == ["duplicate", "representative"]
    assert {found[f"{seed}"] for seed in range(4, 12)} == {"unique"}


@pytest.mark.parametrize("exact_up_to", [200_000, 3], ids=["exact", "faiss"])
def test_copies_and_leaks_go_whoever_searches(context: Any, exact_up_to: int) -> None:
    metrics = dedup.run(DedupParams(neighbours=4, exact_up_to=exact_up_to), context)
    check(reasons())
    assert metrics["search_recall"] == 1.0
    assert (metrics["duplicates"], metrics["leaks"], metrics["kept"]) == (4, 2, 12)
    assert context.logged == ["duplicates.png", "leaks.png"]


def test_as_many_threads_decode_as_the_settings_say(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[int] = set()

    def recorded(reader: Any, ids: list[str], *, threads: int, **more: Any) -> np.ndarray:
        asked.add(threads)
        return load_thumbnails(reader, ids, threads=threads, **more)

    monkeypatch.setattr(dedup, "load_thumbnails", recorded)
    context.settings = context.settings.model_copy(update={"threads": 5})
    dedup.run(DedupParams(neighbours=4), context)
    assert asked == {5}


def test_by_cosine_the_same_is_found(context: Any) -> None:
    params = DedupParams.model_validate({"measure": "cosine", "threshold": 0.995, "leak_threshold": 0.99})
    metrics = dedup.run(params, context)
    check(reasons())
    assert metrics["candidates"] >= metrics["pairs"] == 6


def test_leaks_are_counted_for_each_evaluation_set(context: Any) -> None:
    metrics = dedup.run(DedupParams.model_validate({"evaluation_sets": SETS}), context)
    check(reasons())
    assert {name: value for name, value in metrics.items() if name.startswith("leaks.")} == {
        "leaks.flowers": 1,
        "leaks.streets": 1,
        "leaks.evaluation": 0,
    }
    assert all(type(value) in (int, float) for value in metrics.values())


def test_f16_an_evaluation_set_without_images_stops_the_stage(context: Any) -> None:
    sets = [{"name": "birds", "pattern": "birds/*", "leak_threshold": 0.6}]
    with pytest.raises(UserError, match="birds"):
        dedup.run(DedupParams.model_validate({"evaluation_sets": sets}), context)
    assert not paths.DEDUP.exists()


def test_embedding_again_on_one_thread_gives_the_same_file(context: Any, tmp_path: Path) -> None:
    before = (paths.EMBEDDINGS / "embeddings.npy").read_bytes()
    shutil.rmtree(context.settings.cache)
    context.settings = context.settings.model_copy(update={"threads": 1})
    embed.run(EmbedParams(), context)
    assert (paths.EMBEDDINGS / "embeddings.npy").read_bytes() == before
    assert len(np.load(paths.EMBEDDINGS / "embeddings.npy")) == len(Manifest.load(paths.MANIFEST).ids())


def test_copies_are_found_though_the_backbone_holds_them_apart(context: Any) -> None:
    """The built-in descriptor proposes pairs, too."""
    vectors = np.random.default_rng(0).standard_normal(np.load(paths.EMBEDDINGS / "embeddings.npy").shape)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    np.save(paths.EMBEDDINGS / "embeddings.npy", vectors.astype(np.float32))
    narrow = DedupParams(neighbours=1, hash_distance=0)
    assert dedup.run(narrow, context)["duplicates"] < 4, "taken for vectors of the descriptor"
    write_embedder_lock(EmbedderLock("models/teacher", "", "ab" * 32), paths.EMBEDDER_LOCK)
    dedup.run(narrow, context)
    check(reasons())
