"""The real pipeline, at a tiny size: once through `selfsight run`, once through bare `dvc repro` on another path."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from real_project import DVC, SELFSIGHT, call, commit, copy_project, stages_run
from ruamel.yaml import YAML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SNAPSHOT_KEYS = {"snapshot.source": "scenes?images=240&eval=80", "pretrain.epochs": "1", "distill.epochs": "1"}


def lock_without_runs(project: Path) -> dict[str, Any]:
    """dvc.lock but for the outs below runs/."""
    stages: dict[str, Any] = YAML(typ="safe").load((project / "dvc.lock").read_text())["stages"]
    for stage in stages.values():
        stage["outs"] = [out for out in stage["outs"] if not out["path"].startswith("runs/")]
    return stages


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of this project in which `selfsight run` went through."""
    project = copy_project(tmp_path_factory.mktemp("first") / "project")
    changes = [part for key, value in SNAPSHOT_KEYS.items() for part in ("--set", f"{key}={value}")]
    call(project, *SELFSIGHT, "run", *changes)
    return project


def test_the_metrics_that_others_build_on_are_there_and_flat(first: Path) -> None:
    evaluate = json.loads((first / "metrics/evaluate.json").read_text())
    wanted = ("teacher.knn.top1", "student.knn.top1", "untrained.knn.top1", "pixels.knn.top1", "teacher.linear.top1")
    assert set(wanted) <= evaluate.keys()
    assert {"images", "kept", "precision", "recall"} <= json.loads((first / "metrics/dedup.json").read_text()).keys()
    ingest = json.loads((first / "metrics/ingest.json").read_text())
    assert ingest["broken.quarantined"] == ingest["broken.planted"] > 0
    for file in (first / "metrics").glob("*.json"):
        assert all(isinstance(value, (int, float)) for value in json.loads(file.read_text()).values()), file


def test_a_second_run_has_nothing_to_do(first: Path) -> None:
    lock = (first / "dvc.lock").read_bytes()
    shown = call(first, *SELFSIGHT, "run")
    assert "Nothing to do" in shown
    assert (first / "dvc.lock").read_bytes() == lock


def test_the_released_backbone_is_a_registered_candidate_that_loads(first: Path) -> None:
    script = (
        "from components.models.backbone import load_backbone;"
        "a, b = load_backbone('models:/backbone@candidate'), load_backbone('models/release');"
        "assert a.digest == b.digest, (a.digest, b.digest); print('same')"
    )
    assert "same" in call(first, sys.executable, "-c", script)


def test_bare_dvc_repro_on_another_path_gives_the_same_lock(first: Path, tmp_path: Path) -> None:
    second = tmp_path / "elsewhere" / "clone"
    commit(first, "run")
    subprocess.run(["git", "clone", "-q", str(first), str(second)], check=True)
    (second / "dvc.lock").unlink()
    shutil.rmtree(second / "metrics")
    call(second, *DVC, "repro")
    assert lock_without_runs(second) == lock_without_runs(first)


def test_a_change_under_distill_reruns_distill_and_what_follows(first: Path) -> None:
    params = first / "params.yaml"
    yaml = YAML()
    values = yaml.load(params.read_text())
    values["distill"]["seed"] += 1
    with params.open("w") as file:
        yaml.dump(values, file)
    assert stages_run(call(first, *DVC, "repro")) == ["distill", "evaluate", "release"]
    changed = json.loads(call(first, *DVC, "metrics", "diff", "--json"))["metrics/evaluate.json"]
    assert {name.partition(".")[0] for name in changed} == {"student"}, "only the student was trained anew"
    plots = call(first, *DVC, "plots", "diff", "--show-vega", "--targets", "plots/distill.csv")
    assert json.loads(plots)["data"]["values"]
    commit(first, "another student")


def test_an_experiment_runs_what_its_parameter_changes_and_can_be_compared(first: Path) -> None:
    shown = call(first, *DVC, "exp", "run", "--name", "probe", "-S", "evaluate.linear.steps=50")
    assert stages_run(shown) == ["evaluate", "release"]
    compared = json.loads(call(first, *DVC, "exp", "diff", "HEAD", "probe", "--json"))
    assert "evaluate.linear.steps" in compared["params"]["params.yaml"]
