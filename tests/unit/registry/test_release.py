"""A release is one model, complete, with where it comes from and how good it is."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from artifacts import make_artifact, read_json

from components.data.forgotten import FORGOTTEN
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.data.tables import write_table
from components.errors import UserError
from components.models.backbone import HEADS, artifact_hash, load_backbone
from components.registry.release import ReleaseParams, ReleaseSources, assemble_release

SHARES = {
    "teacher.knn.top1": 0.5,
    "teacher.linear.top1": 0.6,
    "student.knn.top1": 0.4,
    "untrained.knn.top1": 0.2,
    "pixels.knn.top1": 0.3,
}
METRICS = {
    **SHARES,
    **{f"{name}.low": share - 0.05 for name, share in SHARES.items()},
    **{f"{name}.high": share + 0.05 for name, share in SHARES.items()},
    "teacher.effective_rank": 12.3,
}
PARAMETERS = {"pretrain": {"method": "dinov2", "epochs": 3, "seed": 7}, "distill": {"epochs": 2, "seed": 8}}


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ReleaseSources:
    """Everything a release is made from, in the current folder."""
    monkeypatch.chdir(tmp_path)
    make_artifact(Path("teacher"), 1, steps=10)
    (tmp_path / "teacher" / HEADS).write_bytes(b"heads")
    make_artifact(Path("student"), 2, steps=20)
    rows = [(f"t{i}", "train", "cat" if i % 2 else "dog") for i in range(6)] + [
        ("e0", "eval", "cat"),
        ("e1", "eval", "dog"),
    ]
    images = [
        {"id": one, "format": "PNG", "width": 9, "height": 9, "status": "quarantined" if one == "t5" else "ok"}
        for one, _, _ in rows
    ]
    places = [{"id": one, "uri": one, "name": one, "split": split, "label": label} for one, split, label in rows]
    for folder in ("manifest", "dedup", "curated"):
        Path(folder).mkdir()
    Manifest(
        images=pa.Table.from_pylist(images, schema=IMAGES),
        sources=pa.Table.from_pylist(places, schema=SOURCES),
        locations=LOCATIONS.empty_table(),
    ).save(Path("manifest"))
    write_table(pa.table({"id": ["t0", "t1", "t2", "t3"]}), Path("dedup/kept.parquet"))
    write_table(pa.table({"id": pa.array([], pa.string())}), Path("dedup") / FORGOTTEN)
    write_table(pa.table({"id": ["t0", "t1", "t2"]}), Path("curated/ids.parquet"))
    Path("evaluate.json").write_text(json.dumps(METRICS))
    Path("source.lock").write_text("lock")
    Path("embedder.lock").write_text('{"version": "builtin:v1"}')
    return ReleaseSources(
        teacher=Path("teacher"),
        student=Path("student"),
        manifest=Path("manifest"),
        dedup=Path("dedup"),
        curated=Path("curated"),
        metrics=Path("evaluate.json"),
        source_lock=Path("source.lock"),
        embedder_lock=Path("embedder.lock"),
    )


def release(sources: ReleaseSources, folder: str = "release", **params) -> tuple[Path, dict[str, float]]:
    target = Path(folder)
    return target, assemble_release(
        ReleaseParams(**params), sources, target, parameters=PARAMETERS, protocol={"seed": 0}
    )


def test_the_released_artifact_loads_with_the_chosen_models_weights(sources: ReleaseSources) -> None:
    for role, other in (("teacher", "student"), ("student", "teacher")):
        folder, _ = release(sources, role + "-release", model=role)
        released = load_backbone(folder).model.state_dict()
        chosen, not_chosen = (load_backbone(Path(one)).model.state_dict() for one in (role, other))
        assert all(released[name].equal(value) for name, value in chosen.items())
        assert not all(released[name].equal(value) for name, value in not_chosen.items())


def test_two_releases_of_the_same_things_are_the_same_bytes(sources: ReleaseSources) -> None:
    first, _ = release(sources, "first")
    second, _ = release(sources, "second")
    assert artifact_hash(first) == artifact_hash(second)
    assert {one.name: one.read_bytes() for one in first.iterdir()} == {
        one.name: one.read_bytes() for one in second.iterdir()
    }


def test_another_evaluation_or_parameter_is_another_artifact(sources: ReleaseSources) -> None:
    first, _ = release(sources, "first")
    Path("evaluate.json").write_text(json.dumps({**METRICS, "teacher.knn.top1": 0.51}))
    second, _ = release(sources, "second")
    assert artifact_hash(first) != artifact_hash(second)


def test_the_lineage_names_every_dependency_that_is_there(sources: ReleaseSources) -> None:
    folder, _ = release(sources)
    lineage = read_json(folder / "lineage.json")
    named = {"teacher", "student", "manifest", "dedup", "curated", "evaluate.json", "source.lock", "embedder.lock"}
    assert lineage["dependencies"].keys() == named
    assert lineage["embedder"] == {"version": "builtin:v1"}
    assert lineage["parameters"] == PARAMETERS
    assert lineage["evaluation"]["metrics"] == METRICS
    assert lineage["training"] == {"steps": 10}


def test_heads_are_kept_or_left_out_as_asked(sources: ReleaseSources) -> None:
    assert (release(sources, "with")[0] / HEADS).read_bytes() == b"heads"
    assert not (release(sources, "without", heads=False)[0] / HEADS).exists()
    assert not (release(sources, "student-release", model="student")[0] / HEADS).exists()


def test_the_card_tells_scores_and_images(sources: ReleaseSources) -> None:
    folder, _ = release(sources)
    card = (folder / "README.md").read_text()
    assert "| teacher | 50.0 (45.0 to 55.0) | 60.0 (55.0 to 65.0) | 12.30 |" in card
    assert "| raw pixels | 30.0 (25.0 to 35.0) |  |  |" in card
    assert "| trained on | 3 |" in card
    assert "| training source, readable | 5 |" in card
    assert "| unreadable, set aside | 1 |" in card
    assert "| method | dinov2 |" in card
    assert "2 classes" in card
    assert str(Path.cwd()) not in card, "a card must not name the machine it was made on"


def test_metrics_of_the_stage_are_the_released_models(sources: ReleaseSources) -> None:
    _, metrics = release(sources, model="student")
    assert metrics["knn.top1"] == 0.4
    assert "linear.top1" not in metrics
    assert metrics["parameters"] > 0
    assert metrics["bytes"] > 4 * metrics["parameters"]


def test_missing_scores_are_an_error_that_names_the_remedy(sources: ReleaseSources) -> None:
    Path("evaluate.json").unlink()
    with pytest.raises(UserError, match="dvc repro evaluate"):
        release(sources)


def test_damaged_weights_are_not_released(sources: ReleaseSources) -> None:
    weights = Path("teacher/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(UserError, match="does not match"):
        release(sources)


def test_without_labels_the_card_says_that_nothing_was_scored(sources: ReleaseSources) -> None:
    Path("evaluate.json").write_text(json.dumps({"teacher.effective_rank": 3.0}))
    card = (release(sources)[0] / "README.md").read_text()
    assert "| teacher | 3.00 |" in card
    assert "nothing to score" in card
