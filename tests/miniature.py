"""Small real DVC projects for tests of the flows."""

import atexit
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from components.settings import Settings
from flows.server import EmbeddedServer, prefect_home

DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"
GIT = ("git", "-c", "user.name=t", "-c", "user.email=t@t")


@dataclass(frozen=True)
class Stage:
    """A stage whose work is a Python script."""

    name: str
    script: str
    phase: str = "curate"
    deps: tuple[str, ...] = ()
    outs: tuple[str, ...] = ()


def write_project(folder: Path, stages: list[Stage]) -> Path:
    """A git and DVC project; each stage is `python NAME.py`."""
    run(folder, "git", "init", "--quiet")
    (folder / ".dvc").mkdir(exist_ok=True)
    (folder / ".dvc" / "config").write_text(DVC_CONFIG)
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    (folder / ".gitignore").write_text("mlflow.db*\nmlartifacts\n.journal\n.prefect\n__pycache__\n")
    lines = ["stages:"]
    for stage in stages:
        (folder / f"{stage.name}.py").write_text(stage.script)
        lines += [
            f"  {stage.name}:",
            f"    cmd: {sys.executable} {stage.name}.py",
            f"    meta: {{phase: {stage.phase}}}",
        ]
        lines += ["    deps:", *[f"    - {dep}" for dep in (f"{stage.name}.py", *stage.deps)]]
        lines += ["    outs:", *[f"    - {out}" for out in stage.outs]] if stage.outs else []
    (folder / "dvc.yaml").write_text("\n".join(lines) + "\n")
    return folder


def copier(source: str | None, target: str, extra: str = "") -> str:
    """A script that writes `target` from `source` and counts its runs in `target`.runs."""
    read = f"open({source!r}).read()" if source else "'seed'"
    return (
        f"import pathlib\n{extra}\ntext = {read}\n"
        f"pathlib.Path('{target}').write_text(text + '>{target}')\n"
        f"with open('{target}.runs', 'a') as file: file.write('x')\n"
    )


def chain(folder: Path, *, phases: tuple[str, ...] = ("curate", "curate", "pretrain")) -> Path:
    """Three stages one after the other: first, second, third."""
    names = ("first", "second", "third")
    stages = [
        Stage(name, copier(names[i - 1] + ".txt" if i else None, f"{name}.txt"), phases[i],
              (names[i - 1] + ".txt",) if i else (), (f"{name}.txt",))
        for i, name in enumerate(names)
    ]  # fmt: skip
    return write_project(folder, stages)


def runs_of(folder: Path, stage: str) -> int:
    """How often a stage made with `copier` has run."""
    path = folder / f"{stage}.txt.runs"
    return len(path.read_text()) if path.exists() else 0


def run(folder: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command in the project."""
    executable = shutil.which(command[0], path=f"{Path(sys.executable).parent}:/usr/bin:/bin") or command[0]
    return subprocess.run([executable, *command[1:]], cwd=folder, capture_output=True, text=True, check=check)


def commit(folder: Path, message: str = "state") -> None:
    """Commits everything."""
    run(folder, "git", "add", "--all")
    run(folder, *GIT, "commit", "--quiet", "-m", message)


DRIVER = """
import sys
from components.settings import get_settings
from flows.repro import StageError
from flows.run import signals_unwind
from flows.server import prefect_server

with signals_unwind(), prefect_server(get_settings()) as orchestrator:
    from flows.pipeline import pipeline
    from flows.terminal import own_terminal

    with own_terminal(), orchestrator.connect():
        try:
            pipeline(retries=0)
        except StageError as error:
            sys.exit(error.code)
"""
"""The pipeline as `selfsight run` runs it, but for the snapshot."""


@cache
def prefect_server() -> EmbeddedServer:
    """A Prefect server that all tests of this process share: making its database takes seconds."""
    home = Path(tempfile.mkdtemp(prefix="prefect-"))
    server = EmbeddedServer(Settings(root=home, home=home, _env_file=None))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    atexit.register(server.stop)
    server.wait()
    return server


def prefect_variables() -> dict[str, str]:
    """Makes a child process use the shared server."""
    server = prefect_server()
    return {"PREFECT_HOME": str(prefect_home(server.settings)), "PREFECT_API_URL": server.api_url}
