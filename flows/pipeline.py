"""The pipeline: DVC's graph, run phase by phase under Prefect, as one parent run in MLflow."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prefect import Flow, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from components.errors import UserError
from components.settings import Settings, get_settings
from components.stages import paths
from components.stages.lifeline import follow_parents
from components.tracking import Run, initialise_database, start_run
from flows.exclusion import sole_pipeline
from flows.graph import Phase, read_graph
from flows.repro import Reproduced, Reproducer
from flows.stage_task import reproducer, run_stage, stage_run_id
from flows.status import stage_statuses
from flows.terminal import current_terminal

RELEASE_STAGE = "release"


@dataclass(frozen=True)
class PipelineResult:
    """What a run of the pipeline came to."""

    stages: tuple[Reproduced, ...]
    """In the order in which they ran."""
    version: str | None
    """Version of the registered model; None if the run stopped before `release`, or MLflow is away."""
    seconds: float

    @property
    def is_noop(self) -> bool:
        """Whether DVC skipped every stage."""
        return all(stage.is_cached for stage in self.stages)


@flow(name="pipeline", flow_run_name="pipeline")
def pipeline(phases: list[str] | None = None, retries: int = 1, retry_delay_seconds: float = 10.0) -> PipelineResult:
    """Brings the pipeline up to date: each phase of dvc.yaml a subflow, each stage a task.

    Args:
        phases: the phases to make, with all that they depend on; default: all.
        retries: how often a stage that crashed is started again.
        retry_delay_seconds: pause before that.

    Raises:
        UserError: if the user can mend what is wrong.
        StageError: if a stage failed otherwise.
    """
    settings = get_settings()
    if settings.lifeline is not None:
        follow_parents(settings.lifeline)
    start = time.monotonic()
    with sole_pipeline(settings.root):
        _prepare_tracking(settings)
        graph = read_graph(settings.root).up_to(phases or [])
        current = {status.stage for status in stage_statuses(settings.root) if status.is_current}
        params = {"phases": [phase.name for phase in graph.phases], "retries": retries}
        with start_run("pipeline", params=params, tags={"stage": "pipeline"}, settings=settings) as run:
            waiting = [stage for stage in graph.stages if stage not in current]
            walk = _Walk(run, settings, waiting, retries, retry_delay_seconds)
            with _reproducer(settings, ahead=bool(waiting)):
                for phase in graph.phases:
                    walk.flow_of(phase)()
            return PipelineResult(tuple(walk.done), walk.version, time.monotonic() - start)


def _prepare_tracking(settings: Settings) -> None:
    """Makes the MLflow database before any stage opens it; a tracking server that is away is no obstacle.

    Raises:
        UserError: if the settings contradict what MLflow has on record.
    """
    try:
        initialise_database(settings)
    except UserError:
        raise
    except Exception as error:  # MLflow may fail in any way
        get_run_logger().warning("MLflow is away (%s); the journal keeps what is logged", type(error).__name__)


@contextmanager
def _reproducer(settings: Settings, *, ahead: bool) -> Iterator[None]:
    """Makes the stages of this context run; the first DVC starts at once if it will be needed."""
    terminal = current_terminal()
    with Reproducer(settings.root, terminal=terminal is not None and terminal.is_interactive) as made:
        if ahead:
            made.prepare()
        token = reproducer.set(made)
        try:
            yield
        finally:
            reproducer.reset(token)


class _Walk:
    """One walk along the phases, and what it has brought so far."""

    def __init__(
        self, run: Run, settings: Settings, waiting: list[str], retries: int, retry_delay_seconds: float
    ) -> None:
        self._run = run
        self._settings = settings
        self._waiting = waiting
        self._task = run_stage.with_options(retries=retries, retry_delay_seconds=retry_delay_seconds)
        self.done: list[Reproduced] = []
        self.version: str | None = None

    def flow_of(self, phase: Phase) -> Flow[[], None]:
        """The subflow that runs a phase, under its name."""

        @flow(name=phase.name, flow_run_name=phase.name)
        def run_phase() -> None:
            self._run_stages(phase.stages)

        return run_phase

    def _run_stages(self, stages: Sequence[str]) -> None:
        for stage in stages:
            named = self._task.with_options(name=stage, task_run_name=stage)
            # DVC was asked once about all: each question to it costs the start of a process
            is_current, is_last = stage not in self._waiting, [stage] == self._waiting[-1:]
            state = named(stage, self._parent_run_id, is_current, is_last, return_state=True)
            done = state.result()
            assert isinstance(done, Reproduced)
            self._record(done)
            if stage == RELEASE_STAGE:
                # also when DVC skipped the stage: a second machine may have all outs and an empty registry
                self.version = register_release(self._parent_run_id, self._run_ids())

    def _record(self, done: Reproduced) -> None:
        self.done.append(done)
        run_id = stage_run_id(done.stage, self._settings.root) or "none"
        cached = "true" if done.is_cached else "false"
        self._run.set_tags({f"stage.{done.stage}.run_id": run_id, f"stage.{done.stage}.cached": cached})
        if not done.is_cached:
            self._run.log_metrics({f"{done.stage}.seconds": done.seconds})

    def _run_ids(self) -> dict[str, str]:
        found = {done.stage: stage_run_id(done.stage, self._settings.root) for done in self.done}
        return {stage: run_id for stage, run_id in found.items() if run_id is not None}

    @property
    def _parent_run_id(self) -> str | None:
        run_id = self._run.run_id
        return None if run_id.startswith("journal:") else run_id


@task(name="register", task_run_name="register", cache_policy=NO_CACHE)
def register_release(parent_run_id: str | None, runs: dict[str, str]) -> str | None:
    """Registers the released artifact under the alias `candidate`, once per artifact.

    Args:
        parent_run_id: MLflow run of the pipeline.
        runs: MLflow run of each stage.

    Returns:
        The version of the registered model; None while the registry is away: the next run makes up for it.
    """
    from components.registry.images import ImageSources
    from components.registry.registration import register
    from components.registry.versions import RegistryUnavailable

    settings = get_settings().model_copy(update={"parent_run_id": parent_run_id})
    try:
        images = ImageSources(settings.root, paths.MANIFEST, paths.DEDUP, paths.CURATED)
        return register(settings.root / paths.RELEASE, settings, runs=runs, images=images).version
    except RegistryUnavailable as error:
        message = f"registration waits for the next run: {error}"
        get_run_logger().warning(message)
        if terminal := current_terminal():
            terminal.line(message)
        return None
