"""How busy this machine is, as metrics of a run."""

from pathlib import Path

import psutil

GIB = 2**30


def system_metrics(folder: Path) -> dict[str, float]:
    """Load of the node since the last call.

    Args:
        folder: whose disk is looked at.

    Returns:
        `system.cpu_percent` (0..100 over all cores), `system.memory_gib` and `system.disk_free_gib`; with a GPU also
        `system.gpu_memory_gib`, the peak of this process's device.
    """
    found = {
        "system.cpu_percent": psutil.cpu_percent(),
        "system.memory_gib": psutil.virtual_memory().used / GIB,
        "system.disk_free_gib": psutil.disk_usage(str(folder)).free / GIB,
    }
    import torch

    if torch.cuda.is_available():
        found["system.gpu_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found
