"""Runs every benchmark, or those whose name starts with the given target, and writes the table of results."""

import json
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"


def main() -> int:
    """Runs the scripts and rewrites benchmarks/README.md; returns 1 if a script failed."""
    wanted = sys.argv[1:]
    failed = False
    for script in sorted(FOLDER.glob("P*_*.py")):
        if wanted and script.stem.split("_")[0] not in wanted:
            continue
        print(f"== {script.stem}", flush=True)
        failed |= subprocess.run([sys.executable, "-m", f"benchmarks.{script.stem}"], check=False).returncode != 0
    write_table()
    return int(failed)


def write_table() -> None:
    """Writes benchmarks/README.md from every JSON in results/."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Every ratio was measured side by side in one run, median of at least five; "
        "whole recipes ran once.",
        "",
        "| target | what | ratio | bound | holds | machine |",
        "|---|---|---|---|---|---|",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        for result in _results(json.loads(file.read_text())):
            holds = "yes" if result["holds"] else "**no**"
            lines.append(
                f"| {result['target']} | {result['what']} | {result['ratio']:.3g} | {result['bound']} | {holds} "
                f"| {result['machine']} |"
            )
    (FOLDER / "README.md").write_text("\n".join(lines) + "\n")


def _results(content: object) -> list[dict]:
    return content if isinstance(content, list) else [content]


if __name__ == "__main__":
    sys.exit(main())
