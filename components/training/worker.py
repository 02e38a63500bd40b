"""One training process: `python -m components.training.worker JOB.json`, started by torchrun."""

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import NoReturn

import torch.distributed as dist

from components.errors import UserError, no_space_is_a_user_error
from components.redaction import redact_text
from components.settings import guard_secrets
from components.training.heartbeat import Heartbeat
from components.training.job import PREEMPTED_EXIT_CODE, Answer, Job
from components.training.loop import Preempted
from components.training.parents import die_with
from components.training.training_run import train

_log = logging.getLogger(__name__)


class Stop:
    """SIGTERM and Ctrl-C, remembered until the loop can act on them."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def __call__(self) -> bool:
        """Whether the process was asked to stop."""
        return self.requested

    def _request(self, _signal: int, _frame: FrameType | None) -> None:
        self.requested = True


def main(spec: Path) -> None:
    """Does the job, leaves an answer beside it, and exits.

    With an answer the exit code is 0, whatever it says: torchrun starts processes again that end otherwise.
    """
    if Answer.read(spec.parent) is not None:
        _leave(0)
    job = Job.read(spec)
    die_with([job.stage_pid])
    stop = Stop()
    guard_secrets()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    try:
        with no_space_is_a_user_error(f"training {job.name}"):
            answer = Answer(0, train(job, stop, Heartbeat(spec.parent)))
    except UserError as error:
        answer = Answer.of_error(error)
    except Preempted:
        answer = Answer(PREEMPTED_EXIT_CODE, {})
    except BaseException:
        sys.stderr.write(redact_text(traceback.format_exc()))
        _leave(1)
    # each machine waits for an answer of its own
    must_answer = answer.code or dist.get_node_local_rank() == 0
    answered = _leave_answer(answer, spec.parent) if must_answer else True
    _leave(0 if answered else answer.code)


def _leave_answer(answer: Answer, folder: Path) -> bool:
    """Writes the answer; where that cannot be done, its message goes to the log, so that the reason is not lost."""
    try:
        answer.write(folder)
    except OSError as error:
        _log.error("%s: %s", folder, error.strerror)
        if answer.what:
            _log.error("%s: %s", answer.what, answer.remedy)
        return False
    return True


def _leave(code: int) -> NoReturn:
    """Ends at once: after an error the other processes may never answer a collective again."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
