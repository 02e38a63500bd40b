"""How a benchmark reports: machine, ratio, bound, and whether it holds."""

import json
import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

RESULTS = Path(os.environ.get("BENCHMARK_RESULTS", Path(__file__).parent / "results"))
"""Where results are kept; a machine that is lent may want them elsewhere."""


def machine() -> str:
    """Processor, cores and GPU of this machine, in words."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    import torch

    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {len(os.sched_getaffinity(0))} cores{gpu}"


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall seconds of `repeats` calls after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        work()
        times.append(perf_counter() - start)
    return statistics.median(times)


def report(
    target: str,
    what: str,
    *,
    ratio: float,
    bound: str,
    holds: bool,
    figures: dict[str, object],
    name: str | None = None,
    keep: bool = True,
) -> None:
    """Writes results/NAME.json (unless it is not to be kept) and prints the same object as the last line."""
    result = {
        "target": target,
        "what": what,
        "ratio": float(f"{ratio:.4g}"),
        "bound": bound,
        "holds": holds,
        "machine": machine(),
        **figures,
    }
    if keep:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{name or target}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result))
