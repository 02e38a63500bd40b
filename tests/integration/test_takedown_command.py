"""A forgotten image is in nothing that follows ingest, and DVC runs what that changes and no more."""

from pathlib import Path

import pytest
from real_project import DVC, SELFSIGHT, call, copy_project, stages_run

from components.data.forgotten import read_forgotten
from components.data.manifest import Manifest
from components.data.tables import read_table

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ids(project: Path, table: str) -> set[str]:
    return set(read_table(project / "data" / table)["id"].to_pylist())


def test_a_takedown_reaches_training_and_evaluation_and_can_be_undone(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    call(project, *SELFSIGHT, "snapshot", "--data", "scenes?images=150&eval=40&seed=4")

    def repro() -> list[str]:
        return stages_run(call(project, *DVC, "repro", "retrieve"))

    assert repro() == ["ingest", "validate", "embed", "dedup", "retrieve"]
    groups = read_table(project / "data/dedup/groups.parquet").to_pylist()
    component, kept = next((row["component"], row["id"]) for row in groups if row["reason"] == "representative")
    copy = next(row["id"] for row in groups if row["reason"] == "duplicate" and row["component"] == component)
    evaluation = Manifest.load(project / "data" / "manifest").sources
    held_out = next(row for row in evaluation.to_pylist() if row["split"] == "eval")

    said = call(project, *SELFSIGHT, "forget", kept[:12], held_out["name"], "--reason", "test")
    assert f"forgotten  {kept}" in said
    assert f"near-copy  {copy}" in said
    assert repro() == ["dedup", "retrieve"]
    gone = {kept, held_out["id"]}
    for table in ("dedup/groups.parquet", "dedup/kept.parquet", "curated/ids.parquet"):
        assert not ids(project, table) & gone, table
    (neighbours,) = project.glob("data/*/neighbours.parquet")
    for column in ("query", "neighbour"):
        assert not set(read_table(neighbours)[column].to_pylist()) & gone
    assert ids(project, "dedup/forgotten.parquet") == gone

    call(project, *SELFSIGHT, "forget", "f" * 64)
    assert repro() == ["dedup"], "an image that is not there changes nothing"

    call(project, *SELFSIGHT, "forget", "--undo", "f" * 64, *gone)
    assert read_forgotten(project / "data" / "forgotten.lock") == frozenset()
    assert repro() == [], "DVC has the outs of before in its cache"
    assert kept in ids(project, "dedup/kept.parquet")
