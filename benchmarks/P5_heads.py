"""P5: a prototype head tile by tile against the same head with all its logits: memory and time.

`python -m benchmarks.P5_heads`: 512 rows, 131,072 prototypes, fp32; `--tiny` for a trial. Times are taken in turn in
one process; memory is what a step needs at its peak beyond weights and their gradient, each way in its own process.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional as F

from benchmarks.report import report
from components.models.heads import Prototypes
from components.objectives.centring import CentringName, make_centring
from components.objectives.losses import ibot_loss
from components.objectives.tiled_heads import HeadSettings, target_rules
from components.objectives.tiled_loss import Section, tiled_cross_entropy

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TINY = "--tiny" in sys.argv
ROWS, BOTTLENECK = 512, 256
PROTOTYPES = 2048 if TINY else 131072
TILE_ROWS = 64
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.07
MEMORY_BOUND = 0.10
TIME_BOUNDS = {"softmax": 1.05 if CUDA else 1.25, "sinkhorn": 1.05 if CUDA else 1.5}
WAYS = ("materialised", "tiled")
REPEATS = 7


class Head:
    """Student's and teacher's prototypes with rows of the iBOT loss.

    Args:
        way: one of `WAYS`.
        centring: of the teacher.
        prototypes: how many.
    """

    def __init__(self, way: str, centring: str, prototypes: int = PROTOTYPES) -> None:
        torch.manual_seed(0)
        self.student = Prototypes(BOTTLENECK, prototypes).to(DEVICE)
        self.teacher = Prototypes(BOTTLENECK, prototypes).to(DEVICE).requires_grad_(requires_grad=False)
        rows = [F.normalize(torch.randn(ROWS, BOTTLENECK, device=DEVICE), dim=-1) for _ in range(2)]
        self.rows, self.teacher_rows = rows[0].requires_grad_(), rows[1]
        self.weights = torch.full((ROWS,), 1 / ROWS, device=DEVICE)
        name = cast(CentringName, centring)
        self.centring = make_centring(name, prototypes, momentum=0.9, iterations=3).to(DEVICE)
        self.step: Callable[[], torch.Tensor] = self.materialised if way == "materialised" else self.tiled

    def __call__(self) -> None:
        """Loss and gradients, from nothing."""
        self.student.weight.grad = self.rows.grad = None
        self.step().backward()
        self.centring.reject()
        if CUDA:
            torch.cuda.synchronize()

    def materialised(self) -> torch.Tensor:
        """All logits at once."""
        with torch.no_grad():
            targets = self.centring(self.teacher(self.teacher_rows), TEACHER_TEMPERATURE)
        logits = self.student(self.rows)
        return ibot_loss(logits, targets, self.weights, crops=1, temperature=STUDENT_TEMPERATURE)

    def tiled(self) -> torch.Tensor:
        """Tile by tile."""
        settings = HeadSettings(0.0, 1.0, STUDENT_TEMPERATURE, TEACHER_TEMPERATURE, TILE_ROWS, measure=False)
        [rule] = target_rules(self.teacher, [self.teacher_rows], [self.centring], settings)
        section = Section(self.rows[None], self.teacher_rows[None], rule, self.weights[None], crossed=False)
        return tiled_cross_entropy(
            self.student, self.teacher, [section], temperature=STUDENT_TEMPERATURE, tile_rows=TILE_ROWS
        )


def extra_bytes(way: str, centring: str) -> int:
    """Peak of a step beyond what it starts from and the gradient of the weight; in this process, once."""
    Head(way, centring, prototypes=1000)()
    head = Head(way, centring)
    gradient = 4 * PROTOTYPES * BOTTLENECK
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        head()
        return torch.cuda.max_memory_allocated() - before - gradient
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    head()
    return _status("VmHWM") - before - gradient


def _status(name: str) -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return 1024 * int(line.split()[1])


def measured_apart(way: str, centring: str) -> int:
    """`extra_bytes` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.P5_heads", "--memory", way, centring, *(["--tiny"] if TINY else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1]))


def measure(centring: str) -> dict[str, Any]:
    """Ratios of one centring."""
    from benchmarks.training_step import clock

    heads = {way: Head(way, centring) for way in WAYS}
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(REPEATS + 2):
        for way, head in heads.items():
            taken = clock(head)
            if number >= 2:
                times[way].append(taken)
    ratio = statistics.median(b / a for a, b in zip(times["materialised"], times["tiled"], strict=True))
    del heads
    memory = {way: statistics.median(measured_apart(way, centring) for _ in range(1 if TINY else 5)) for way in WAYS}
    return {
        "time_ratio": round(ratio, 4),
        "time_bound": TIME_BOUNDS[centring],
        "memory_ratio": round(memory["tiled"] / memory["materialised"], 4),
        "seconds": {way: round(statistics.median(taken), 4) for way, taken in times.items()},
        "extra_mib": {way: round(found / 2**20, 1) for way, found in memory.items()},
    }


def main() -> None:
    """Measures and reports."""
    if "--memory" in sys.argv:
        way, centring = sys.argv[sys.argv.index("--memory") + 1 :][:2]
        print(json.dumps(extra_bytes(way, centring)))
        return
    if not CUDA:
        torch.set_num_threads(2)
    found = {centring: measure(centring) for centring in TIME_BOUNDS}
    memory = max(one["memory_ratio"] for one in found.values())
    holds = memory <= MEMORY_BOUND and all(one["time_ratio"] <= one["time_bound"] for one in found.values())
    report(
        "P5",
        "extra memory of a prototype head without materialised logits, the larger of both centrings",
        ratio=memory,
        bound=f"<= {MEMORY_BOUND}, in time softmax <= {TIME_BOUNDS['softmax']}, Sinkhorn <= {TIME_BOUNDS['sinkhorn']}",
        holds=holds,
        figures={
            **found,
            "rows": ROWS,
            "prototypes": PROTOTYPES,
            "tile_rows": TILE_ROWS,
            "device": DEVICE,
            "repeats": REPEATS,
        },
        name="P5_gpu" if CUDA else "P5",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
