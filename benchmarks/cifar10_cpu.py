"""The recipe cifar10-cpu from nothing to a registered model: how long it takes, and what the teacher has learnt.

Not one of the numbered targets: `python -m benchmarks.cifar10_cpu`, about half an hour on two idle cores.
"""

import json
from time import perf_counter

from benchmarks.report import report
from benchmarks.workbench import fresh_clone, real_data, selfsight

MINUTES = 35.0
GAIN = 0.10
SCORES = (
    *(f"{model}.knn.top1" for model in ("teacher", "student", "untrained", "pixels")),
    "teacher.linear.top1",
    "student.linear.top1",
)


def main() -> None:
    """Runs the recipe in a fresh clone and reports."""
    data = real_data() / "cifar10"
    with fresh_clone() as clone:
        start = perf_counter()
        selfsight(
            clone, "run", "--recipe", "cifar10-cpu", "--data", str(data / "train.tar"), "--eval", str(data / "test.tar")
        )
        minutes = (perf_counter() - start) / 60
        metrics = {
            stage: json.loads((clone / "metrics" / f"{stage}.json").read_text())
            for stage in ("evaluate", "pretrain", "distill", "dedup")
        }
    scores = {name: metrics["evaluate"][name] for name in SCORES}
    gain = scores["teacher.knn.top1"] - scores["untrained.knn.top1"]
    report(
        "cifar10-cpu",
        "minutes of the whole recipe over those allowed",
        ratio=minutes / MINUTES,
        bound=f"<= 1 ({MINUTES:g} minutes), kNN at least {100 * GAIN:g} points above untrained",
        holds=minutes <= MINUTES and gain >= GAIN,
        figures={
            "minutes": round(minutes, 2),
            "gain_over_untrained": round(gain, 4),
            "gain_over_pixels": round(scores["teacher.knn.top1"] - scores["pixels.knn.top1"], 4),
            "scores": scores,
            "kept": metrics["dedup"]["kept"],
            "steps": {stage: metrics[stage]["steps"] for stage in ("pretrain", "distill")},
        },
        name="cifar10_cpu",
    )


if __name__ == "__main__":
    main()
