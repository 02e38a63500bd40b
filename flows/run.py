"""`selfsight run`: from parameters to a table of scores."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from components.settings import Settings
from components.stages import paths
from flows.params_edit import Request, edit_params
from flows.preflight import preflight
from flows.redaction import redact
from flows.scores import read_metrics, score_table
from flows.server import prefect_server

if TYPE_CHECKING:
    from flows.pipeline import PipelineResult


def run(settings: Settings, phases: Sequence[str], request: Request, *, retries: int) -> None:
    """Changes the parameters as asked, checks, takes a snapshot, runs the pipeline and shows what came of it.

    Args:
        settings: where things are.
        phases: the phases to make, with all that they depend on; none for all.
        request: changes to params.yaml.
        retries: how often a crashed stage is started again.

    Raises:
        UserError: if the user can mend what is wrong.
        StageError: if a stage failed otherwise.
    """
    change_parameters(settings, request)
    preflight(settings)
    # it starts while the sources are listed
    with signals_unwind(), prefect_server(settings) as orchestrator:
        from components.stages.params import load_params
        from flows.snapshot import refresh_locks

        refreshed = refresh_locks(load_params(settings.root / paths.PARAMS), settings)
        if refreshed.is_new:
            sys.stderr.write(f"snapshot: {refreshed}\n")
        from flows.pipeline import pipeline
        from flows.terminal import own_terminal

        with own_terminal(), orchestrator.connect():
            result = pipeline(phases=list(phases) or None, retries=retries)
    show_result(settings, result)


def change_parameters(settings: Settings, request: Request) -> None:
    """Writes the asked changes to params.yaml and shows the difference.

    Raises:
        UserError: if they do not make valid parameters; nothing is written then.
    """
    if request.is_empty:
        return
    from components.stages.params import parse_params

    path = settings.root / paths.PARAMS

    def check(text: str) -> None:
        parse_params(text, where=path.name)

    difference = edit_params(path, request, check)
    if difference:
        sys.stderr.write(f"{path.name}:\n{difference}\n")


def show_result(settings: Settings, result: "PipelineResult") -> None:
    """Prints scores, the registered version and where to look, on standard output."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if result.is_noop:
        console.print("Nothing to do: every stage is up to date.")
    ran = {stage.stage for stage in result.stages}
    table = score_table(read_metrics(settings.root, "evaluate")) if "evaluate" in ran else None
    if table is not None:
        console.print(table)
    if result.version is not None:
        console.print(f"registered    {settings.model_name} version {result.version}, alias candidate")
    if table is not None:
        console.print(f"pictures      {paths.EVALUATION}/index.html")
    console.print(f"runs          mlflow ui --backend-store-uri {redact(settings.tracking_uri)}")
    console.print(f"time          {result.seconds:.0f} s")


@contextmanager
def signals_unwind() -> Iterator[None]:
    """Makes SIGTERM an exception in the block, so that everything started is ended on the way out.

    Raises:
        SystemExit: 143 for SIGTERM, 130 for an interrupt from the keyboard.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
