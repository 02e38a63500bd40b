"""The command line as a user meets it, on a small project with the real parameters."""

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import miniature
import pytest

from components.tracking.locking import file_lock

pytestmark = pytest.mark.timeout(240)
ROOT = Path(__file__).parents[2]
SELFSIGHT = str(Path(sys.executable).with_name("selfsight"))
TINY = "scenes?images=8&eval=2&copies=0&leaks=0"
NEUTRAL = {"PATH": "/usr/bin:/bin", "HOME": os.environ.get("HOME", "/"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def server() -> dict[str, str]:
    return miniature.prefect_variables()


@pytest.fixture
def small(tmp_path: Path, empty_database: Path) -> Path:
    miniature.chain(tmp_path)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    shutil.copy(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "infra" / "recipes", tmp_path / "infra" / "recipes")
    return tmp_path


def selfsight(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command with an environment in which the virtual environment is not active."""
    return subprocess.run(
        [SELFSIGHT, *arguments], cwd=folder, env={**NEUTRAL, **environment}, capture_output=True, text=True, check=False
    )


def assert_one_line(done: subprocess.CompletedProcess[str], part: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("selfsight: ")
    assert done.stderr.count("\n") == 1
    assert part in done.stderr


def test_help_is_there_within_a_second(tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "serve-flows" in selfsight(tmp_path, "--help").stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--set", "pretrain.epochz=3"), "unknown key 'pretrain.epochz': did you mean 'epochs'"),
        (("--data", "/nonexistent"), "no such file or folder"),
        (("--data", "s3://key:geheim@bucket/x"), "contains a password"),
        (("--eval", "a=./x", "--eval", "a=./y"), "--eval: 'a' is given twice"),
        (("--eval", "./x", "--eval", "a=./y"), "--eval ./x: of several sources each needs a name"),
        (("--eval", "a=s3://key:geheim@bucket/x"), "'snapshot.eval.a' contains a password"),
        (("--set", "distill.model.patch_size=4"), "student with patch 4 and 3 channels, teacher with patch 8"),
        (("--set", "pretrain.batch_size=63"), "pretrain: batch_size 63 on 2 processes: take a multiple of 2"),
    ],
)
def test_f16_wrong_arguments_are_one_line_and_change_nothing(
    small: Path, arguments: tuple[str, str], part: str
) -> None:
    done = selfsight(small, "run", *arguments, SELFSIGHT_PROCESSES="2")
    assert_one_line(done, part)
    assert "geheim" not in done.stderr
    assert (small / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert not (small / "data").exists()


def test_a_second_run_is_refused_before_it_changes_anything(small: Path) -> None:
    with file_lock(small / ".dvc" / "tmp" / "selfsight.lock"):
        for command in (("run", "--set", "pretrain.epochs=1"), ("snapshot", "--data", TINY)):
            assert_one_line(selfsight(small, *command), "a pipeline runs in this working tree already")
    assert (small / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert not (small / "data").exists()


def test_an_unknown_phase_is_one_line(small: Path) -> None:
    assert_one_line(selfsight(small, "run", "train"), "there is no phase 'train': phases are curate, pretrain")


def test_outside_a_git_repository_it_is_one_line_with_the_remedy(small: Path) -> None:
    shutil.rmtree(small / ".git")
    done = selfsight(small, "run", "--set", "pretrain.epochs=1")
    assert_one_line(done, "not a git repository: type `git init`")
    assert (small / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_outside_the_project_it_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    for command in ("run", "status", "push", "snapshot"):
        assert_one_line(selfsight(tmp_path, command), "run in the root of the project")


@pytest.mark.slow
def test_a_prefect_server_that_does_not_answer_is_named_at_the_end_of_a_line(small: Path) -> None:
    done = selfsight(small, "run", "--data", TINY, PREFECT_API_URL="http://user:geheim@127.0.0.1:9/api")
    assert done.returncode == 2
    assert "http://127.0.0.1:9/api does not answer" in done.stderr.splitlines()[-1]
    assert "geheim" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_shows_what_it_does_and_the_second_does_nothing(small: Path, server: dict[str, str]) -> None:
    first = selfsight(small, "run", "--data", TINY, "--set", "distill.epochs=1", **server)
    assert first.returncode == 0, first.stderr
    for part in ("+  epochs: 1", "snapshot: scenes?images=8", "first: started", "third: done in"):
        assert part in first.stderr
    assert "Beginning flow run" not in first.stderr
    assert "mlflow ui" in first.stdout
    assert (small / "data" / "embedder.lock").exists()

    locks = [
        small / "data" / "source.lock",
        small / "data" / "embedder.lock",
        small / "dvc.lock",
        small / "params.yaml",
    ]
    before = [(lock.read_bytes(), lock.stat().st_mtime_ns) for lock in locks]
    second = selfsight(small, "run", **server)
    assert second.returncode == 0, second.stderr
    assert "Nothing to do: every stage is up to date." in second.stdout
    assert [(lock.read_bytes(), lock.stat().st_mtime_ns) for lock in locks] == before
    assert miniature.runs_of(small, "first") == 1


USER_ERROR = """
import json, os, sys
message = 'photos: no such folder: give one'
print('first: ' + message, file=sys.stderr)
json.dump({'stage': 'first', 'code': 2, 'message': message}, open(os.environ['SELFSIGHT_EXIT_FILE'], 'w'))
sys.exit(2)
"""


def test_what_a_stage_finds_wrong_is_the_last_line_and_exit_code_2(small: Path, server: dict[str, str]) -> None:
    (small / "first.py").write_text(USER_ERROR)
    done = selfsight(small, "run", "--data", TINY, **server)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "selfsight: first: photos: no such folder: give one"
    assert done.stderr.count("no such folder") == 1
    assert "Traceback" not in done.stderr
    assert "exited with" not in done.stderr


@pytest.mark.slow
def test_the_exit_code_of_a_stage_is_that_of_the_command(small: Path, server: dict[str, str]) -> None:
    (small / "first.py").write_text("import sys; print('a reason', file=sys.stderr); sys.exit(3)")
    start = time.monotonic()
    done = selfsight(small, "run", "--data", TINY, **server)
    assert done.returncode == 3
    assert "a reason" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 60


def test_status_names_what_would_run(small: Path) -> None:
    done = selfsight(small, "status")
    assert done.returncode == 0, done.stderr
    assert "curate     first      first.py modified, first.txt deleted" in done.stdout
    assert "champion   none" in done.stdout


@pytest.mark.slow
def test_doctor_names_what_is_amiss(small: Path) -> None:
    doctor = selfsight(small, "doctor", SELFSIGHT_PROCESSES="9999", AWS_EC2_METADATA_DISABLED="true")
    assert doctor.returncode == 2
    assert "fail  processes" in doctor.stdout
    assert "ok    data" in doctor.stdout
    assert "ok    mlflow" in doctor.stdout
