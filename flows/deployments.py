"""`selfsight serve-flows`: `retrain` on its schedule, one at a time."""

import os
import sys

from components.settings import Settings
from components.stages import paths

DEPLOYMENT = "scheduled"


def serve_retrain(settings: Settings) -> None:
    """Serves the flow `retrain` until this process is stopped.

    Where the user's own PREFECT_API_URL names a server, that one keeps the schedule; else an embedded one does.

    Args:
        settings: where things are; the schedule is `retrain.cron` of params.yaml.

    Raises:
        UserError: if the parameters are wrong, or the embedded server does not start.
    """
    from components.stages.params import load_params
    from flows.server import prefect_server

    cron = load_params(settings.root / paths.PARAMS).retrain.cron
    # the flow runs that are started here end when this process is gone
    os.environ["SELFSIGHT_LIFELINE"] = str(os.getpid())
    with prefect_server(settings, scheduling=True) as orchestrator, orchestrator.connect() as url:
        from prefect import serve
        from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
        from prefect.deployments.runner import EntrypointType

        from flows.retrain import retrain

        one_at_a_time = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
        deployment = retrain.to_deployment(
            name=DEPLOYMENT, cron=cron, concurrency_limit=one_at_a_time, entrypoint_type=EntrypointType.MODULE_PATH
        )
        sys.stderr.write(f"retrain runs at '{cron}'" + (f"; watch it at {url}\n" if url else "\n"))
        serve(deployment, limit=1)
