"""The lineage names exactly what the weights were made from."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest
from artifacts import make_artifact

from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.data.tables import write_table
from components.models.backbone import artifact_hash
from components.parameters import parameters_hash
from components.registry.lineage import describe_lineage, dvc_hash, evaluation_identity
from components.registry.registration import version_tags


def manifest(rows: list[tuple[str, str, str | None]]) -> Manifest:
    """A manifest of (id, split, label)."""
    images = [{"id": one, "format": "PNG", "width": 1, "height": 1, "status": "ok"} for one, _, _ in rows]
    sources = [{"id": one, "uri": one, "name": one, "split": split, "label": label} for one, split, label in rows]
    return Manifest(
        images=pa.Table.from_pylist(images, schema=IMAGES),
        sources=pa.Table.from_pylist(sources, schema=SOURCES),
        locations=LOCATIONS.empty_table(),
    )


def ids(path: Path, *names: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(pa.table({"id": list(names)}), path)
    return path


def test_equal_parameters_hash_alike_in_any_order() -> None:
    assert parameters_hash({"a": 1, "b": {"c": 2, "d": 3}}) == parameters_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert parameters_hash({"a": 1}) != parameters_hash({"a": 2})


def test_a_files_hash_is_its_md5(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"selfsight")
    assert dvc_hash(tmp_path / "x") == hashlib.md5(b"selfsight").hexdigest()


def test_a_folders_hash_depends_on_names_and_contents_and_not_on_its_place(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "a").write_text("a")
        (tmp_path / name / "b").write_text("b")
    assert dvc_hash(tmp_path / "one") == dvc_hash(tmp_path / "two")
    (tmp_path / "two" / "b").rename(tmp_path / "two" / "c")
    assert dvc_hash(tmp_path / "one") != dvc_hash(tmp_path / "two")


def test_scores_are_comparable_only_on_the_same_labelled_images(tmp_path: Path) -> None:
    kept = ids(tmp_path / "kept.parquet", "t1", "t2")
    rows = [("e1", "eval", "cat"), ("e2", "eval", "dog"), ("t1", "train", "cat"), ("t2", "train", "dog")]
    first = evaluation_identity(manifest(rows), kept, {"seed": 0})
    assert evaluation_identity(manifest(rows), kept, {"seed": 0}) == first
    relabelled = evaluation_identity(manifest([("e1", "eval", "dog"), *rows[1:]]), kept, {"seed": 0})
    assert relabelled["queries"] != first["queries"]
    assert relabelled["bank"] == first["bank"]
    smaller = evaluation_identity(manifest(rows), ids(tmp_path / "fewer.parquet", "t1"), {"seed": 0})
    assert smaller["queries"] == first["queries"]
    assert evaluation_identity(manifest(rows), kept, {"seed": 1})["protocol"] != first["protocol"]
    assert smaller["bank"] != first["bank"]


def test_the_lineage_is_the_same_wherever_it_is_made(tmp_path: Path, monkeypatch) -> None:
    made = []
    for place in ("here", "there"):
        root = tmp_path / place
        make_artifact(root / "teacher", 1, ids="t")
        make_artifact(root / "student", 2, ids="s")
        ids(root / "curated" / "ids.parquet", "a", "b", "c")
        monkeypatch.chdir(root)
        lineage = describe_lineage(
            role="student",
            teacher=Path("teacher"),
            student=Path("student"),
            curated=Path("curated"),
            embedder={"version": "builtin:v1"},
            parameters={"pretrain": {"lr": 0.1}},
            dependencies=[Path("curated"), Path("teacher"), Path("absent.lock")],
            evaluation={"metrics": {"student.knn.top1": 0.5}},
        )
        made.append(lineage)
    assert made[0] == made[1]
    assert made[0]["teacher_sha256"] == artifact_hash(tmp_path / "here" / "teacher")
    assert made[0]["training"] == {"ids": "s"}
    assert made[0]["curated"]["count"] == 3
    assert made[0]["dependencies"].keys() == {"curated", "teacher"}
    assert made[0]["dependencies"]["curated"].endswith(".dir")
    assert made[0]["evaluation"] == {"role": "student", "metrics": {"student.knn.top1": 0.5}}
    assert "initial_sha256" not in made[0]


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_what_the_teacher_began_with_is_named_also_where_the_student_is_released(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_artifact(Path("teacher"), 1, initial={"sha256": "i" * 64, "converted_from_sha256": "c" * 64})
    make_artifact(Path("student"), 2)
    ids(Path("curated") / "ids.parquet", "a")
    lineage = describe_lineage(
        role=role,
        teacher=Path("teacher"),
        student=Path("student"),
        curated=Path("curated"),
        embedder={},
        parameters={},
        dependencies=[],
        evaluation={},
    )
    assert lineage["initial_sha256"] == "i" * 64
    tags = version_tags(lineage)
    assert (tags["initial.sha256"], tags["initial.converted_from"]) == ("i" * 64, "c" * 64)
