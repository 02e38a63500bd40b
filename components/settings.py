"""Where services live and secrets come from: the only module that reads the environment."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from components.errors import UserError
from components.redaction import guard, holds_secret

NO_TELEMETRY = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
ENV_FILE = ".env"
SAFE_DEFAULTS = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the journal backs off by itself; a client that retries for minutes would only hold up the end of a run
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "GIT_PYTHON_REFRESH": "quiet",
    # it shows the tracking server's address as given, with a password in it
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class Settings(BaseSettings):
    """Everything that differs between two machines that run the same pipeline.

    Values come from `SELFSIGHT_*` variables, then from `.env` in the project's root, then (in a worktree, or a copy
    that an experiment runs in) from that of the main working tree, then from the defaults, which need no server and
    no account.
    """

    model_config = SettingsConfigDict(env_prefix="SELFSIGHT_", env_file=ENV_FILE, extra="ignore", frozen=True)

    root: Path = Field(default_factory=Path.cwd, description="the working tree of the project")
    home: Path | None = Field(
        None,
        description="folder that holds state outside DVC; default: the main working tree, also from a worktree",
    )
    mlflow_uri: str | None = Field(None, description="MLflow tracking and registry; default: SQLite in `home`")
    mlflow_experiment: str = Field("selfsight", description="MLflow experiment of every run")
    artifact_root: str | None = Field(None, description="MLflow artifacts: a folder or s3:// URI; default: in `home`")
    model_name: str = Field("backbone", description="name of the registered model")
    s3_endpoint: str | None = Field(None, description="URL of an S3-compatible server; default: AWS")
    s3_bucket: str | None = Field(None, description="bucket of the DVC remote; none: nothing is shared")
    s3_prefix: str = Field("selfsight", description="key prefix inside the bucket")
    url_hosts: str = Field(
        "", description="hosts, separated by commas, that a list of URLs may name although their addresses are private"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of training and inference")
    processes: int = Field(1, ge=1, description="training processes on this machine")
    threads: int | None = Field(None, ge=1, description="CPU threads of one process; default: cores / processes")
    nodes: int = Field(1, ge=1, description="machines that train together, each with as many processes")
    node_rank: int = Field(0, ge=0, description="number of this machine among them; 0 alone writes results")
    rendezvous: str | None = Field(None, description="HOST:PORT of machine 0, where the others find it")
    restarts: int = Field(2, ge=0, description="times that training starts its processes again after one died or hung")
    collective_seconds: float = Field(
        600.0, gt=0, description="seconds that training processes wait for one of them before it counts as hung"
    )
    step_seconds: float = Field(
        1800.0,
        ge=0,
        description="seconds without the end of a step after which a training process counts as hung; 0: never",
    )
    ray_address: str | None = Field(
        None, description="HOST:PORT of a Ray cluster for curation; default: one on this machine while it is needed"
    )
    cache_dir: Path | None = Field(None, description="content-addressed cache; default: .cache/selfsight in `home`")
    verify_reads: bool = Field(
        False,
        description="compare the SHA-256 of images that are read from shards, or used again by ingest",
    )
    shards_uri: str | None = Field(
        None, description="s3://BUCKET/PREFIX with a copy of data/shards, read by ranges where that folder is not"
    )
    image_cache_bytes: int = Field(
        20 << 30,
        ge=0,
        description="images of such shards that this machine keeps in the cache, for all its training processes, bytes",
    )
    archive_cache_bytes: int = Field(
        20 << 30,
        gt=0,
        description="archives and videos of a bucket that this machine keeps in the cache until ingest is done, bytes",
    )
    checkpoint_dir: Path | None = Field(None, description="training checkpoints; default: .checkpoints in `home`")
    checkpoint_mirror: str | None = Field(
        None, description="s3://BUCKET/PREFIX that checkpoints are copied to, and fetched from by an empty machine"
    )
    journal_dir: Path | None = Field(None, description="tracking journal; default: .journal in `home`")
    parent_run_id: str | None = Field(None, description="MLflow run of the pipeline that a stage belongs to")
    lifeline: int | None = Field(None, description="process id of the orchestrator; a stage ends when it is gone")
    exit_file: Path | None = Field(None, description="file that receives a stage's own exit code and message")

    def torch_device(self) -> str:
        """The device to compute on: `cpu` or `cuda`.

        Raises:
            UserError: if `cuda` is asked for and there is none.
        """
        import torch

        available = torch.cuda.is_available()
        if self.device == "cuda" and not available:
            raise UserError("SELFSIGHT_DEVICE=cuda, but torch sees no GPU", remedy="set it to auto or cpu")
        return "cuda" if available and self.device != "cpu" else "cpu"

    @property
    def trusted_hosts(self) -> frozenset[str]:
        """Hosts of `url_hosts`, in small letters."""
        return frozenset(host.strip().lower() for host in self.url_hosts.split(",") if host.strip())

    @property
    def all_processes(self) -> int:
        """Training processes over all machines."""
        return self.nodes * self.processes

    def thread_count(self) -> int:
        """CPU threads of one training process."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.processes)

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_uri or f"sqlite:///{self._home}/mlflow.db"

    @property
    def artifacts(self) -> str:
        """Where MLflow stores artifacts when no tracking server decides."""
        return self.artifact_root or f"{self._home}/mlartifacts"

    @property
    def cache(self) -> Path:
        """Content-addressed cache folder."""
        return self.cache_dir or self._home / ".cache" / "selfsight"

    @property
    def checkpoints(self) -> Path:
        """Folder of training checkpoints."""
        return self.checkpoint_dir or self._home / ".checkpoints"

    @property
    def journals(self) -> Path:
        """Folder of the tracking journals."""
        return self.journal_dir or self._home / ".journal"

    @property
    def _home(self) -> Path:
        return self.home or _main_worktree(self.root)


@cache
def _main_worktree(root: Path) -> Path:
    """The main working tree: worktrees and `dvc exp run --temp` copies must share its state."""
    answer = subprocess.run(
        ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    common = Path(answer.stdout.strip()) if answer.returncode == 0 else None
    if common is None or common.name != ".git":
        return root
    return _origin_of_experiment(common.parent)


def _origin_of_experiment(tree: Path) -> Path:
    """`dvc exp run --temp` clones into ROOT/.dvc/tmp/exps/…: ROOT, else the tree itself."""
    parts = tree.parts
    for index in range(len(parts) - 3):
        if parts[index : index + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:index])
    return tree


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        UserError: naming the variable and what it may be.
    """
    quiet_environment()
    guard_secrets()
    try:
        here = Path.cwd()
        settings = Settings(_env_file=(_main_worktree(here) / ENV_FILE, here / ENV_FILE))
    except ValidationError as error:
        first = error.errors()[0]
        name = "SELFSIGHT_" + "_".join(str(part) for part in first["loc"]).upper()
        raise UserError(f"{name} is {first.get('input')!r}", remedy=first["msg"]) from None
    _refuse_credentials(settings)
    guard({"SELFSIGHT_MLFLOW_URI": settings.mlflow_uri or ""})  # also from .env
    if settings.s3_endpoint is not None:
        os.environ.setdefault("MLFLOW_S3_ENDPOINT_URL", settings.s3_endpoint)  # MLflow's own name for it
    return settings


def guard_secrets() -> None:
    """Keeps the secrets of the environment out of what this process logs or dies with."""
    guard(os.environ)


def _refuse_credentials(settings: Settings) -> None:
    """These addresses are written down: by DVC in its configuration, by MLflow in every run, in checkpoints' jobs."""
    for name in ("s3_endpoint", "artifact_root", "checkpoint_mirror"):
        if holds_secret(getattr(settings, name) or ""):
            remedy = "give credentials by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise UserError(f"SELFSIGHT_{name.upper()} contains a password or key", remedy=remedy)


def quiet_environment() -> None:
    """Turns every telemetry off and sets safe defaults for libraries, for this process and its children."""
    os.environ.update(NO_TELEMETRY)
    for name, value in SAFE_DEFAULTS.items():
        os.environ.setdefault(name, value)


def child_environment(**settings: str | None) -> dict[str, str]:
    """The environment for a child process, with `SELFSIGHT_<NAME>` set for each given setting that is not None."""
    quiet_environment()
    given = {f"SELFSIGHT_{name.upper()}": value for name, value in settings.items() if value is not None}
    return {**os.environ, **given}
