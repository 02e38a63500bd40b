"""The loop: new images, the pipeline, the gate, the promotion, the push.

Every part of a turn notices by itself whether it is still to be done, so that a turn that was cut off anywhere is
taken up by the next one, although there are no new images by then.
"""

from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from components.data.forgotten import read_forgotten
from components.data.named_sources import readable
from components.errors import UserError
from components.models.backbone import artifact_hash
from components.registry.promotion import is_judged, record_judgement
from components.registry.sightings import who_saw
from components.registry.versions import RegisteredVersion, by_digest, champion
from components.settings import Settings, get_settings
from components.stages import paths
from components.stages.lifeline import follow_parents
from components.stages.params import PipelineParams, load_params
from flows.drift import decide_drift
from flows.exclusion import sole_pipeline
from flows.output import Output
from flows.pipeline import pipeline
from flows.preflight import preflight
from flows.promotion import apply, decide
from flows.sharing import require_bucket, transfer
from flows.snapshot import Refreshed, refresh_locks
from flows.status import is_up_to_date
from flows.takedown import standing_lines
from flows.terminal import current_terminal

SKIPPED = "Skipped"
REFUSED = "Refused"
PROMOTED = "Promoted"
SHARED = "Shared"


@flow(name="retrain", flow_run_name="retrain")
def retrain(retries: int = 1) -> State[Any]:
    """One turn of the loop.

    Args:
        retries: how often a stage that crashed is started again.

    Returns:
        A completed state: "Skipped" if the source holds nothing new and nothing is left to do from before, or, where
        `retrain.when` is "on drift", nothing that differs from what the champion was trained on; "Refused" if the gate
        keeps the champion, "Promoted" if there is a new one, "Shared" if all that was left to do was to push what an
        earlier turn promoted.

    Raises:
        UserError: if the user can mend what is wrong.
        StageError: if a stage failed otherwise.
    """
    settings = get_settings()
    if settings.lifeline is not None:
        follow_parents(settings.lifeline)
    preflight(settings)
    if settings.s3_bucket is not None:
        require_bucket(settings)  # now, not after hours of training
    with sole_pipeline(settings.root):
        params = load_params(settings.root / paths.PARAMS)
        refreshed = refresh_locks(params, settings)
        news = refreshed.source
        released, waiting = _released(settings), None
        if news is not None or released is None or not is_up_to_date(settings.root):
            waiting = _waiting(released, params, settings)
            if released is None or waiting is None:
                released = _train(refreshed, settings, retries)
        outcome = _judge(released, params, settings)
        shared = _pay(settings)
        for line in standing_lines(settings):
            _tell(line)
        if outcome is not None:
            return outcome
        if shared:
            return Completed(name=SHARED, message="pushed what an earlier turn promoted")
        if waiting is not None:
            return Completed(name=SKIPPED, message=f"{waiting}; version {champion(settings)} stays")
        if news is not None:
            return Completed(name=SKIPPED, message=f"version {released}, made of the new images, was judged before")
        return Completed(name=SKIPPED, message=f"nothing new in {readable(params.snapshot.train_uri)}")


def _train(refreshed: Refreshed, settings: Settings, retries: int) -> RegisteredVersion:
    """Brings the pipeline up to date, and returns what came of it."""
    for line in refreshed.lines():
        _tell(line)
    if refreshed.source is None:
        _tell("an earlier run is not complete")
    pipeline(retries=retries)
    released = _released(settings)
    if released is None:
        raise UserError("the release could not be registered", remedy="see the lines above, then run again")
    return released


def _waiting(released: RegisteredVersion | None, params: PipelineParams, settings: Settings) -> str | None:
    """Why nothing is trained although something is new; None: it is trained."""
    if params.retrain.when == "always" or released is None or (current := champion(settings)) is None:
        return None
    forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
    if forgotten and who_saw(forgotten, settings).version(current.version) is not None:
        _tell(f"version {current} has seen forgotten images: a successor is trained without them")
        return None
    decision = decide_drift(current, params, settings, _pass_on)
    for line in decision.lines():
        _tell(line)
    return None if decision.must_train else decision.reason


def _released(settings: Settings) -> RegisteredVersion | None:
    """The version that this working tree's release is registered as, whatever the alias `candidate` is on by now."""
    release = settings.root / paths.RELEASE
    return by_digest(artifact_hash(release), settings) if release.is_dir() else None


def _judge(released: RegisteredVersion, params: PipelineParams, settings: Settings) -> State[Any] | None:
    """Holds the release against the champion and promotes it if it passes; None if that has been done before."""
    if released == champion(settings) or is_judged(released):
        return None
    decision = decide(params, settings, released.version)
    if not decision.result.passed:
        record_judgement(decision.version, str(decision.result), settings)
        return Completed(name=REFUSED, message=f"version {decision.version.version} {decision.result}")
    if settings.s3_bucket is not None:
        _debt(settings).touch()  # before the promotion: a kill in between must not leave it unshared
    return Completed(name=PROMOTED, message=apply(decision, settings, reason=str(decision.result)))


def _pay(settings: Settings) -> bool:
    """Pushes if a promotion has not been shared yet; returns whether there was one."""
    if settings.s3_bucket is None or not _debt(settings).exists():
        return False
    transfer("push", settings, _pass_on)
    _debt(settings).unlink()
    return True


def _debt(settings: Settings) -> Path:
    """A file that stands from before a promotion until it has been pushed."""
    return settings.root / ".dvc" / "tmp" / "selfsight.unshared"


def _pass_on(output: Output) -> None:
    if not output.is_progress:
        _tell(output.text)


def _tell(text: str) -> None:
    get_run_logger().info(text)
    if terminal := current_terminal():
        terminal.line(text)
