from typing import Any

import pytest

from components.training.engine_config import EngineParams, deepspeed_config


def config(processes: int = 1, elements: int = 1000, device: str = "cpu", **params: Any) -> dict[str, Any]:
    made = EngineParams.model_validate(params)
    return deepspeed_config(made, images=4, micro_batches=2, elements=elements, processes=processes, device=device)


def test_batches_and_stage_are_those_of_the_parameters() -> None:
    made = config(zero_stage=2)
    assert made["train_micro_batch_size_per_gpu"] == 4
    assert made["gradient_accumulation_steps"] == 2
    assert made["zero_optimization"]["stage"] == 2


@pytest.mark.parametrize(("precision", "enabled"), [("fp32", False), ("bf16", True)])
def test_gradients_accumulate_in_fp32_whatever_the_precision(precision: str, enabled: bool) -> None:
    made = config(precision=precision)
    assert made["bf16"]["enabled"] is enabled
    assert made["data_types"]["grad_accum_dtype"] == "fp32"


def test_one_process_keeps_its_weights_and_several_only_the_small_ones() -> None:
    def threshold(processes: int, **params: Any) -> int:
        return config(processes, **params)["zero_optimization"]["stage3_param_persistence_threshold"]

    assert threshold(1) > 10**9
    assert threshold(2) == 100_000
    assert threshold(2, persistence_threshold=0) == 0
    assert threshold(1, persistence_threshold=7) == 7


def test_buffers_are_no_larger_than_the_model() -> None:
    assert config(elements=1000)["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config(elements=10**9)["zero_optimization"]["reduce_bucket_size"] == EngineParams().bucket
    small = config(elements=10**9, bucket=5000)["zero_optimization"]
    assert {small[f"{name}_bucket_size"] for name in ("reduce", "allgather", "stage3_prefetch")} == {5000}
