"""`selfsight serve-flows`: `retrain` on its schedule, one at a time."""

import os
import sys
from typing import Any

from components.settings import Settings
from components.stages import paths
from flows.server import prefect_server

DEPLOYMENT = "scheduled"


def serve_retrain(settings: Settings) -> None:
    """Serves the flow `retrain` on the schedule `retrain.cron` of params.yaml; as `serve_on_schedule`.

    Raises:
        UserError: if the parameters are wrong, or the embedded server does not start.
    """
    from components.stages.params import load_params

    cron = load_params(settings.root / paths.PARAMS).retrain.cron
    sys.stderr.write(f"retrain runs at '{cron}' (minute hour day month weekday); stop with Ctrl-C\n")
    serve_on_schedule("flows.retrain", "retrain", cron, settings)


def serve_on_schedule(module: str, name: str, cron: str, settings: Settings) -> None:
    """Serves a flow until this process is stopped, one run at a time.

    Where the user's own PREFECT_API_URL names a server, that one keeps the schedule; else an embedded one does.

    Args:
        module: where the flow is.
        name: its name there.
        cron: when it runs.
        settings: where the embedded server keeps its database.
    """
    # the processes of the runs end when this one is gone, however it went
    os.environ["SELFSIGHT_LIFELINE"] = str(os.getpid())
    with prefect_server(settings, scheduling=True) as orchestrator, orchestrator.connect() as url:
        from importlib import import_module

        from prefect import serve
        from prefect.types.entrypoint import EntrypointType

        flow: Any = getattr(import_module(module), name)
        deployment = flow.to_deployment(name=DEPLOYMENT, cron=cron, entrypoint_type=EntrypointType.MODULE_PATH)
        if url:
            sys.stderr.write(f"watch it at {url}\n")
        # not the server's concurrency limit: a killed run would hold its slot, and no other could start
        serve(deployment, limit=1)
