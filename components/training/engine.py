"""DeepSpeed, and nothing but DeepSpeed: the only module that imports it."""

import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

from components.training.engine_config import EngineParams, deepspeed_config
from components.training.layouts import (
    MOMENTS,
    FragmentLayout,
    Layout,
    LocalAccess,
    PartitionedLayout,
    ReplicatedLayout,
)
from components.training.parameter_groups import ParameterGroup
from components.training.schedules import StepValues

# Half of DeepSpeed's start-up goes into what is not used here: MLflow for its autotuner, and compiling Muon.
_without_mlflow = "mlflow" not in sys.modules
if _without_mlflow:
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed  # noqa: E402
from deepspeed.runtime import compiler  # noqa: E402
from deepspeed.utils import (  # noqa: E402
    safe_get_local_fp32_param,
    safe_get_local_grad,
    safe_get_local_optimizer_state,
)

if _without_mlflow:
    del sys.modules["mlflow"]
with mock.patch.object(compiler, "compile", return_value=lambda function: function):
    import deepspeed.runtime.zero.muon.original_muon


def join_processes(device: str, *, timeout: float = 600.0) -> None:
    """Makes the process group from torchrun's variables.

    Args:
        device: `cpu` (gloo) or `cuda` (nccl).
        timeout: seconds that a process waits for the others before it ends with an error.
    """
    # DeepSpeed would compile a shared-memory extension on a CPU, which only its inference uses.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if device == "cuda":
        torch.cuda.set_device(own_device(device))
    # DeepSpeed calls collectives by names that torch is about to rename
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    deepspeed.init_distributed("gloo" if device == "cpu" else "nccl", timeout=timedelta(seconds=timeout), verbose=False)


def own_device(device: str) -> str:
    """Where this process computes, by a name that means the same in each of its threads.

    The current GPU belongs to a thread: `cuda` is the first one in every thread but the one that chose.

    Args:
        device: `cpu` or `cuda`.

    Returns:
        `cpu`, or `cuda:N`.
    """
    return f"cuda:{dist.get_node_local_rank()}" if device == "cuda" else device


class Engine:
    """An objective under DeepSpeed.

    Args:
        module: the objective, whole on every process and with the same weights on all.
        groups: its trainable parameters.
        params: sharding and precision.
        images: images of one process and step.
        device: `cpu` or `cuda`.
    """

    def __init__(
        self, module: nn.Module, groups: Sequence[ParameterGroup], params: EngineParams, *, images: int, device: str
    ) -> None:
        self.params = params
        self.device = device
        self.micro_batches = images // (params.micro_batch or images)
        self._groups = {group.name: group for group in groups}
        trainable = [parameter for group in groups for parameter in group.parameters.values()]
        parameters = dict(module.named_parameters())
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        self._optimizer = torch.optim.AdamW(
            [{"params": list(group.parameters.values()), "name": group.name} for group in groups],
            lr=0.0,
            betas=(params.beta1, params.beta2),
            fused=True,
        )
        config = deepspeed_config(
            params,
            images=images // self.micro_batches,
            micro_batches=self.micro_batches,
            elements=sum(parameter.numel() for parameter in trainable),
            processes=dist.get_world_size(),
            device=device,
        )
        self._engine, self._zero, *_ = deepspeed.initialize(model=module, optimizer=self._optimizer, config=config)
        self.module: nn.Module = self._engine.module
        self._restore_buffers(buffers)
        self._check_groups()
        self._make_moments()
        self._drop_useless_hooks()
        self.layout = self._find_layout(parameters, trainable[0])
        self.shards = [self.layout.shard(name) for group in groups for name in group.parameters]

    def forward(self, **inputs: Any) -> Any:
        """Runs the module on keyword arguments."""
        return self._engine(**inputs)

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """Accumulates gradients, averaged over micro-batches and processes.

        Args:
            loss: mean over the micro-batch.
            last: whether the micro-batch is the last of the step.
        """
        self._engine.backward(loss)
        if not last:
            self._engine.step()

    def gradients(self) -> list[Float[Tensor, " piece"]]:
        """The gradient of each shard, fp32, after the last `backward`; writing to it changes the step."""
        return [self.layout.gradient(shard) for shard in self.shards]

    def step(self, values: StepValues) -> None:
        """Updates the weights with scheduled values."""
        for group in self._zero.param_groups:
            ours = self._groups[group["name"]]
            group["lr"] = ours.lr_scale * (values.last_layer_lr if ours.last_layer else values.lr)
            group["weight_decay"] = values.weight_decay if ours.decayed else 0.0
        self._engine.step()

    def skip(self) -> None:
        """Drops the gradients: no weight and no moment changes. For all processes or none."""
        if self.layout.replicated:
            self._engine.zero_grad()
            self._engine.micro_steps += 1
            return
        # DeepSpeed drops a step whose gradient norm is not finite, on all ranks, and its own books stay right.
        for gradient in self.gradients():
            gradient.fill_(torch.nan)
        self._engine.step()
        if self._engine.was_step_applied():
            raise RuntimeError("DeepSpeed applied a step that was to be dropped")

    @property
    def optimizer_steps(self) -> int:
        """Updates so far, as Adam's bias correction counts them."""
        return int(next(iter(self._optimizer.state.values()))["step"].item())

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        for state in self._optimizer.state.values():
            state["step"].fill_(steps)

    @torch.no_grad()
    def publish_weights(self) -> None:
        """After writing to `Shard.weight`: the module computes with the new weights. A collective."""
        for shard in self.shards:
            self.layout.piece(shard.name, shard).copy_(shard.weight)
        self.layout.refresh({shard.name: shard for shard in self.shards})

    def _restore_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """DeepSpeed casts buffers to the precision of the weights; a moving centre in bf16 would hardly move."""
        for name, value in buffers.items():
            owner, _, attribute = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[attribute] = value.to(self.device)

    def _check_groups(self) -> None:
        found = [group.get("name") for group in self._zero.param_groups]
        if found != list(self._groups):
            raise RuntimeError(f"DeepSpeed changed the parameter groups: {found}, not {list(self._groups)}")

    def _make_moments(self) -> None:
        """Adam's state, zero, before the first step, so that a checkpoint can be read into it."""
        for flat in self._optimized_tensors():
            self._optimizer.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS},
            }
        if hasattr(self._zero, "_lazy_init_hp_params_optimizer_state"):
            self._zero._lazy_init_hp_params_optimizer_state()

    def _drop_useless_hooks(self) -> None:
        """With one process every weight is where it is used: nothing to gather before a module, or to free after it.

        DeepSpeed's hooks would find that out anew for each module and step, at 5 to 15 % of the time of small models.
        """
        offload = getattr(self._zero, "parameter_offload", None)
        if offload is None or dist.get_world_size() > 1:
            return
        persistent = self._zero.persistent_parameters
        if len(persistent) < len(list(self.module.parameters())):
            return
        offload._remove_module_hooks()
        persistent[0].all_gather(persistent)
        self._zero._partition_all_parameters = lambda: None

    def _optimized_tensors(self) -> list[Tensor]:
        """What the optimizer updates: flattened groups, or the parameters themselves without ZeRO."""
        for attribute in (
            "fp32_partitioned_groups_flat",
            "single_partition_of_fp32_groups",
            "fp32_groups_flat_partition",
        ):
            if hasattr(self._zero, attribute):
                return list(getattr(self._zero, attribute))
        return [parameter for group in self._optimizer.param_groups for parameter in group["params"]]

    def _find_layout(self, parameters: Mapping[str, nn.Parameter], example: nn.Parameter) -> Layout:
        if hasattr(example, "ds_tensor"):
            access = LocalAccess(safe_get_local_fp32_param, safe_get_local_optimizer_state, safe_get_local_grad)
            return PartitionedLayout(parameters, self.device, access)
        if hasattr(example, "_hp_mapping"):
            return FragmentLayout(parameters, self.device)
        return ReplicatedLayout(parameters, self.device, self._optimizer)
