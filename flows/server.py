"""A Prefect server of our own on loopback, for people who run none.

Prefect would start one by itself, but that one outlives a killed parent, and it cannot be started early, while
other work is going on.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from components.errors import UserError
from components.redaction import redact
from components.settings import Settings, child_environment
from flows.processes import Leashed

START_SECONDS = 180.0
STOP_SECONDS = 1.0
FLUSH_SECONDS = 10.0
POLL_SECONDS = 0.05
HEALTH_SECONDS = 5.0


def prefect_home(settings: Settings) -> Path:
    """Folder of the embedded server's database: beside MLflow's."""
    return settings.journals.parent / ".prefect"


class EmbeddedServer:
    """A Prefect server as a leashed child process.

    Args:
        settings: where its database goes.
        scheduling: also run the services that start scheduled flow runs, and the web interface.
    """

    def __init__(self, settings: Settings, *, scheduling: bool = False) -> None:
        self.settings = settings
        self._home = prefect_home(settings)
        self._home.mkdir(parents=True, exist_ok=True)
        self._log_file = self._home / "server.log"
        self.is_scheduling = scheduling
        self._port = _free_port()
        self._log: IO[bytes] = self._log_file.open("wb")
        self._process = Leashed(
            "uvicorn",
            environment={**child_environment(), **self._variables()},
            folder=self._home,
            output=self._log.fileno(),
        )
        self._process.go(
            [
                "--factory", "prefect.server.api.server:create_app",
                "--host", "127.0.0.1", "--port", str(self._port), "--log-level", "error", "--lifespan", "on",
            ]
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Address of the server, for a browser."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def api_url(self) -> str:
        """Address of its API."""
        return f"{self.url}/api"

    def wait(self) -> None:
        """Waits until the server answers.

        Raises:
            UserError: if it ends or stays silent.
        """
        import httpx

        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and not self._process.ended:
            try:
                if httpx.get(f"{self.api_url}/health", timeout=HEALTH_SECONDS).is_success:
                    return
            except httpx.TransportError:
                time.sleep(POLL_SECONDS)
        raise UserError("the embedded Prefect server does not start", remedy=f"see {self._log_file}")

    def stop(self) -> None:
        """Stops the server and waits until it is gone."""
        self._process.end(STOP_SECONDS)
        self._log.close()

    def _variables(self) -> dict[str, str]:
        variables = {
            "PREFECT_HOME": str(self._home),
            "PREFECT_API_URL": self.api_url,
            "PREFECT_UI_API_URL": self.api_url,
            "PREFECT_LOGGING_SERVER_LEVEL": "ERROR",
        }
        if not self.is_scheduling:
            variables |= {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
        return variables


@contextmanager
def prefect_server(settings: Settings, *, scheduling: bool = False) -> Iterator["Orchestrator"]:
    """Provides a Prefect API for the length of the block: the user's own where PREFECT_API_URL names one.

    The embedded server starts in the background; `Orchestrator.connect` waits for it.

    Args:
        settings: where the embedded server keeps its database.
        scheduling: also run what starts scheduled flow runs.
    """
    # before Prefect is imported: it reads its home folder then
    os.environ.setdefault("PREFECT_HOME", str(prefect_home(settings)))
    if os.environ.get("PREFECT_API_URL"):
        yield Orchestrator(None)
        return
    server = EmbeddedServer(settings, scheduling=scheduling)
    try:
        yield Orchestrator(server)
    finally:
        server.stop()


class Orchestrator:
    """The Prefect API in use.

    Args:
        server: the embedded server, or None for one that the user's own settings name.
    """

    def __init__(self, server: EmbeddedServer | None) -> None:
        self._server = server

    @contextmanager
    def connect(self) -> Iterator[str | None]:
        """Waits for the API and makes it the one that flows in the block talk to.

        Yields:
            Address of the embedded server; None for the user's own.

        Raises:
            UserError: if the server does not start, or the user's own does not answer.
        """
        if self._server is None:
            _require_api()
            yield None
            return
        self._server.wait()
        from prefect.settings import PREFECT_API_URL, PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        updates: dict[Any, Any] = {PREFECT_API_URL: self._server.api_url}
        if not self._server.is_scheduling:
            # heartbeats are for a server that outlives the run; each flow run waits a second for the end of its own
            updates[PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
        with temporary_settings(updates):
            try:
                yield self._server.url
            finally:
                _flush()


def _require_api() -> None:
    """Asks the user's own server whether it is there.

    Raises:
        UserError: if it does not answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    with get_client(sync_client=True) as client:
        problem = client.api_healthcheck()
    if problem is not None:
        what = f"{redact(str(PREFECT_API_URL.value()))} does not answer ({type(problem).__name__})"
        raise UserError(what, remedy="start that Prefect server, or unset PREFECT_API_URL to use an embedded one")


def _flush() -> None:
    """Sends the logs and events that are still queued, while there is a server to take them."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=FLUSH_SECONDS)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
