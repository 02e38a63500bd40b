"""A small curation that keeps two evaluation sources out of training, each with its own threshold."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.curation.deduplication import DedupParams
from components.curation.embedder import BUILTIN, EmbedderLock, write_embedder_lock
from components.curation.embedding import EmbedParams
from components.curation.retrieval import RetrieveParams
from components.data.forgotten import write_forgotten
from components.data.ingest import IngestParams
from components.data.lock import write_lock
from components.data.manifest import Manifest
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.tables import read_table
from components.errors import UserError
from components.features.descriptor import descriptor_name
from components.settings import Settings
from components.stages import dedup, embed, ingest, paths, retrieve
from tests.textures import jpeg, texture

STRICT, LAX = 0.5, 0.99
"""A picture with a patch that is covered is a copy by the first, and not by the second."""


def write(path: Path, seed: int, covered: tuple[int, int, int, int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = texture(seed)
    if covered is not None:
        picture.paste((128, 128, 128), covered)
    path.write_bytes(jpeg(picture))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Pictures 0 to 7 to train on, and copies of 20 (in `val`), 30 (in `ours`) and 40 (in both), all embedded."""
    project = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        for seed in range(8):
            write(Path("photos") / f"{seed}.jpg", seed)
        for name, seeds in (("val", (20, 21, 40)), ("ours", (30, 31, 40))):
            for seed in seeds:
                write(Path("sets") / name / f"{seed}.jpg", seed)
        for seed in (20, 30):
            write(Path("more") / f"copy-{seed}.jpg", seed, covered=(40, 30, 56, 46))
        write(Path("more") / "same-40.jpg", 40)
        settings = Settings(root=project, home=project, threads=1, _env_file=None)
        chosen = SnapshotParams(
            source={"photos": "photos", "more": "more"}, eval={"val": "sets/val", "ours": "./sets/ours"}
        )
        write_lock(take_snapshot(chosen, settings), paths.SOURCE_LOCK)
        write_embedder_lock(EmbedderLock(BUILTIN, descriptor_name(), ""), paths.EMBEDDER_LOCK)
        write_forgotten((), paths.FORGOTTEN_LOCK)
        run = SimpleNamespace(set_tags=lambda tags: None, log_artifact=lambda path, folder: None)
        found = SimpleNamespace(settings=settings, run=run)
        ingest.run(IngestParams(), found)  # type: ignore[arg-type]
        embed.run(EmbedParams(), found)  # type: ignore[arg-type]
        yield found


def leaked() -> set[str]:
    """Names of the training images that are thrown out for an evaluation image."""
    sources = Manifest.load(paths.MANIFEST).sources.to_pylist()
    named = {row["id"]: row["name"] for row in sources if row["split"] == "train"}
    rows = read_table(paths.DEDUP / "groups.parquet").to_pylist()
    return {named[row["id"]] for row in rows if row["reason"] == "leak"}


def counted(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("leaks.")}


@pytest.mark.parametrize(("strict", "lax", "copy"), [("val", "ours", "20"), ("ours", "val", "30")])
def test_each_source_throws_out_what_its_own_threshold_says(context: Any, strict: str, lax: str, copy: str) -> None:
    sets = [{"name": strict, "leak_threshold": STRICT}, {"name": lax, "leak_threshold": LAX}]
    metrics = dedup.run(DedupParams.model_validate({"threshold": 1.0, "evaluation_sets": sets}), context)
    assert leaked() == {f"more/copy-{copy}.jpg", "more/same-40.jpg"}
    assert counted(metrics) == {f"leaks.{strict}": 2, f"leaks.{lax}": 1, "leaks.evaluation": 0}
    assert (metrics["leaks"], metrics["kept"]) == (2, 9)


def test_left_alone_each_source_is_a_set_of_evaluation_and_of_queries(context: Any) -> None:
    metrics = dedup.run(DedupParams(leak_threshold=STRICT), context)
    assert leaked() == {"more/copy-20.jpg", "more/copy-30.jpg", "more/same-40.jpg"}
    assert counted(metrics) == {"leaks.val": 2, "leaks.ours": 2, "leaks.evaluation": 0}
    found = retrieve.run(RetrieveParams(min_images=2, min_share=0.0, neighbours=2), context)
    assert {name: found[f"set.{name}.queries"] for name in ("val", "ours")} == {"val": 3, "ours": 3}
    assert set(read_table(paths.RETRIEVAL / "sets.parquet")["name"].to_pylist()) == {"val", "ours"}


@pytest.fixture
def without_ours(context: Any) -> Iterator[None]:
    """Every image of `ours` is forgotten; of `val` the one that both have."""
    sources = Manifest.load(paths.MANIFEST).sources.to_pylist()
    write_forgotten({row["id"] for row in sources if row["name"].startswith("ours/")}, paths.FORGOTTEN_LOCK)
    yield
    write_forgotten((), paths.FORGOTTEN_LOCK)


def test_a_source_whose_images_are_all_forgotten_is_no_set(
    context: Any, without_ours: None, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = dedup.run(DedupParams(leak_threshold=STRICT), context)
    assert counted(metrics) == {"leaks.val": 1, "leaks.evaluation": 0}
    found = retrieve.run(RetrieveParams(min_images=2, min_share=0.0, neighbours=2), context)
    assert {name: number for name, number in found.items() if name.endswith(".queries")} == {"set.val.queries": 2}
    told = "evaluation source ours is left out: none of its images can be used (3 forgotten)"
    assert [one for one in caplog.messages if "is left out" in one] == [told, told]


def test_a_set_that_was_written_down_for_forgotten_images_is_a_mistake(context: Any, without_ours: None) -> None:
    sets = [{"name": "mine", "pattern": "ours/*", "leak_threshold": STRICT}]
    why = r"matches only evaluation images that cannot be used \(3 forgotten\)"
    with pytest.raises(UserError, match=rf"ours/\* of the set mine {why}"):
        dedup.run(DedupParams.model_validate({"evaluation_sets": sets}), context)
    dedup.run(DedupParams(), context)
    with pytest.raises(UserError, match=rf"retrieve\.sets\.mine 'ours/\*' {why}"):
        retrieve.run(RetrieveParams.model_validate({"sets": {"mine": {"match": "ours/*"}}}), context)


def test_parts_of_a_source_are_told_by_the_names_in_the_lock(context: Any) -> None:
    sets = [{"name": "first", "pattern": "val/2[01].jpg", "leak_threshold": STRICT}]
    metrics = dedup.run(DedupParams.model_validate({"leak_threshold": 0.7, "evaluation_sets": sets}), context)
    assert counted(metrics) == {"leaks.first": 1, "leaks.evaluation": 2}
