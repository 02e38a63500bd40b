"""The checks that cost nothing, made before any work; each names its remedy."""

import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.errors import UserError
from components.redaction import redact, redact_text
from components.settings import Settings
from components.stages import paths

if TYPE_CHECKING:
    from components.stages.params import PipelineParams

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    name: str
    level: Level
    detail: str
    remedy: str = ""


Body = Callable[[Settings], Check]


def preflight(settings: Settings, checks: Sequence[Body] | None = None) -> None:
    """Makes the cheap checks.

    Args:
        settings: where the project is.
        checks: which; default: all that cost nothing.

    Raises:
        UserError: for the first that fails.
    """
    for body in CHEAP if checks is None else checks:
        check = run_check(body, settings)
        if check.level == "fail":
            raise UserError(check.detail, remedy=check.remedy)


def run_check(body: Body, settings: Settings) -> Check:
    """Runs a check; whatever goes wrong in it is its outcome."""
    name = body.__name__.removeprefix("check_").replace("_", " ")
    try:
        return body(settings)
    except UserError as error:
        return Check(name, "fail", error.what, error.remedy)
    except Exception as error:  # a doctor that dies of the illness helps nobody
        text = redact_text(" ".join(str(error).split()))[:200]
        return Check(name, "fail", f"{type(error).__name__}: {text}", "see the message")


def check_compiler(_: Settings) -> Check:
    """There is a C++ compiler: DeepSpeed compiles its operators on first use."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        remedy = "install it (Debian, Ubuntu: apt-get install g++)"
        return Check("compiler", "fail", "no C++ compiler (g++), and DeepSpeed compiles its CPU operators", remedy)
    return Check("compiler", "ok", compiler)


def check_headers(_: Settings) -> Check:
    """The compiler finds Python's headers."""
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        return Check("headers", "fail", f"{header} is missing", "install python3-dev (Debian, Ubuntu)")
    return Check("headers", "ok", str(header))


def check_project(settings: Settings) -> Check:
    """This is the root of the project."""
    if not (settings.root / "dvc.yaml").exists():
        return Check("project", "fail", f"no dvc.yaml in {settings.root}", "run in the root of the project")
    return Check("project", "ok", str(settings.root))


def check_git(settings: Settings) -> Check:
    """The project is a git repository; a changed tree is allowed, and recorded."""
    if shutil.which("git") is None:
        return Check("git", "fail", "git is missing", "install it (Debian, Ubuntu: apt-get install git)")
    answer = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        cwd=settings.root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if answer.returncode != 0:
        said = " ".join(answer.stderr.split())
        if "not a git repository" not in said:
            return Check("git", "fail", f"git does not work here ({said})", "mend what git says")
        return Check("git", "fail", f"{settings.root} is not a git repository", "type `git init`, or clone the project")
    if answer.stdout.strip():
        files = len(answer.stdout.strip().splitlines())
        return Check("git", "warn", f"{files} changed files", "commit, so that a run can be traced to its code")
    return Check("git", "ok", "clean working tree")


def check_dvc(settings: Settings) -> Check:
    """DVC is initialised."""
    if not (settings.root / ".dvc").is_dir():
        return Check("dvc", "fail", f"DVC is not initialised in {settings.root}", "type `dvc init`")
    return Check("dvc", "ok", "initialised")


def check_parameters(settings: Settings) -> Check:
    """`params.yaml` is valid as a whole."""
    from components.stages.params import load_params

    load_params(settings.root / paths.PARAMS)
    return Check("parameters", "ok", str(paths.PARAMS))


def check_processes(settings: Settings) -> Check:
    """There is a core or a GPU for each training process, and the batches can be divided among them."""
    from components.stages.params import load_params
    from components.training.launch import check_processes as device_for

    device = device_for(settings)
    require_division(load_params(settings.root / paths.PARAMS), settings)
    machines = f" on each of {settings.nodes} machines" if settings.nodes > 1 else ""
    return Check("processes", "ok", f"{settings.processes} on {device}{machines}")


def require_division(params: "PipelineParams", settings: Settings) -> None:
    """Checks that the batches of both trainings can be divided among the processes.

    Raises:
        UserError: naming the section and what would do.
    """
    for name in ("pretrain", "distill"):
        section: Any = params.section(name)
        try:
            section.share(settings.all_processes)
        except UserError as error:
            raise UserError(f"{name}: {error.what}", remedy=error.remedy) from None


def check_artifact_store(settings: Settings) -> Check:
    """The bucket that models and pictures go to is there: they are uploaded after hours of work."""
    from flows.sharing import artifact_bucket, check_bucket

    bucket = artifact_bucket(settings)
    if bucket is not None:
        check_bucket(bucket, settings)
    return Check("artifacts", "ok", redact(settings.artifacts))


PROJECT: tuple[Body, ...] = (check_project, check_git, check_dvc)
TOOLS: tuple[Body, ...] = (*PROJECT, check_compiler, check_headers)
PARAMETERS: tuple[Body, ...] = (check_parameters, check_processes, check_artifact_store)
CHEAP: tuple[Body, ...] = (*TOOLS, *PARAMETERS)
"""In the order in which people mend things."""
