"""DeepSpeed, and nothing but DeepSpeed: the only module that imports it.

It hides which ZeRO stage runs. Whatever the stage, each process holds a *shard* of every trainable parameter: a
contiguous piece of the flattened parameter in fp32, with its Adam moments and its gradient. Averages, clipping and
checkpoints work on shards alone, without any collective.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    logger as deepspeed_logger,
    safe_get_local_fp32_param,
    safe_get_local_grad,
    safe_get_local_optimizer_state,
)
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from components.parameters import Params
from components.training.parameter_groups import ParameterGroup
from components.training.schedules import StepValues

MOMENTS = ("exp_avg", "exp_avg_sq")
BUCKET_ELEMENTS = 50_000_000
PERSISTENT_ELEMENTS = 100_000
UNLIMITED = 10**12


class EngineParams(Params):
    """Sharding, precision and optimizer."""

    precision: Literal["fp32", "bf16"] = Field(
        default="fp32", description="of weights, activations and gradients; the optimizer and averages are always fp32"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=3, description="ZeRO: 0 nothing, 1 optimizer, 2 and gradients, 3 and weights are sharded"
    )
    micro_batch: int | None = Field(
        default=None, gt=0, description="images of one forward pass of a process; null: its whole share of the batch"
    )
    beta1: float = Field(default=0.9, ge=0, lt=1, description="AdamW: decay of the mean gradient")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="AdamW: decay of the squared gradient")
    persistence_threshold: int | None = Field(
        default=None,
        ge=0,
        description="ZeRO-3 keeps parameters of at most so many elements gathered; null: all with one process",
    )


@dataclass(frozen=True)
class Shard:
    """This process's piece of one parameter.

    Attributes:
        name: of the parameter.
        shape: of the whole parameter.
        start: first element of the piece in the flattened parameter.
        weight: fp32 weights of the piece, a view that the optimizer updates. May be empty.
        moments: Adam's moments of the piece, views.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    weight: Float[Tensor, " piece"]
    moments: dict[str, Float[Tensor, " piece"]]


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
        self.world_size = dist.get_world_size()
        self.rank = dist.get_rank()
        self.micro_batches = images // (params.micro_batch or images)
        self._groups = {group.name: group for group in groups}
        self._named = dict(module.named_parameters())
        trainable = [p for group in groups for p in group.parameters.values()]
        buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
        config = deepspeed_config(
            params,
            world_size=self.world_size,
            images=images // self.micro_batches,
            micro_batches=self.micro_batches,
            elements=sum(p.numel() for p in trainable),
            overlap=device == "cuda",
        )
        optimizer = torch.optim.AdamW(
            [{"params": list(group.parameters.values()), "name": group.name} for group in groups],
            lr=0.0,
            betas=(params.beta1, params.beta2),
            fused=True,
        )
        self._engine, self._zero, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        self.module: nn.Module = self._engine.module
        self._restore_buffers(buffers, device)
        self._check_groups()
        self._layout = _layout_of(trainable[0])
        self._make_moments(optimizer)
        self._optimizer = optimizer
        self.shards = [self._shard(name) for group in groups for name in group.parameters]

    # -- one step ---------------------------------------------------------------------------------------------------

    def forward(self, **inputs: Any) -> Any:
        """Runs the module; every tensor of the result that needs a gradient can be given to `backward`."""
        return self._engine(**inputs)

    def backward(self, loss: Float[Tensor, ""], *, last: bool) -> None:
        """Accumulates gradients of one micro-batch, averaged over micro-batches and processes.

        Args:
            loss: mean over the micro-batch.
            last: whether it is the last micro-batch of the step.
        """
        self._engine.backward(loss)
        if not last:
            self._engine.step()

    def gradients(self) -> dict[str, Float[Tensor, " piece"]]:
        """This process's shard of each gradient, fp32, after the last `backward`; writing to it changes the step."""
        return {shard.name: self._gradient(shard) for shard in self.shards}

    def step(self, values: StepValues) -> None:
        """Updates the weights with the scheduled values."""
        for group in self._zero.param_groups:
            ours = self._groups[group["name"]]
            group["lr"] = ours.lr_scale * (values.last_layer_lr if ours.last_layer else values.lr)
            group["weight_decay"] = values.weight_decay if ours.decayed else 0.0
        self._engine.step()

    def skip(self) -> None:
        """Drops the gradients: no weight and no moment changes. To be called on every process, or on none."""
        if self._layout == "whole":
            self._engine.zero_grad()
            self._engine.micro_steps += 1
            return
        # DeepSpeed drops a step whose gradient norm is not finite, on all ranks, and keeps its own books right.
        for gradient in self.gradients().values():
            gradient.fill_(torch.nan)
        self._engine.step()
        assert not self._engine.was_step_applied()

    # -- state ------------------------------------------------------------------------------------------------------

    @property
    def replicated(self) -> bool:
        """Whether every process holds the whole of every parameter, so that one alone need save it."""
        return self._layout == "whole"

    @property
    def optimizer_steps(self) -> int:
        """Updates that Adam's bias correction counts."""
        return int(next(iter(self._optimizer.state.values()))["step"].item())

    @optimizer_steps.setter
    def optimizer_steps(self, steps: int) -> None:
        for state in self._optimizer.state.values():
            state["step"].fill_(steps)

    @torch.no_grad()
    def publish_weights(self) -> None:
        """After writing to `Shard.weight`: lets the module compute with the new weights."""
        for shard in self.shards:
            self.frozen_piece(shard.name, shard).copy_(shard.weight)
        self.refresh([shard.name for shard in self.shards])

    def frozen_piece(self, name: str, like: Shard) -> Float[Tensor, " piece"]:
        """The piece of another parameter's weights, in its own precision, that aligns with a shard; a view.

        Args:
            name: a parameter of the same shape, usually one that does not learn.
            like: the shard it must align with.
        """
        parameter = self._named[name]
        if self._layout == "ds_tensor":
            flat = parameter.ds_tensor.data.view(-1)
            return flat[: like.weight.numel()]
        return parameter.data.view(-1)[like.start : like.start + like.weight.numel()]

    @torch.no_grad()
    def refresh(self, names: Sequence[str]) -> None:
        """After writing to pieces of parameters: makes every process compute with what the others wrote.

        A collective: every process calls it with the same names.
        """
        if self.world_size == 1 or self._layout == "whole":
            return
        if self._layout == "ds_tensor":
            # ZeRO-3 gathers partitioned weights before each use, but those below the persistence threshold stay
            # gathered: without this the next forward would still see their old values.
            stale = [self._named[name] for name in names if self._named[name].ds_persist]
            if stale:
                stale[0].partition(stale)
                stale[0].all_gather(stale)
            return
        shards = {shard.name: shard for shard in self.shards}
        for name in names:
            shard = shards.get(name) or shards[self._source[name]]
            data = self._named[name].data.view(-1)
            data[: shard.start] = 0
            data[shard.start + shard.weight.numel() :] = 0
            dist.all_reduce(data)

    # -- set-up -----------------------------------------------------------------------------------------------------

    def _restore_buffers(self, buffers: Mapping[str, Tensor], device: str) -> None:
        """DeepSpeed casts buffers to the precision of the weights; a moving centre in bf16 would hardly move."""
        for name, value in buffers.items():
            owner, _, attribute = name.rpartition(".")
            self.module.get_submodule(owner)._buffers[attribute] = value.to(device)

    def _check_groups(self) -> None:
        found = [group.get("name") for group in self._zero.param_groups]
        if found != list(self._groups):
            raise RuntimeError(f"DeepSpeed changed the parameter groups: {found}, not {list(self._groups)}")

    def _make_moments(self, optimizer: torch.optim.Optimizer) -> None:
        """Adam's state, zero, before the first step, so that a checkpoint can be read into it."""
        for flat in _optimized_tensors(self._zero, optimizer):
            optimizer.state[flat] = {
                "step": torch.zeros((), dtype=torch.float32, device=flat.device),
                **{moment: torch.zeros_like(flat, requires_grad=False) for moment in MOMENTS},
            }
        if self._layout == "fragment":
            self._zero._lazy_init_hp_params_optimizer_state()

    def _shard(self, name: str) -> Shard:
        parameter = self._named[name]
        if self._layout == "ds_tensor":
            shape = tuple(parameter.ds_shape)
            per_process = parameter.ds_tensor.ds_numel
            start = min(self.rank * per_process, parameter.ds_numel)
            count = min(per_process, parameter.ds_numel - start)
            weight = safe_get_local_fp32_param(parameter)[:count]
            moments = {moment: safe_get_local_optimizer_state(parameter, moment)[:count] for moment in MOMENTS}
        elif self._layout == "fragment":
            shape = tuple(parameter.shape)
            mapping = parameter._hp_mapping
            if mapping is None:
                empty = torch.empty(0, device=self.device)
                return Shard(name, shape, 0, empty, dict.fromkeys(MOMENTS, empty))
            start = mapping.lp_fragment_address.start
            weight = mapping.get_hp_fragment()
            moments = {moment: mapping.get_hp_fragment(moment) for moment in MOMENTS}
        else:
            shape, start = tuple(parameter.shape), 0
            weight = parameter.data.view(-1)
            state = self._optimizer_state(parameter)
            moments = {moment: state[moment].view(-1) for moment in MOMENTS}
        return Shard(name, shape, start, weight.detach(), {key: value.detach() for key, value in moments.items()})

    def _gradient(self, shard: Shard) -> Float[Tensor, " piece"]:
        parameter, count = self._named[shard.name], shard.weight.numel()
        if self._layout == "ds_tensor":
            return safe_get_local_grad(parameter)[:count]
        if self._layout == "whole":
            return parameter.grad.view(-1)
        if count == 0:
            return shard.weight
        gradient = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group).view(-1)
        return gradient if gradient.numel() == count else gradient[shard.start : shard.start + count]
