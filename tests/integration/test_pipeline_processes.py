"""Leashed child processes: what they print comes as it is printed, and nothing of them is left."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from components.settings import child_environment
from flows.output import Output
from flows.processes import Leashed, Prepared

pytestmark = pytest.mark.timeout(60)


def run_script(folder: Path, script: str, *, terminal: bool = False) -> tuple[int, list[tuple[float, Output]]]:
    (folder / "job.py").write_text(script)
    outputs: list[tuple[float, Output]] = []

    def keep(output: Output) -> None:
        outputs.append((time.monotonic(), output))

    prepared = Prepared("job", environment=child_environment(), folder=folder, terminal=terminal)
    code = prepared.run([], keep)
    return code, outputs


def is_gone(pid: int) -> bool:
    """Whether a process has ended; one whose new parent does not reap stays as a zombie."""
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_lines_come_while_the_process_works_and_its_exit_code_at_the_end(tmp_path: Path) -> None:
    script = "import sys, time\nprint('one', flush=True); time.sleep(0.5)\nprint('two', file=sys.stderr)\nsys.exit(7)"
    code, outputs = run_script(tmp_path, script)
    assert code == 7
    assert [output for _, output in outputs] == [Output("one"), Output("two")]
    assert outputs[1][0] - outputs[0][0] > 0.3


def test_a_process_sees_a_terminal_only_where_there_is_one(tmp_path: Path) -> None:
    script = "import sys\nprint(sys.stdin.isatty(), sys.stderr.isatty())\nsys.stderr.write('\\r 50%')\n"
    shown = [output for _, output in run_script(tmp_path, script)[1]]
    assert (shown[0], shown[-1]) == (Output("False False"), Output(" 50%"))
    shown = [output for _, output in run_script(tmp_path, script, terminal=True)[1]]
    assert Output("False True") in shown


def test_a_killed_process_gives_the_number_of_the_signal(tmp_path: Path) -> None:
    assert run_script(tmp_path, "import os; os.kill(os.getpid(), 9)")[0] == -signal.SIGKILL


DAEMON = (
    "import subprocess, sys\n"
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print(p.pid)\n"
)


def test_a_daemon_that_a_process_leaves_behind_is_ended_and_does_not_hold_up_its_end(tmp_path: Path) -> None:
    start = time.monotonic()
    code, outputs = run_script(tmp_path, DAEMON)
    assert code == 0
    assert time.monotonic() - start < 20
    assert is_gone(int(outputs[0][1].text))


def test_an_exception_while_listening_ends_the_process(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    pids: list[int] = []

    def fail(output: Output) -> None:
        pids.append(int(output.text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Prepared("job", environment=child_environment(), folder=tmp_path).run([], fail)
    assert is_gone(pids[0])


def test_a_process_that_ignores_the_request_to_stop_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen('ready', 'w')\ntime.sleep(60)"
    (tmp_path / "job.py").write_text(script)
    null = os.open(os.devnull, os.O_WRONLY)
    process = Leashed("job", environment=child_environment(), folder=tmp_path, output=null)
    os.close(null)
    process.go([])
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    assert not process.ended
    assert process.end(grace=0.3) == -signal.SIGKILL
    assert process.ended


def test_a_prepared_process_takes_its_instructions_late_and_may_be_discarded(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text("import os, sys\nprint(sys.argv[1:], os.environ['LATE'])\n")
    first = Prepared("job", environment=child_environment(), folder=tmp_path, imports=["json"])
    second = Prepared("job", environment=child_environment(), folder=tmp_path)
    outputs: list[Output] = []
    assert first.run(["a", "b"], outputs.append, {"LATE": "yes"}) == 0
    assert outputs == [Output("['a', 'b'] yes")]
    assert second.discard(grace=1) != 0
