"""F10: flows served on a schedule are cancelled, or their server process is killed: nothing is left."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import miniature
import psutil
import pytest

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

SERVE = """
from components.settings import get_settings
from flows.deployments import serve_on_schedule
serve_on_schedule("flows.pipeline", "pipeline", "0 3 1 1 *", get_settings())
"""
HANGS = """
import os, pathlib, subprocess, sys, time
code = "import time\\nwhile True: open('beat', 'a').write('x'); time.sleep(0.05)"
worker = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
pathlib.Path('pids').write_text(f'{os.getpid()} {worker.pid}')
time.sleep(120)
"""


class Served:
    """The pipeline as a served deployment, with one run of it that hangs in its second stage."""

    def __init__(self, project: Path) -> None:
        miniature.chain(project)
        (project / "second.py").write_text(miniature.copier("first.txt", "second.txt", HANGS))
        self._said = project / "said.txt"
        with self._said.open("w") as said:
            environment = {**os.environ, "SELFSIGHT_HOME": str(project)}
            command = [sys.executable, "-c", SERVE]
            self.process = subprocess.Popen(command, cwd=project, env=environment, stdout=said, stderr=said)
        self.url = self._wait("the server", lambda: self._said.read_text().partition("watch it at ")[2].split()[:1])[0]
        deployment = self._wait("the deployment", lambda: self.ask("deployments/filter"))[0]
        self.run = self.ask(f"deployments/{deployment['id']}/create_flow_run")["id"]
        self._wait("the stage", lambda: (project / "pids").exists())
        self.below = psutil.Process(self.process.pid).children(recursive=True)
        self.stage = [psutil.Process(int(pid)) for pid in (project / "pids").read_text().split()]

    def ask(self, path: str, **body: Any) -> Any:
        return httpx.post(f"{self.url}/api/{path}", json=body).json()

    def state(self) -> str:
        return str(httpx.get(f"{self.url}/api/flow_runs/{self.run}").json()["state"]["type"])

    def _wait(self, what: str, ready: Any) -> Any:
        deadline = time.monotonic() + 120
        while not (found := ready()):
            assert time.monotonic() < deadline, f"{what} is not there: {self._said.read_text()}"
            assert self.process.poll() is None, self._said.read_text()
            time.sleep(0.2)
        return found

    def clean_up(self) -> None:
        self.process.kill()
        self.process.wait()
        for process in self.below:
            if process.is_running():
                process.kill()


@pytest.fixture
def served(project: Path) -> Iterator[Served]:
    found = Served(project)
    yield found
    found.clean_up()


def test_F10_sigkill_of_the_process_that_serves_leaves_neither_runs_nor_server(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    _, alive = psutil.wait_procs(served.below, timeout=20)
    assert not alive


def test_F10_a_cancelled_run_leaves_no_stage_behind(served: Served) -> None:
    served.ask(f"flow_runs/{served.run}/set_state", state={"type": "CANCELLING"})
    _, alive = psutil.wait_procs(served.stage, timeout=60)
    assert not alive
    deadline = time.monotonic() + 60
    while served.state() != "CANCELLED":
        assert time.monotonic() < deadline, served.state()
        time.sleep(0.5)
