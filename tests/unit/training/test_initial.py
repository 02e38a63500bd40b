from pathlib import Path
from typing import Any

import pytest
import torch
from originals import Shape, official_state

from components.errors import UserError
from components.models.backbone import Preprocess, save_backbone
from components.models.conversion.reading import foreign_hash
from components.models.presets import vit_config
from components.models.vit import ViTConfig
from components.objectives.dinov2 import DINOv2Objective, DINOv2Params
from components.training.initial import (
    InitialLock,
    check_asked_for,
    load_initial,
    prepare_initial,
    read_initial_lock,
    resolve_initial,
    write_initial_lock,
)
from flows.conversion import convert

MODEL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "heads": 2}
HEAD = {"hidden": 8, "bottleneck": 4, "prototypes": 12, "layers": 2}


def objective(seed: int = 0, *, head: dict[str, int] = HEAD, **overrides: Any) -> DINOv2Objective:
    params = DINOv2Params.model_validate({"dino_head": head, "ibot_head": HEAD})
    return DINOv2Objective.build(config(**overrides), params, seed=seed)


def config(**overrides: Any) -> ViTConfig:
    return vit_config("nano", **{**MODEL, **overrides})


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A teacher with its heads, as pretraining leaves it."""
    teacher = objective(seed=7).teacher
    save_backbone(teacher.backbone, Preprocess(image_size=16, resize=16), tmp_path / "given", lineage={}, card="")
    teacher.save_heads(tmp_path / "given")
    return tmp_path / "given"


def begun(source: Path, folder: Path, made: DINOv2Objective) -> list[str]:
    lock = resolve_initial(str(source), made.teacher.backbone.config)
    found = prepare_initial(lock, made.teacher.backbone.config, folder)
    assert found is not None
    return load_initial(made, found.path)


def test_student_and_teacher_begin_with_backbone_and_heads(artifact: Path, tmp_path: Path) -> None:
    made, given = objective(), objective(seed=7)
    assert begun(artifact, tmp_path, made) == ["backbone", "dino_head", "ibot_head"]
    for name, value in given.state_dict().items():
        if name.startswith(("student.", "teacher.")):
            assert torch.equal(made.state_dict()[name], value), name


def test_a_head_of_another_shape_stays_as_drawn(artifact: Path, tmp_path: Path) -> None:
    made, drawn = (objective(head={**HEAD, "prototypes": 20}) for _ in range(2))
    assert begun(artifact, tmp_path, made) == ["backbone", "ibot_head"]
    assert torch.equal(made.student.dino_head.prototypes.weight, drawn.student.dino_head.prototypes.weight)


def test_official_weights_of_another_patch_size_and_without_heads_can_be_begun_with(tmp_path: Path) -> None:
    shape = Shape(width=16, depth=1, heads=2, patch=2, side=8)
    torch.save(official_state(shape), tmp_path / "official.pth")
    made = objective(registers=2, layer_scale=0.1)
    assert begun(tmp_path / "official.pth", tmp_path, made) == ["backbone"]
    given = official_state(shape)["blocks.0.attn.qkv.weight"]
    assert torch.equal(made.student.backbone.blocks[0].attention.qkv.weight, given)
    assert torch.equal(made.teacher.backbone.blocks[0].attention.qkv.weight, given)


def test_weights_from_elsewhere_are_told_apart_from_a_lost_version_also_once_they_are_converted(
    artifact: Path, tmp_path: Path
) -> None:
    torch.save(official_state(Shape(width=16, depth=1, heads=2, patch=4, side=4)), tmp_path / "official.pth")
    convert(str(tmp_path / "official.pth"), tmp_path / "converted", "artifact", {"heads": 2})
    digest = foreign_hash(tmp_path / "official.pth")
    foreign = {"converted_from_sha256": digest}
    for given, told in (("official.pth", foreign), ("converted", foreign), ("given", {})):
        lock = resolve_initial(str(tmp_path / given), config())
        found = prepare_initial(lock, config(), tmp_path)
        assert found is not None
        assert found.lineage == {"sha256": lock.digest, **told}, given


def test_what_cannot_be_adapted_is_refused_by_the_snapshot(artifact: Path) -> None:
    with pytest.raises(UserError, match=r"set model\.depth to 1"):
        resolve_initial(str(artifact), config(depth=2))


def test_another_artifact_than_the_locked_one_is_refused(artifact: Path, tmp_path: Path) -> None:
    lock = resolve_initial(str(artifact), config())
    (artifact / "README.md").write_text("changed")
    with pytest.raises(UserError, match="not the expected"):
        prepare_initial(lock, config(), tmp_path)


def test_nothing_is_prepared_where_nothing_is_asked_for(tmp_path: Path) -> None:
    assert prepare_initial(resolve_initial(None, config()), config(), tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_lock_comes_back_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data" / "initial.lock"
    for lock in (InitialLock(), InitialLock("models:/b@champion", "models:/b/3", "f" * 64)):
        write_initial_lock(lock, path)
        assert read_initial_lock(path) == lock
    path.write_text('{"url": 1}')
    with pytest.raises(UserError, match="selfsight snapshot"):
        read_initial_lock(path)


def test_the_committed_lock_is_what_writing_nothing_gives(tmp_path: Path) -> None:
    write_initial_lock(InitialLock(), tmp_path / "initial.lock")
    committed = Path(__file__).parents[3] / "data" / "initial.lock"
    assert committed.read_bytes() == (tmp_path / "initial.lock").read_bytes()


@pytest.mark.parametrize(("locked", "asked"), [(None, "a"), ("a", None), ("a", "b")])
def test_a_lock_of_something_else_asks_for_a_snapshot(locked: str | None, asked: str | None) -> None:
    with pytest.raises(UserError, match=f"pretrain.initial is {asked or 'null'}, .* names {locked or 'null'}"):
        check_asked_for(InitialLock(locked, locked, "f"), asked)
