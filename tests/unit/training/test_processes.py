"""How training processes are started and stopped."""

import errno
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.api import PContext
from torch.distributed.launcher.api import LaunchConfig
from torch.distributed.run import get_args_parser
from training_jobs import JOB

from components.errors import UserError
from components.training import processes
from components.training.agent import understood
from components.training.job import Answer, Job


def arguments_for_torchrun() -> list[str]:
    command = processes._command(JOB, Path("job.json"))
    return command[command.index("components.training.agent") + 1 :]


def test_torchrun_gives_a_checkpoint_the_time_that_is_promised() -> None:
    parsed = get_args_parser().parse_args(understood(arguments_for_torchrun()))
    assert parsed.shutdown_timeout >= processes.GRACE_SECONDS


def test_F4_torchrun_starts_processes_again_as_often_as_the_settings_say() -> None:
    assert get_args_parser().parse_args(understood(arguments_for_torchrun())).max_restarts == JOB.restarts == 2


def test_a_torchrun_that_has_no_such_option_gives_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11."""
    monkeypatch.delattr(LaunchConfig, "shutdown_timeout")
    monkeypatch.setattr(PContext.close, "__defaults__", PContext.close.__defaults__)  # put back afterwards
    given = arguments_for_torchrun()
    left = understood(given)
    assert [one for one in given if one not in left] == [f"--shutdown-timeout={math.ceil(processes.GRACE_SECONDS)}"]
    assert PContext.close.__defaults__ == (None, math.ceil(processes.GRACE_SECONDS))


def test_a_training_on_a_cpu_keeps_the_memory_that_it_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in processes.KEEP_FREED_MEMORY:
        monkeypatch.delenv(name, raising=False)
    assert processes.KEEP_FREED_MEMORY.items() <= processes._environment(JOB).items()
    on_gpu = processes._environment(replace(JOB, device="cuda"))
    assert not processes.KEEP_FREED_MEMORY.keys() & on_gpu.keys()


def test_how_the_user_has_set_up_memory_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    assert processes._environment(JOB)["MALLOC_TOP_PAD_"] == "4096"


@pytest.fixture
def raising_on_sigterm() -> Iterator[None]:
    """As the stage runner and others do."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("raising_on_sigterm")
def test_F3_another_sigterm_does_not_cut_the_checkpoint_off(tmp_path: Path) -> None:
    saving = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(0.8)"
    with subprocess.Popen([sys.executable, "-c", saving], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        Answer(75, {}).write(tmp_path)
        again = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        again.start()
        assert processes._stop(process, tmp_path) == Answer(75, {})
        assert process.poll() == 0, "it was waited for"
        again.join()
    with pytest.raises(SystemExit):
        signal.raise_signal(signal.SIGTERM)


def test_stopping_works_in_a_thread_that_may_not_set_signals(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        thread = threading.Thread(target=processes._stop, args=(process, tmp_path))
        thread.start()
        thread.join()
        assert process.poll() == -signal.SIGTERM


def test_F7_a_full_temporary_folder_is_one_line_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_job: Job, _folder: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Job, "write", full)
    with pytest.raises(UserError, match=r"no space left while writing to .*selfsight-job"):
        processes.run_job(JOB)
