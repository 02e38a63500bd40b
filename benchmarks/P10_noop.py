"""P10: `dvc repro` of the whole pipeline when nothing has changed; run `make run` first.

Beside it, what the last whole run spent outside its stages: that is Prefect, DVC, and tracking of the pipeline.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.report import report, seconds
from components.settings import get_settings
from components.tracking import client
from flows.graph import read_graph

BOUND_SECONDS = 2.0


def orchestration() -> dict[str, float]:
    """Seconds of the last run that ran every stage, and what share of them no stage accounts for."""
    settings = get_settings()
    stages = read_graph(Path.cwd()).stages
    made = client(settings)
    experiment = made.get_experiment_by_name(settings.mlflow_experiment).experiment_id
    order = ["attributes.start_time DESC"]
    for run in made.search_runs([experiment], filter_string="tags.stage = 'pipeline'", order_by=order):
        in_stages = [run.data.metrics.get(f"{stage}.seconds") for stage in stages]
        if run.info.end_time and all(one is not None for one in in_stages):
            whole = (run.info.end_time - run.info.start_time) / 1000
            return {"run_seconds": round(whole, 1), "orchestration_share": round(1 - sum(in_stages) / whole, 4)}
    return {}


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
        figures={"noop_seconds": noop, "dvc_start_seconds": start_up, **orchestration()},
        name="P10_noop",
    )


if __name__ == "__main__":
    main()
