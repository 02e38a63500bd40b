"""P12: checkpoints of ViT-S/14 with its published heads, Adam and averages: how long training stands still, and how
long a verified restore takes beside a cold read and a SHA-256 of the same bytes.

`python -m benchmarks.P12_checkpoint`, about 2 GB below the working tree for a while; `--tiny` for a trial.
"""

import hashlib
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.report import report
from benchmarks.training_step import DEVICE, TrainingStep, clock, params_of
from benchmarks.workbench import ROOT
from components.models.presets import vit_config
from components.training.checkpoint import CheckpointStore
from components.training.training_state import TrainingState

EVERY_SECONDS = 900
STALL_BOUND = 0.01
RESTORE_BOUND = 1.5
REPEATS = 5
CHUNK = 1 << 24
TINY = "--tiny" in sys.argv


def training() -> TrainingStep:
    """ViT-S/14 after a step, as the recipe vits14 has it."""
    model = vit_config("S", drop_path=0.0).model_dump()
    heads = {
        "dino_head": {"bottleneck": 384, "prototypes": 131072},
        "ibot_head": {"bottleneck": 256, "prototypes": 131072},
        "tile_rows": 64,
    }
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        heads = {"dino_head": {"hidden": 32, "bottleneck": 16, "prototypes": 64}}
    step = TrainingStep(params_of(model, batch=2, local_size=28 if TINY else 98, heads=heads))
    step()
    return step


def drop_from_cache(folder: Path) -> None:
    """The next read of each file goes to the disk."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def read(folder: Path) -> None:
    """Every byte, and nothing done with it."""
    chunk = memoryview(bytearray(CHUNK))
    for file in folder.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(chunk):
                pass


def measure(state: TrainingState, store: CheckpointStore) -> dict[str, float]:
    """Seconds of one save, one cold restore, one cold read and one SHA-256 of bytes in memory."""
    saving = clock(lambda: state.save(1, {}))
    folder = store.newest()
    assert folder is not None
    content = b"".join(file.read_bytes() for file in sorted(folder.iterdir()))

    def restore() -> None:
        found = state.newest(lambda _: True)
        assert found == folder
        state.load(found)

    drop_from_cache(folder)
    reading = clock(lambda: read(folder))
    hashing = clock(lambda: hashlib.sha256(content))
    drop_from_cache(folder)
    restoring = clock(restore)
    return {"save": saving, "restore": restoring, "cold_read": reading, "sha256": hashing, "bytes": len(content)}


def main() -> None:
    """Measures and reports."""
    if DEVICE == "cpu":
        torch.set_num_threads(2)
    step = training()
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=ROOT) as temporary:
        store = CheckpointStore(Path(temporary))
        state = TrainingState(step.engine, step.average, store)
        measured = [measure(state, store) for _ in range(REPEATS)]
    seconds = {name: round(statistics.median(one[name] for one in measured), 3) for name in measured[0]}
    restore = statistics.median(one["restore"] / max(one["cold_read"], one["sha256"]) for one in measured)
    stall = seconds["save"] / EVERY_SECONDS
    report(
        "P12",
        "seconds of a verified restore of ViT-S/14 over the slower of a cold read and SHA-256 of its bytes",
        ratio=restore,
        bound=f"<= {RESTORE_BOUND}, and training stands still <= {STALL_BOUND:.0%} of the time",
        holds=restore <= RESTORE_BOUND and stall <= STALL_BOUND,
        figures={
            "stall_share": float(f"{stall:.4g}"),
            "checkpoint_every_seconds": EVERY_SECONDS,
            "mib": round(seconds.pop("bytes") / 2**20, 1),
            "seconds": seconds,
            "weights": sum(parameter.numel() for parameter in step.objective.parameters() if parameter.requires_grad),
            "device": DEVICE,
            "repeats": REPEATS,
        },
        name="P12" if DEVICE == "cpu" else "P12_gpu",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
