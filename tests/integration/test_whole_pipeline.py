"""The real pipeline, at a tiny size: once through `selfsight run`, once through bare `dvc repro` on another path."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SELFSIGHT = [sys.executable, "-c", "from flows.cli import main; main()"]
SNAPSHOT_KEYS = {"snapshot.source": "scenes?images=240&eval=80", "pretrain.epochs": "1", "distill.epochs": "1"}


def environment(project: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SELFSIGHT_", "PREFECT_"))}
    return {**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "SELFSIGHT_HOME": str(project)}


def call(project: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def git(project: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


def lock_without_runs(project: Path) -> dict[str, Any]:
    """dvc.lock but for the outs below runs/."""
    stages: dict[str, Any] = YAML(typ="safe").load((project / "dvc.lock").read_text())["stages"]
    for stage in stages.values():
        stage["outs"] = [out for out in stage["outs"] if not out["path"].startswith("runs/")]
    return stages


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of this project in which `selfsight run` went through."""
    project = tmp_path_factory.mktemp("first") / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if name in ("dvc.lock",) or name.startswith("metrics/") or not (ROOT / name).exists():
            continue
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, project / name)
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", "project")
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
    git(first, "add", "-A")
    git(first, "commit", "-q", "-m", "run")
    subprocess.run(["git", "clone", "-q", str(first), str(second)], check=True)
    (second / "dvc.lock").unlink()
    shutil.rmtree(second / "metrics")
    call(second, sys.executable, "-m", "dvc", "repro")
    assert lock_without_runs(second) == lock_without_runs(first)


def test_a_change_under_distill_reruns_distill_and_what_follows(first: Path) -> None:
    params = first / "params.yaml"
    yaml = YAML()
    values = yaml.load(params.read_text())
    values["distill"]["seed"] += 1
    with params.open("w") as file:
        yaml.dump(values, file)
    shown = call(first, sys.executable, "-m", "dvc", "repro")
    ran = [line.split("'")[1] for line in shown.splitlines() if line.startswith("Running stage")]
    assert ran == ["distill", "evaluate", "release"]
