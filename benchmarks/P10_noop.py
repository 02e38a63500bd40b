"""P10: `dvc repro` of the whole pipeline when nothing has changed; run `make run` first."""

import subprocess
import sys

from benchmarks.report import report, seconds

BOUND_SECONDS = 2.0


def main() -> None:
    """Times the no-op and an empty `dvc` command beside it."""
    dvc = [sys.executable, "-m", "dvc"]
    first = subprocess.run([*dvc, "repro"], capture_output=True, text=True, check=True)
    if "Running stage" in first.stdout:
        raise SystemExit("stages had to run: call `make run` first, then this benchmark")
    noop = seconds(lambda: subprocess.run([*dvc, "repro"], capture_output=True, check=True))
    start_up = seconds(lambda: subprocess.run([*dvc, "config", "core.analytics"], capture_output=True, check=True))
    report(
        "P10",
        "no-op `dvc repro`, seconds",
        ratio=noop,
        bound=f"<= {BOUND_SECONDS} s",
        holds=noop <= BOUND_SECONDS,
        figures={"noop_seconds": noop, "dvc_start_seconds": start_up},
        name="P10_noop",
    )


if __name__ == "__main__":
    main()
