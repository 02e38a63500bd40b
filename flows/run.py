"""`selfsight run`: from parameters to a table of scores."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from components.errors import UserError
from components.redaction import redact
from components.settings import Settings
from components.stages import paths
from flows.exclusion import sole_pipeline
from flows.graph import read_graph
from flows.params_edit import Request, edit_params
from flows.preflight import PARAMETERS, TOOLS, preflight, require_division
from flows.scores import read_metrics, score_table
from flows.server import prefect_server

if TYPE_CHECKING:
    from flows.pipeline import PipelineResult

PLAIN_WIDTH = 120
"""Columns of the table where there is no terminal to ask."""


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
    preflight(settings, TOOLS)
    _require_first_machine(settings)
    with sole_pipeline(settings.root):
        if phases:
            read_graph(settings.root).up_to(phases)
        change_parameters(settings, request)
        preflight(settings, PARAMETERS)
        # it starts while the sources are listed
        with signals_unwind(), prefect_server(settings) as orchestrator:
            take_snapshot(settings, always=False)
            from flows.pipeline import pipeline
            from flows.terminal import own_terminal

            with own_terminal(), orchestrator.connect():
                result = pipeline(phases=list(phases) or None, retries=retries)
    show_result(settings, result)


def _require_first_machine(settings: Settings) -> None:
    """DVC removes outs before a stage runs, and other machines write none."""
    if settings.node_rank > 0:
        raise UserError(
            f"SELFSIGHT_NODE_RANK={settings.node_rank}, and the pipeline runs on machine 0",
            remedy="here, only help with a training stage: infra/node.sh pretrain",
        )


def take_snapshot(settings: Settings, *, always: bool) -> None:
    """Writes the locks where they have changed, and says so.

    Args:
        settings: where things are.
        always: look for a new champion to embed with even if there are no new images.

    Raises:
        UserError: if a source cannot be read, or the embedder or the initial weights cannot be had.
    """
    from components.stages.params import load_params
    from flows.snapshot import refresh_locks

    refreshed = refresh_locks(load_params(settings.root / paths.PARAMS), settings, always=always)
    sys.stderr.write("".join(f"{line}\n" for line in refreshed.lines()))


def retrain_once(settings: Settings, *, retries: int) -> None:
    """One turn of the loop, and what came of it.

    Raises:
        UserError: if the user can mend what is wrong.
        StageError: if a stage failed otherwise.
    """
    preflight(settings)
    with signals_unwind(), prefect_server(settings) as orchestrator:
        from flows.retrain import retrain
        from flows.terminal import own_terminal

        with own_terminal(), orchestrator.connect():
            state = retrain(retries=retries, return_state=True)
            state.result()  # raises what the flow raised
    sys.stdout.write(f"{state.name}: {state.message}\n")


def change_parameters(settings: Settings, request: Request) -> None:
    """Writes the asked changes to params.yaml and shows the difference.

    Raises:
        UserError: if they do not make valid parameters; nothing is written then.
    """
    if request.is_empty:
        return
    from components.stages.params import parse_params
    from flows.snapshot import probe_sources

    path = settings.root / paths.PARAMS

    def check(text: str) -> None:
        params = parse_params(text, where=path.name)
        require_division(params, settings)
        if request.data is not None or request.eval is not None:
            probe_sources(params, settings)

    difference = edit_params(path, request, check)
    if difference:
        sys.stderr.write(f"{path.name}:\n{difference}\n")


def show_result(settings: Settings, result: "PipelineResult") -> None:
    """Prints scores, the registered version and where to look, on standard output."""
    from rich.console import Console

    from flows.takedown import standing_lines

    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    if result.is_noop:
        console.print("Nothing to do: every stage is up to date.")
    ran = {stage.stage for stage in result.stages}
    table = score_table(read_metrics(settings.root, "evaluate")) if "evaluate" in ran else None
    if table is not None:
        console.print(table)
    if "audit" in ran:
        funnel = read_metrics(settings.root, "audit")
        came, left = (int(funnel.get(f"funnel.{name}", 0)) for name in ("files", "trained_on"))
        console.print(f"curation      {left:,} of {came:,} files are trained on, see {paths.CURATION}/index.html")
    if result.version is not None:
        console.print(f"registered    {settings.model_name} version {result.version}, alias candidate")
    if table is not None:
        console.print(f"pictures      {paths.EVALUATION}/index.html")
    for line in standing_lines(settings):
        console.print(line)
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
