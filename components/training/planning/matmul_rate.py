"""How fast a device multiplies matrices: what a plan counts with."""

import statistics
import time

import torch

REPEATS = 10
SIDE = 8192
"""Large enough that a GPU reaches its rate, small enough for 0.4 GB."""
ASSUMED_TFLOPS = {"bf16": 790.0, "fp32": 50.0}
"""Of an H100 or H200: what a large product reaches, not what the data sheet says."""
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def matmul_tflops(device: str, precision: str, *, side: int = SIDE) -> float:
    """Measures square products, the median of ten.

    Args:
        device: `cpu` or `cuda`.
        precision: `bf16` or `fp32`.
        side: of the matrices.

    Returns:
        TFLOP/s.
    """
    left, right = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return 2 * side**3 / statistics.median(seconds[1:]) / 1e12
