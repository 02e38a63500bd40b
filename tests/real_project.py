"""Copies of this very project for tests that run its real pipeline."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SELFSIGHT = (sys.executable, "-c", "from flows.cli import main; main()")
DVC = (sys.executable, "-m", "dvc")


def copy_project(project: Path) -> Path:
    """Copies what git would commit, without outs, as a committed project of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if name == "dvc.lock" or name.startswith("metrics/") or not (ROOT / name).exists():
            continue
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, project / name)
    git(project, "init", "-q")
    commit(project, "project")
    return project


def environment(project: Path, **variables: str) -> dict[str, str]:
    """That of a command in a project whose servers and settings are its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SELFSIGHT_", "PREFECT_"))}
    path = f"{Path(sys.executable).parent}:{kept['PATH']}"
    return {**kept, "PATH": path, "SELFSIGHT_HOME": str(project), **variables}


def call(project: Path, *command: str, **variables: str) -> str:
    """Runs a command that must succeed; returns what it printed on both streams."""
    own = environment(project, **variables)
    done = subprocess.run(command, cwd=project, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def git(project: Path, *arguments: str) -> None:
    """Runs git as somebody."""
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=project, check=True, capture_output=True)


def commit(project: Path, message: str) -> None:
    """Commits everything."""
    git(project, "add", "-A")
    git(project, "commit", "-q", "-m", message)


def stages_run(shown: str) -> list[str]:
    """The stages that DVC says it ran, in order."""
    return [line.split("'")[1] for line in shown.splitlines() if line.startswith("Running stage")]
