"""Every figure that wants a GPU, as one command, in the order of what matters most, should the time run out.

`python -m benchmarks.gpu [--minutes 9] [--results FOLDER] [--tiny]` on a machine with one GPU. A script that fails does
not keep the others from running; each leaves its JSON as soon as it is done. Needed are torch, deepspeed, numpy,
pillow, pyarrow, safetensors, jaxtyping, pydantic, pydantic-settings, psutil and tqdm.
"""

import os
import subprocess
import sys
import time

SCRIPTS = ("P2_gpu", "P5_heads", "P4_drop_path", "P6_waiting", "P3_zero3", "P12_checkpoint")
SHARE_OF_P2 = 0.6
"""Of the minutes, for the ways of P2 to begin in."""


def value_of(option: str) -> str | None:
    """What follows an option on the command line."""
    return sys.argv[sys.argv.index(option) + 1] if option in sys.argv else None


def main() -> int:
    """Runs the scripts; returns 1 if one failed or had no time."""
    minutes = float(value_of("--minutes") or 1e6)
    deadline = time.monotonic() + 60 * minutes
    environment = dict(os.environ)
    if results := value_of("--results"):
        environment["BENCHMARK_RESULTS"] = results
    failed = []
    for script in SCRIPTS:
        left = deadline - time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{script}", *(["--tiny"] if "--tiny" in sys.argv else [])]
        if script == "P2_gpu":
            command += ["--minutes", str(SHARE_OF_P2 * minutes)]
        print(f"== {script}, {left / 60:.1f} minutes left", flush=True)
        try:
            if left <= 0:
                raise TimeoutError
            subprocess.run(command, env=environment, check=True, timeout=left)
        except (subprocess.SubprocessError, TimeoutError) as error:
            print(f"{script}: {error or 'no time left'}", flush=True)
            failed.append(script)
    print("failed:", ", ".join(failed) or "none")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
