"""`selfsight status`: what is up to date, what ran last, what is registered."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import UserError
from components.settings import Settings
from flows.dvc_locks import BUSY, BUSY_REMEDY
from flows.graph import PipelineGraph, read_graph

UP_TO_DATE = "up to date"


@dataclass(frozen=True)
class StageStatus:
    """Whether a stage would run now."""

    phase: str
    stage: str
    detail: str
    """`up to date`, or why it would run."""

    @property
    def is_current(self) -> bool:
        """Whether it would not run."""
        return self.detail == UP_TO_DATE


def stage_statuses(root: Path) -> list[StageStatus]:
    """Compares every stage with `dvc.lock`, as DVC does.

    Args:
        root: the project's root.

    Raises:
        UserError: if DVC cannot read the project, or another DVC works on it.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    graph = read_graph(root)
    try:
        with Repo(str(root)) as repo:
            changes: dict[str, Any] = repo.status()
    except LockError:
        raise UserError(BUSY, remedy=BUSY_REMEDY) from None
    except DvcException as error:
        what = " ".join(str(error).split())
        raise UserError(f"DVC cannot tell what is up to date ({what})", remedy="see `dvc status`") from None
    return _statuses(graph, {stage: _reason(found) for stage, found in changes.items()})


def is_up_to_date(root: Path) -> bool:
    """Whether DVC would run nothing; as `stage_statuses`."""
    return all(status.is_current for status in stage_statuses(root))


def _statuses(graph: PipelineGraph, reasons: dict[str, str]) -> list[StageStatus]:
    found: dict[str, StageStatus] = {}
    for phase in graph.phases:
        for stage in phase.stages:
            waiting = [parent for parent in sorted(graph.parents[stage]) if not found[parent].is_current]
            detail = reasons.get(stage) or (f"after {', '.join(waiting)}" if waiting else UP_TO_DATE)
            found[stage] = StageStatus(phase.name, stage, detail)
    return list(found.values())


def _reason(changes: list[Any]) -> str:
    """DVC's list of changes in a few words: `params.yaml modified, data/shards deleted`."""
    parts: list[str] = []
    for change in changes:
        if isinstance(change, str):
            parts.append(change)
            continue
        for entries in change.values():
            for path, state in entries.items():
                parts.append(f"{path} {state if isinstance(state, str) else 'changed'}")
    return ", ".join(parts)


def last_run(settings: Settings) -> str | None:
    """The last run of the pipeline in words; None if there was none.

    Raises:
        Exception: whatever MLflow raises when it is away.
    """
    from components.tracking import client

    made = client(settings)
    experiment = made.get_experiment_by_name(settings.mlflow_experiment)
    if experiment is None:
        return None
    found = made.search_runs(
        [experiment.experiment_id],
        filter_string="tags.stage = 'pipeline'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not found:
        return None
    info = found[0].info
    started = datetime.fromtimestamp(info.start_time / 1000, UTC).astimezone()
    took = f", {(info.end_time - info.start_time) / 1000:.0f} s" if info.end_time else ""
    return f"{started:%Y-%m-%d %H:%M}, {info.status.lower()}{took}"


def registered_versions(settings: Settings) -> dict[str, str]:
    """Version by alias of the registered model; aliases that nothing carries are left out.

    Raises:
        RegistryUnavailable: if MLflow is away.
    """
    from components.registry.versions import CANDIDATE, CHAMPION, by_alias

    found = {alias: by_alias(alias, settings) for alias in (CANDIDATE, CHAMPION)}
    return {alias: version.version for alias, version in found.items() if version is not None}
