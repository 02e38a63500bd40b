"""Settings come from the environment, and state is anchored at the main working tree."""

import subprocess
from pathlib import Path

import pytest

from components.errors import UserError
from components.settings import Settings, child_environment, get_settings


def test_a_wrong_variable_is_one_line_that_names_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFSIGHT_PROCESSES", "none")
    with pytest.raises(UserError, match="SELFSIGHT_PROCESSES is 'none'"):
        get_settings()


def test_values_come_from_dotenv(project: Path) -> None:
    (project / ".env").write_text("SELFSIGHT_S3_BUCKET=team\n")
    assert get_settings().s3_bucket == "team"


def test_a_worktree_shares_the_state_of_the_main_tree(tmp_path: Path) -> None:
    main, side = tmp_path / "main", tmp_path / "side"
    main.mkdir()
    for command in (
        ["git", "init", "-q"],
        ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "--allow-empty", "-m", "x"],
        ["git", "worktree", "add", "-q", str(side)],
    ):
        subprocess.run(command, cwd=main, check=True)
    assert Settings(root=side).tracking_uri == Settings(root=main).tracking_uri == f"sqlite:///{main}/mlflow.db"


def test_an_experiment_in_a_temporary_copy_shares_the_state_of_the_workspace(tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "run"
    copy.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    assert Settings(root=copy).checkpoints == tmp_path / ".checkpoints"


def test_an_experiment_in_a_temporary_copy_reads_the_workspaces_env_file(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = project / ".dvc" / "tmp" / "exps" / "run"
    copy.mkdir(parents=True)
    subprocess.run(["git", "init", "-q"], cwd=copy, check=True)
    (project / ".env").write_text("SELFSIGHT_S3_BUCKET=team\nSELFSIGHT_MODEL_NAME=ours\n")
    (copy / ".env").write_text("SELFSIGHT_MODEL_NAME=mine\n")
    monkeypatch.chdir(copy)
    get_settings.cache_clear()
    assert (get_settings().s3_bucket, get_settings().model_name) == ("team", "mine")


def test_children_inherit_no_telemetry(project: Path) -> None:
    environment = child_environment(parent_run_id="7", exit_file=None)
    assert environment["SELFSIGHT_PARENT_RUN_ID"] == "7"
    assert "SELFSIGHT_EXIT_FILE" not in environment
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
