"""Pretraining and distillation as their stages run them: torchrun, ZeRO-3, real objective, real images."""

import json
from pathlib import Path

import pytest
import torch

from components.models.backbone import load_backbone
from components.models.heads import load_heads
from tests.integration.stage_runs import curve, run
from tests.tiny_training import DISTILL, PRETRAIN, make_data

RELATIVE_TOLERANCE = 1e-3
"""Of one process against two, over eight steps of fp32: sums are added up in another order."""


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretrained")
    make_data(folder)
    done = run(folder, PRETRAIN, "pretrain")
    assert done.returncode == 0, done.stderr
    return folder


def test_pretraining_leaves_a_teacher_with_its_heads_and_pure_numbers(pretrained: Path) -> None:
    teacher = load_backbone(pretrained / "pretrain")
    assert teacher.config.width == 32
    assert load_heads(pretrained / "pretrain" / "heads.safetensors").keys() == {"dino_head", "ibot_head"}
    metrics = json.loads((pretrained / "pretrain.json").read_text())
    assert (metrics["steps"], metrics["images_seen"], metrics["images"]) == (8, 64, 24)
    assert metrics["final.loss"] == pytest.approx(curve(pretrained)[-1]["loss"], rel=1e-6)
    assert [row["step"] for row in curve(pretrained)] == [2, 4, 6, 8]


@pytest.mark.slow
def test_continued_pretraining_begins_with_the_given_weights_and_names_them(pretrained: Path, tmp_path: Path) -> None:
    make_data(tmp_path)
    begun = {**PRETRAIN, "initial": str(pretrained / "pretrain"), "steps": 1, "schedule": {"lr": 1e-9, "momentum": 0.9}}
    done = run(tmp_path, begun, "pretrain")
    assert done.returncode == 0, done.stderr
    assert "begins with the given backbone, dino_head, ibot_head" in done.stderr
    given, made = load_backbone(pretrained / "pretrain"), load_backbone(tmp_path / "pretrain")
    for name, value in given.model.state_dict().items():
        torch.testing.assert_close(made.model.state_dict()[name], value, rtol=0, atol=1e-6)
    assert made.lineage["initial"] == {"sha256": given.digest}
    assert "initial" not in given.lineage


@pytest.mark.slow
def test_two_processes_compute_the_loss_of_one(pretrained: Path, on_two_processes: Path) -> None:
    losses = ("loss", "dino_global", "dino_local", "ibot", "koleo", "gradient_norm.backbone", "gradient_norm.ibot_head")
    for one, two in zip(curve(pretrained), curve(on_two_processes), strict=True):
        assert {name: two[name] for name in losses} == pytest.approx(
            {name: one[name] for name in losses}, rel=RELATIVE_TOLERANCE
        )
    mine, theirs = (load_backbone(folder / "pretrain").model.state_dict() for folder in (pretrained, on_two_processes))
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=RELATIVE_TOLERANCE, atol=1e-4)


def test_distillation_leaves_the_average_of_a_smaller_student(pretrained: Path) -> None:
    done = run(pretrained, DISTILL, "distill")
    assert done.returncode == 0, done.stderr
    student = load_backbone(pretrained / "distill")
    assert student.config.width == 16
    assert not (pretrained / "distill" / "heads.safetensors").exists()
    rows = curve(pretrained, "distill")
    assert rows[-1]["step"] == 8
    assert all(torch.isfinite(value).all() for value in student.model.state_dict().values())


def test_what_the_user_can_mend_comes_back_from_the_training_processes_as_one_error(pretrained: Path) -> None:
    params = {**DISTILL, "model": {**DISTILL["model"], "patch_size": 8}}
    done = run(pretrained, params, "distill")
    assert done.returncode == 1  # the program under test has no runner that would map it to 2
    assert done.stderr.count("Traceback") == 1
    assert "UserError: student with patch 8" in done.stderr
