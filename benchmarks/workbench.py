"""A fresh clone of the committed project to measure in, and the real images."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SELFSIGHT = (sys.executable, "-c", "from flows.cli import main; main()")


def real_data() -> Path:
    """The folder of real images."""
    folder = os.environ.get("SELFSIGHT_REAL_DATA")
    if not folder:
        raise SystemExit("SELFSIGHT_REAL_DATA is not set: name the folder of real images")
    return Path(folder).resolve()


@contextmanager
def fresh_clone() -> Iterator[Path]:
    """A clone of HEAD that shares nothing with this working tree but the virtual environment."""
    with tempfile.TemporaryDirectory(prefix="selfsight-bench-") as temporary:
        clone = Path(temporary) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        yield clone


def selfsight(clone: Path, *arguments: str) -> None:
    """Runs the command line in a clone, and stops if it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SELFSIGHT_", "PYTHONPATH"))}
    subprocess.run([*SELFSIGHT, *arguments], cwd=clone, env=kept, check=True)
