"""The loop: new images, the pipeline, the gate, the promotion, the push."""

from typing import Any

from prefect import flow, get_run_logger
from prefect.client.schemas.objects import State
from prefect.states import Completed

from components.settings import get_settings
from components.stages import paths
from components.stages.lifeline import follow_parents
from components.stages.params import load_params
from flows.output import Output
from flows.pipeline import pipeline
from flows.preflight import preflight
from flows.promotion import apply, decide
from flows.sharing import transfer
from flows.snapshot import refresh_embedder, refresh_source
from flows.status import is_up_to_date
from flows.terminal import current_terminal

SKIPPED = "Skipped"
REFUSED = "Refused"
PROMOTED = "Promoted"


@flow(name="retrain", flow_run_name="retrain")
def retrain(retries: int = 1) -> State[Any]:
    """One turn of the loop.

    Args:
        retries: how often a stage that crashed is started again.

    Returns:
        A completed state: "Skipped" if the source holds nothing new and nothing is left to do from before, "Refused" if
        the gate keeps the champion, "Promoted" if there is a new one.

    Raises:
        UserError: if the user can mend what is wrong.
        StageError: if a stage failed otherwise.
    """
    settings = get_settings()
    if settings.lifeline is not None:
        follow_parents(settings.lifeline)
    preflight(settings)
    params = load_params(settings.root / paths.PARAMS)
    news = refresh_source(params, settings)
    if news is None and is_up_to_date(settings.root):
        return Completed(name=SKIPPED, message=f"nothing new in {params.snapshot.source}")
    _tell(f"snapshot: {news}" if news else "snapshot: nothing new, but an earlier run is not complete")
    refresh_embedder(params, settings, always=news is not None)
    pipeline(retries=retries)
    decision = decide(params, settings)
    if not decision.result.passed:
        return Completed(name=REFUSED, message=f"version {decision.version.version} {decision.result}")
    done = apply(decision, settings, reason=str(decision.result))
    if settings.s3_bucket is not None:
        transfer("push", settings, _pass_on)
    return Completed(name=PROMOTED, message=done)


def _pass_on(output: Output) -> None:
    if not output.is_progress:
        _tell(output.text)


def _tell(text: str) -> None:
    get_run_logger().info(text)
    if terminal := current_terminal():
        terminal.line(text)
