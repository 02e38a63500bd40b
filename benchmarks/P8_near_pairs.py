"""P8: all pairs of near vectors x 384, exactly: against the machine's own matrix products, and against faiss flat.

`python -m benchmarks.P8_near_pairs`: 20,000 and 100,000 vectors on a CPU, 1,000,000 on a GPU; `--tiny` for a trial.
Every repeat takes matrix products, ours and faiss in turn. faiss is left out on a GPU.
"""

import statistics
import sys
from typing import Any

import numpy as np
import torch

from benchmarks.report import report
from benchmarks.training_step import DEVICE, clock, matmul_rate
from components.features.near_pairs import near_pairs

TINY = "--tiny" in sys.argv
CUDA = DEVICE == "cuda"
DIMENSION = 384
SIZES = (2_000, 4_000) if TINY else (1_000_000,) if CUDA else (20_000, 100_000)
COPIES = 0.05
THRESHOLD, NEARNESS = 0.8, 0.95
"""Cosine that is searched for, and that of a planted copy with its original."""
THREADS, REPEATS = 2, 5
RATE_BOUND, FAISS_BOUND = 1 / 1.5 if CUDA else 0.7, 1.5


def vectors(count: int) -> torch.Tensor:
    """Random unit vectors; the last twentieth are near copies of the first."""
    generator = torch.Generator().manual_seed(count)

    def drawn(rows: int) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.randn(rows, DIMENSION, generator=generator), dim=1)

    copies = round(count * COPIES)
    found = drawn(count)
    found[-copies:] = NEARNESS * found[:copies] + (1 - NEARNESS**2) ** 0.5 * drawn(copies)
    return torch.nn.functional.normalize(found, dim=1)


def by_faiss(base: np.ndarray) -> int:
    """Pairs that faiss finds, each once and without the vectors themselves."""
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexFlatIP(DIMENSION)
    index.add(base)
    limits, _, found = index.range_search(base, THRESHOLD)
    return int((found > np.repeat(np.arange(len(base)), np.diff(limits).astype(np.int64))).sum())


def measure(count: int) -> dict[str, Any]:
    """Seconds and ratios at one size."""
    base = vectors(count)
    on_device, as_array = base.to(DEVICE), base.numpy()
    pairs = {"ours": len(near_pairs(on_device[: max(SIZES[0], 1000)], THRESHOLD).pairs)}  # warm
    seconds: dict[str, list[float]] = {"ours": [], "faiss": []}
    rates = []
    shapes = [(2048, 2048, 2048), (2048, DIMENSION, 2048), (8192, DIMENSION, 8192)]
    for _ in range(REPEATS):
        rates.append(matmul_rate(shapes[:1] if TINY else shapes, torch.float32))
        seconds["ours"].append(clock(lambda: pairs.update(ours=len(near_pairs(on_device, THRESHOLD).pairs))))
        if not CUDA:
            seconds["faiss"].append(clock(lambda: pairs.update(faiss=by_faiss(as_array))))
    flops = float(count) * (count - 1) * DIMENSION
    shares = [flops / taken / rate for taken, rate in zip(seconds["ours"], rates, strict=True)]
    faster = [other / own for own, other in zip(seconds["ours"], seconds["faiss"], strict=not CUDA)]
    return {
        "vectors": count,
        "share_of_matmul_rate": round(statistics.median(shares), 4),
        "times_faster_than_faiss": round(statistics.median(faster), 3) if faster else None,
        "seconds": {name: round(statistics.median(taken), 3) for name, taken in seconds.items() if taken},
        "matmul_gflops_a_second": round(statistics.median(rates) / 1e9, 1),
        "pairs": pairs,
        "planted": round(count * COPIES),
    }


def main() -> None:
    """Measures and reports."""
    if not CUDA:
        torch.set_num_threads(THREADS)
    found = [measure(count) for count in SIZES]
    share = min(one["share_of_matmul_rate"] for one in found)
    holds = share >= RATE_BOUND
    for one in found:
        holds &= one["pairs"]["ours"] >= one["planted"]
        if not CUDA:
            holds &= one["pairs"]["ours"] == one["pairs"]["faiss"] and one["times_faster_than_faiss"] >= FAISS_BOUND
    report(
        "P8",
        "share of the machine's matrix-product rate in the exact search for near pairs, half the products counted",
        ratio=share,
        bound=f">= {RATE_BOUND:.2f}" + ("" if CUDA else f", and >= {FAISS_BOUND} x faster than faiss flat, same pairs"),
        holds=holds,
        figures={"sizes": found, "threshold": THRESHOLD, "dimension": DIMENSION, "repeats": REPEATS, "device": DEVICE},
        name="P8_gpu" if CUDA else "P8",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
