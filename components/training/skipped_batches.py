"""Which images were in the steps that went wrong: a file of JSON lines beside the checkpoints of the run."""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch.distributed as dist

_log = logging.getLogger(__name__)
SKIPPED_BATCHES = "skipped-batches.jsonl"
SHOWN_IDS = 8


class Part(NamedTuple):
    """One forward pass of a step that went wrong.

    Attributes:
        process: that made it.
        micro_batch: its number in the step.
        loss: of it alone; where only this is not finite, so is an image of it.
        ids: all its images.
    """

    process: int
    micro_batch: int
    loss: float
    ids: tuple[str, ...]


def parts_of_all(own: Sequence[tuple[float, tuple[str, ...]]]) -> list[Part]:
    """The forward passes of a step on all processes. A collective.

    Args:
        own: loss and ids of each of this process's.
    """
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, list(own))
    return [
        Part(process, micro, loss, ids)
        for process, passes in enumerate(everyone)
        for micro, (loss, ids) in enumerate(passes)
    ]


class SkippedBatches:
    """The file; for process 0 alone.

    A step that is done again, after a kill or a roll-back, has its line already and gets no second one.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = self._read()
        self.published = True
        """Whether nothing was added since the file was last given away."""

    def start_anew(self) -> None:
        """Forgets the lines of an earlier run."""
        self.path.unlink(missing_ok=True)
        self._known.clear()

    def add(self, step: int, reason: str, norms: dict[str, float], parts: Sequence[Part]) -> None:
        """Records a step; where the disk is full, the log has to do.

        Args:
            step: its number.
            reason: what was wrong.
            norms: of its gradient, by module.
            parts: every forward pass of every process.
        """
        shown = ", ".join(one[:12] for part in parts for one in part.ids[:SHOWN_IDS])
        _log.warning("step %d: %s; images %s … are listed in %s", step, reason, shown, self.path.name)
        if (step, reason) in self._known:
            return
        # numbers as text: JSON has no infinity
        line = {
            "step": step,
            "reason": reason,
            "gradient_norm": {name: f"{norm:.6g}" for name, norm in norms.items()},
            "parts": [{**part._asdict(), "loss": f"{part.loss:.6g}"} for part in parts],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            _log.warning("%s: %s", self.path, error.strerror)
            return
        self._known.add((step, reason))
        self.published = False

    def _read(self) -> set[tuple[int, str]]:
        """Steps and reasons of the lines; one that a kill cut short is removed."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return set()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole))
        lines = [json.loads(line) for line in whole.splitlines()]
        return {(line["step"], line["reason"]) for line in lines}
