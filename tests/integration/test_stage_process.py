"""A stage as a process of its own, without an orchestrator."""

import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STOPPED = """
import os, signal, time
from components.stages import runner
signal.signal(signal.SIGTERM, runner._on_sigterm)
try:
    print('ready', flush=True)
    time.sleep(60)
finally:
    os.kill(os.getpid(), signal.SIGTERM)  # a service manager signals every process, the orchestrator does so too
    print('checkpoint written', flush=True)
"""


def test_f16_a_wrong_variable_is_one_line_and_exit_code_2_under_bare_dvc_too(project: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "SELFSIGHT_PROCESSES": "two"}
    done = subprocess.run(
        [sys.executable, "-m", "components.stages.validate"],
        cwd=project, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "SELFSIGHT_PROCESSES is 'two'" in done.stderr


def test_F3_a_second_sigterm_does_not_cut_off_what_the_first_one_started(project: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=project, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "checkpoint written\n"
    assert process.returncode == 143
