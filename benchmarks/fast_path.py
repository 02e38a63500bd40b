"""What each part of the fast path buys in a step of ViT-S/14 on a CPU: time, and memory at its peak.

What is always on has no parameter: it is taken out here, for the measurement alone.

Not one of the numbered targets: `python -m benchmarks.fast_path`; `--tiny` for a trial.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import report
from benchmarks.training_step import TrainingStep, clock, params_of
from components.models import attention
from components.models.drop_path import DropPathRng
from components.models.presets import vit_config
from components.models.vit import Readout, VisionTransformer
from components.training.pretrain import PretrainParams

TINY = "--tiny" in sys.argv
REPEATS = 5
BATCH = 4
WAYS: dict[str, dict[str, Any]] = {
    "plain, fp32": {},
    "heads in tiles of 64 rows": {"tile_rows": 64},
    "activation checkpointing": {"activation_checkpointing": True},
    "compiled blocks": {"compile": True},
    "micro-batches of 2": {"micro_batch": 2},
    "stochastic depth 0.4": {"drop_path": 0.4},
    "bf16": {"precision": "bf16"},
    "without packing": {"without": "packing"},
    "without fused AdamW": {"without": "fused AdamW"},
    "without the chosen attention kernel": {"without": "attention kernel"},
    "bf16, without the chosen attention kernel": {"precision": "bf16", "without": "attention kernel"},
}


def take_out_packing() -> None:
    """Crops of each size go through the backbone by themselves."""
    together = VisionTransformer.read_out

    def one_size_at_a_time(
        self: VisionTransformer,
        images: list[Tensor],
        patches: list[Tensor | None],
        *,
        masks: list[Tensor | None] | None = None,
        rng: DropPathRng | None = None,
    ) -> list[Readout]:
        sizes = zip(images, patches, masks or [None] * len(images), strict=True)
        return [together(self, [one], [rows], masks=[mask], rng=rng)[0] for one, rows, mask in sizes]

    VisionTransformer.read_out = one_size_at_a_time  # type: ignore[method-assign]


def take_out_fused_adamw() -> None:
    """AdamW as torch has it by default: on a CPU weight after weight, on a GPU several at once."""

    class Plain(torch.optim.AdamW):
        def __init__(self, *groups: Any, **options: Any) -> None:
            super().__init__(*groups, **{**options, "fused": None})

    torch.optim.AdamW = Plain  # type: ignore[misc]


def take_out_attention_kernel() -> None:
    """The fused kernel where the plain product was chosen, and the other way round."""
    chosen = attention.attention_kernel

    def other(device: str, dtype: torch.dtype, tokens: int, *, training: bool) -> attention.Kernel:
        return "flash" if chosen(device, dtype, tokens, training=training) == "plain" else "plain"

    attention.attention_kernel = other


TAKE_OUT = {
    "packing": take_out_packing,
    "fused AdamW": take_out_fused_adamw,
    "attention kernel": take_out_attention_kernel,
}


def params(way: str) -> PretrainParams:
    """A step with heads of 65,536 prototypes."""
    changes = {name: value for name, value in WAYS[way].items() if name != "without"}
    model = vit_config("S", drop_path=changes.pop("drop_path", 0.0)).model_dump()
    head = {"hidden": 2048, "bottleneck": 256, "prototypes": 65536}
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        head = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
    heads = {"dino_head": head, "tile_rows": changes.pop("tile_rows", None), "koleo_group": 2, "drop_path_group": 2}
    return params_of(model, batch=BATCH, local_size=28 if TINY else 98, heads=heads, engine=changes)


def measure(way: str) -> dict[str, float]:
    """Median seconds, and the most memory of this process, which does nothing else."""
    torch.set_num_threads(2)
    if "without" in WAYS[way]:
        TAKE_OUT[WAYS[way]["without"]]()
    step = TrainingStep(params(way))
    step()
    Path("/proc/self/clear_refs").write_text("5")
    seconds = [clock(step) for _ in range(REPEATS + 1)][1:]
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return {"seconds": round(statistics.median(seconds), 4), "peak_mib": round(int(line.split()[1]) / 1024, 1)}


def main() -> None:
    """Measures each way in a process of its own and reports."""
    if "--way" in sys.argv:
        print(json.dumps(measure(sys.argv[sys.argv.index("--way") + 1])))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.fast_path", "--way", way, *(["--tiny"] if TINY else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, found[way], flush=True)
    plain = found["plain, fp32"]
    report(
        "fast path",
        "seconds of a step of ViT-S/14 with heads in tiles over those with whole logits, one process after the other",
        ratio=found["heads in tiles of 64 rows"]["seconds"] / plain["seconds"],
        bound="none",
        holds=True,
        figures={
            "ways": {
                way: {
                    **one,
                    "time_over_plain": round(one["seconds"] / plain["seconds"], 3),
                    "memory_over_plain": round(one["peak_mib"] / plain["peak_mib"], 3),
                }
                for way, one in found.items()
            },
            "batch": BATCH,
            "repeats": REPEATS,
        },
        name="fast_path",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
