"""The stages of curation one after another on real scenes, up to the page."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest

from components.curation.audit import AuditParams
from components.curation.checks import ValidateParams
from components.curation.deduplication import DedupParams
from components.curation.embedder import BUILTIN, EmbedderLock, write_embedder_lock
from components.curation.embedding import EmbedParams
from components.curation.retrieval import RetrieveParams
from components.data.ingest import IngestParams
from components.data.lock import write_lock
from components.data.manifest import Manifest
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.tables import read_table, write_table
from components.errors import UserError
from components.features.descriptor import descriptor_name
from components.settings import Settings
from components.stages import audit, dedup, embed, ingest, paths, retrieve, validate
from components.stages.params import load_params
from components.stages.runner import StageContext
from components.tracking import client, start_run

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RETRIEVE = RetrieveParams(mode="knn", queries=30, neighbours=2, min_share=0.6, min_images=10)


@contextmanager
def curated_scenes(settings: Settings) -> Iterator[StageContext]:
    """Scenes that went through all stages before the audit."""
    write_lock(take_snapshot(SnapshotParams(source="scenes?images=240&eval=60"), settings), paths.SOURCE_LOCK)
    write_embedder_lock(EmbedderLock(BUILTIN, descriptor_name(), ""), paths.EMBEDDER_LOCK)
    paths.FORGOTTEN_LOCK.touch()
    with start_run("audit", params={}, settings=settings) as run:
        context = StageContext(run, settings, load_params(ROOT / "params.yaml"))
        ingest.run(IngestParams(), context)
        validate.run(ValidateParams(), context)
        embed.run(EmbedParams(embedder=BUILTIN), context)
        dedup.run(DedupParams(), context)
        retrieve.run(RETRIEVE, context)
        yield context


@pytest.fixture
def context(project: Path, settings: Settings) -> Iterator[StageContext]:
    with curated_scenes(settings) as context:
        yield context


def test_the_funnel_ends_with_what_is_trained_on_and_the_outs_are_the_same_again(context: StageContext) -> None:
    metrics = audit.run(AuditParams(), context)
    outs = {path: path.read_bytes() for path in (paths.CURATION, paths.AUDIT) for path in path.iterdir()}
    assert {path.name for path in outs} == {"index.html", "checks.json", "funnel.parquet", "funnel.svg", "passed.json"}
    assert metrics == audit.run(AuditParams(), context)
    assert outs == {path: path.read_bytes() for path in outs}
    curated = read_table(paths.CURATED / "ids.parquet").num_rows
    went = {name: value for name, value in metrics.items() if name.startswith("funnel.went.")}
    assert metrics["funnel.files"] - sum(went.values()) == metrics["funnel.trained_on"] == curated
    assert {"funnel.went.duplicate", "funnel.went.leak", "funnel.went.not-retrieved"} <= went.keys()
    page = (paths.CURATION / "index.html").read_text()
    assert f"{curated:,} images" in page
    for text in (str(Path.cwd()), "http:", "https:", "file:"):
        assert text not in page.replace("http://www.w3.org/2000/svg", ""), text


def test_a_failed_check_stops_names_the_image_and_still_leaves_the_page_with_the_run(
    project: Path, settings: Settings
) -> None:
    with curated_scenes(settings) as context:
        groups = read_table(paths.DEDUP / "groups.parquet").to_pylist()
        leak = next(row["id"] for row in groups if row["reason"] == "leak")
        curated = [*read_table(paths.CURATED / "ids.parquet")["id"].to_pylist(), leak]
        write_table(pa.table({"id": sorted(curated)}), paths.CURATED / "ids.parquet")
        sources = Manifest.load(paths.MANIFEST).sources.to_pylist()
        name = next(row["name"] for row in sources if row["id"] == leak)
        with pytest.raises(UserError) as caught:
            audit.run(AuditParams(), context)
        run_id = context.run.run_id
    assert f"{name} ({leak[:12]})" in caught.value.what
    assert not paths.AUDIT.exists()
    assert not paths.CURATION.exists()
    stored = {Path(item.path).name for item in client(settings).list_artifacts(run_id, "curation")}
    assert {"data-docs", "failed-rows.csv", "funnel.svg", "index.html"} <= stored
    docs = [item.path for item in client(settings).list_artifacts(run_id, "curation/data-docs")]
    assert docs == ["curation/data-docs/curated", "curation/data-docs/embeddings"]


def test_training_depends_on_the_mark_and_not_on_bounds_or_looks(context: StageContext) -> None:
    audit.run(AuditParams(), context)
    mark = (paths.AUDIT / "passed.json").read_bytes()
    audit.run(AuditParams(min_images=3, examples=2), context)
    assert (paths.AUDIT / "passed.json").read_bytes() == mark
    assert set(json.loads(mark)) == {"curated_sha256"}
