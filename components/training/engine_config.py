"""Sharding, precision and optimizer, and DeepSpeed's configuration made from them."""

from typing import Any, Literal

from pydantic import Field

from components.parameters import Params

PERSISTENT_ELEMENTS = 100_000
UNLIMITED = 10**12


class EngineParams(Params):
    """Sharding, precision and optimizer."""

    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of weights, activations and gradients; optimizer and averages are always fp32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=3, description="ZeRO: 0 nothing, 1 optimizer, 2 also gradients, 3 also weights are sharded"
    )
    micro_batch: int | None = Field(
        default=None, gt=1, description="images of one forward pass of a process; null: its whole share of the batch"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW: decay of the mean of gradients")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW: decay of the mean of squared gradients")
    persistence_threshold: int | None = Field(
        default=None,
        ge=0,
        description="ZeRO-3 keeps parameters of up to so many elements gathered; null: 100,000, all with one process",
    )
    bucket: int = Field(
        default=50_000_000,
        gt=0,
        description="weights that are gathered ahead, or whose gradients are reduced, at a time: with fewer a process "
        "needs less memory, and more messages",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="keep only the inputs of the blocks for the backward pass and compute the rest again: "
        "same results, less memory, about a third more time",
    )
    compile: bool = Field(
        default=False,
        description="compile each block (torch.compile): another rounding; on a CPU it needs a C++ compiler",
    )


def deepspeed_config(
    params: EngineParams, *, images: int, micro_batches: int, elements: int, processes: int, device: str
) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Args:
        params: sharding and precision.
        images: images of one micro-batch of a process.
        micro_batches: micro-batches of a step.
        elements: number of trained weights; no buffer need be larger.
        processes: how many there are.
        device: `cpu` or `cuda`.
    """
    bucket = min(elements, params.bucket)
    persistent = UNLIMITED if processes == 1 else PERSISTENT_ELEMENTS
    if params.persistence_threshold is not None:
        persistent = params.persistence_threshold
    return {
        "train_micro_batch_size_per_gpu": images,
        "gradient_accumulation_steps": micro_batches,
        "steps_per_print": None,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": params.precision == "bf16", "check_grad_overflow": params.precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": params.zero_stage,
            "overlap_comm": device == "cuda",
            "contiguous_gradients": True,
            # on a CPU, DeepSpeed's reduce-scatter starts a process a step to count NUMA nodes
            "reduce_scatter": device == "cuda",
            # keeps gathered weights out of the autograd graph, slower; with one process there are none
            "memory_efficient_linear": processes > 1,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": persistent,
            "stage3_max_live_parameters": UNLIMITED,
            "stage3_max_reuse_distance": UNLIMITED,
        },
    }
