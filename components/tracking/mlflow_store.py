"""The MLflow side: one database initialisation, one client, one way to find or make a run."""

import json
import logging
import os
from functools import cache
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.settings import Settings, get_settings
from components.tracking.code_version import code_version
from components.tracking.locking import file_lock

KEY_TAG = "selfsight.run_key"


@cache
def client(settings: Settings | None = None) -> Any:
    """The `MlflowClient` of this process, its database initialised.

    Raises:
        mlflow.exceptions.MlflowException: if the server cannot be reached.
    """
    settings = settings or get_settings()
    import mlflow
    from mlflow import MlflowClient

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_registry_uri(settings.tracking_uri)
    with file_lock(settings.journals / "database.lock"):
        made = MlflowClient(settings.tracking_uri, settings.tracking_uri)
        _experiment(made, settings)
    return made


def initialise_database(settings: Settings | None = None) -> None:
    """Makes the MLflow database and experiment, one process at a time; harmless when they exist.

    Several processes that open a new SQLite store at once all fail, so this runs before any stage.
    """
    client(settings or get_settings())


def experiment_id(settings: Settings) -> str:
    """Identifier of the experiment that holds every run."""
    return str(_experiment(client(settings), settings))


def _experiment(mlflow_client: Any, settings: Settings) -> str:
    found = mlflow_client.get_experiment_by_name(settings.mlflow_experiment)
    location = settings.artifacts if settings.mlflow_uri is None or settings.artifact_root else None
    if found is not None:
        if settings.artifact_root is not None and found.artifact_location.rstrip("/") != str(location).rstrip("/"):
            raise UserError(
                f"SELFSIGHT_ARTIFACT_ROOT is {location}, but the experiment {settings.mlflow_experiment} keeps its "
                f"artifacts at {found.artifact_location}",
                remedy="MLflow cannot move them: name a new experiment with SELFSIGHT_MLFLOW_EXPERIMENT, or unset it",
            )
        return str(found.experiment_id)
    return str(mlflow_client.create_experiment(settings.mlflow_experiment, artifact_location=location))


def find_or_create_run(key: str, head: dict[str, Any], settings: Settings) -> str:
    """The MLflow run of a run key; made when there is none.

    Args:
        key: the local identity of the run, kept as a tag.
        head: `name`, `params`, `tags`, `parent` and `time` (ms) of the run.
        settings: where MLflow is.

    Returns:
        The MLflow run id. Safe to call from several processes: a file lock serialises the search and the making.

    Raises:
        LookupError: if the head is that of a process that only joined, and the run is not there yet.
    """
    known = settings.journals / f"{key}.id"
    if known.exists():
        return known.read_text()
    with file_lock(settings.journals / f"{key}.lock"):
        if known.exists():
            return known.read_text()
        made = client(settings)
        experiment = experiment_id(settings)
        found = made.search_runs([experiment], filter_string=f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if not found and head.get("attached"):
            raise LookupError(f"no run carries {KEY_TAG}={key} yet")
        run_id = found[0].info.run_id if found else _create_run(made, experiment, key, head, settings)
        # also for a run that was found: whoever made it may have been cut off here, and the same values are welcome
        _log_params(made, run_id, head.get("params", {}))
        _write_atomic(known, run_id)
    return str(run_id)


def _create_run(made: Any, experiment: str, key: str, head: dict[str, Any], settings: Settings) -> str:
    tags = {**code_version(settings.root), **head["tags"], KEY_TAG: key}
    if head.get("parent"):
        tags["mlflow.parentRunId"] = head["parent"]
    run = made.create_run(experiment, start_time=head["time"], tags=tags, run_name=head["name"])
    return str(run.info.run_id)


def _log_params(made: Any, run_id: str, values: dict[str, Any]) -> None:
    from mlflow.entities import Param

    known = made.get_run(run_id).data.params
    params = [Param(name[:250], str(value)[:6000]) for name, value in values.items() if name[:250] not in known]
    for start in range(0, len(params), 100):
        made.log_batch(run_id, params=params[start : start + 100])


def _write_atomic(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as dotted names, as MLflow shows them."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value if isinstance(value, (str, int, float, bool)) else json.dumps(value)
    return flat
