"""A DVC stage as a Prefect task."""

import json
import re
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import Task, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from components.redaction import redact
from components.settings import get_settings
from components.stages import paths
from flows.output import Output
from flows.repro import Reproduced, Reproducer, StageError
from flows.terminal import current_terminal

CACHED = "Cached"
"""Name of the state of a stage that DVC skipped."""

reproducer: ContextVar[Reproducer] = ContextVar("reproducer")
"""What runs the stages of the pipeline in this context. Prefect could not pass it to a task: it is no data."""


def _is_worth_a_retry(_task: Task[Any, Any], _run: TaskRun, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageError) and error.may_pass_next_time


# DVC owns caching; Prefect must not have an opinion
@task(name="stage", cache_policy=NO_CACHE, retry_condition_fn=_is_worth_a_retry)
def run_stage(stage: str, parent_run_id: str | None, is_current: bool, is_last: bool) -> State[Reproduced]:
    """Brings one stage up to date.

    Args:
        stage: its name in dvc.yaml.
        parent_run_id: MLflow run of the pipeline.
        is_current: DVC has said already that the stage is up to date; it is not asked again.
        is_last: no other stage runs after it.

    Returns:
        A completed state, named "Cached" when DVC had nothing to run.

    Raises:
        UserError: if the user can mend what is wrong; never retried.
        StageError: if the stage failed otherwise.
    """
    logger, terminal, settings = get_run_logger(), current_terminal(), get_settings()

    def pass_on(output: Output) -> None:
        if terminal:
            terminal.show(output)
        if not output.is_progress:
            logger.info(output.text)

    if terminal and not is_current:
        terminal.line(f"{stage}: started")
    try:
        if is_current:
            done = Reproduced(stage, True, 0.0)
        else:
            done = reproducer.get().repro(stage, pass_on, parent_run_id=parent_run_id, is_last=is_last)
    except StageError as error:
        if terminal:
            terminal.line(f"{stage}: failed with exit code {error.code}")
        raise
    if terminal:
        terminal.line(f"{stage}: up to date" if done.is_cached else f"{stage}: done in {done.seconds:.1f} s")
    link_to_mlflow(stage, stage_run_id(stage, settings.root), settings.tracking_uri)
    if done.is_cached:
        return Completed(name=CACHED, message="DVC skipped it: nothing has changed", data=done)
    return Completed(message=f"ran for {done.seconds:.1f} s", data=done)


def stage_run_id(stage: str, root: Path) -> str | None:
    """The MLflow run that made the stage's present outs; None if it left no record."""
    try:
        record = json.loads((root / paths.RUNS / f"{stage}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(record["run_id"]) if isinstance(record, dict) and "run_id" in record else None


def link_to_mlflow(stage: str, run_id: str | None, tracking_uri: str) -> None:
    """Shows the stage's MLflow run on the page of its task run."""
    if run_id is None:
        return
    key = re.sub("[^a-z0-9]+", "-", f"mlflow-{stage}".lower()).strip("-")
    if tracking_uri.startswith(("http://", "https://")):
        create_link_artifact(link=run_url(tracking_uri, run_id), key=key, link_text=f"MLflow run of {stage}")
    else:
        text = f"MLflow run of {stage}: `{run_id}`\n\nTo see it: `mlflow ui --backend-store-uri {redact(tracking_uri)}`"
        create_markdown_artifact(markdown=text, key=key)


def run_url(tracking_uri: str, run_id: str) -> str:
    """Address of a run in the web interface of a tracking server."""
    return f"{redact(tracking_uri).rstrip('/')}/#/runs/{run_id}"
