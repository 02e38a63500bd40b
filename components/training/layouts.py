"""Where each ZeRO stage keeps weights, moments and gradients.

Whatever the stage, a process holds a *shard* of every trainable parameter: a contiguous piece of the flattened
parameter in fp32, with its Adam moments and its gradient. Averages, clipping and checkpoints work on shards alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Shard:
    """This process's piece of one parameter.

    Attributes:
        name: of the parameter.
        shape: of the whole parameter.
        start: first element of the piece in the flattened parameter.
        weight: fp32 weights of the piece, a view of what the optimizer updates; empty where this process has none.
        moments: Adam's moments of the piece by name, views.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    weight: Float[Tensor, " piece"]
    moments: dict[str, Float[Tensor, " piece"]]

    @property
    def count(self) -> int:
        """Elements of the piece."""
        return self.weight.numel()


class Layout(ABC):
    """Finds shards in what DeepSpeed made of a module.

    Args:
        parameters: of the module, by name.
        device: where tensors live.
    """

    replicated = False
    """Whether every process holds the whole of every parameter."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], device: str) -> None:
        # Any: DeepSpeed hangs attributes on parameters
        self.parameters: Mapping[str, Any] = parameters
        self.device = device

    @abstractmethod
    def shard(self, name: str) -> Shard:
        """The shard of a trainable parameter."""

    @abstractmethod
    def gradient(self, shard: Shard) -> Float[Tensor, " piece"]:
        """Its gradient in fp32, reduced over processes, after the last backward of a step; a view."""

    @abstractmethod
    def piece(self, name: str, like: Shard) -> Float[Tensor, " piece"]:
        """The piece of the parameter `name` (of the same shape) that aligns with a shard: what the module computes
        with, in its precision; a view.
        """

    @abstractmethod
    def refresh(self, written: Mapping[str, Shard]) -> None:
        """After writing pieces: every process computes with what the others wrote. A collective.

        Args:
            written: names of parameters and the shard each piece aligned with, the same on every process.
        """


@dataclass(frozen=True)
class LocalAccess:
    """DeepSpeed's local-shard functions of ZeRO-3."""

    weight: Callable[[nn.Parameter], Tensor]
    moment: Callable[[nn.Parameter, str], Tensor]
    gradient: Callable[[nn.Parameter], Tensor]


class PartitionedLayout(Layout):
    """ZeRO-3: weights, too, are sharded; every parameter, trained or not, is cut at the same places.

    Args:
        parameters: of the module, by name.
        device: where tensors live.
        access: DeepSpeed's functions.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], device: str, access: LocalAccess) -> None:
        super().__init__(parameters, device)
        self.access = access

    def shard(self, name: str) -> Shard:
        """The shard of a trainable parameter; the padding of the last process is left out."""
        parameter = self.parameters[name]
        per_process = parameter.ds_tensor.ds_numel
        start = min(dist.get_rank() * per_process, parameter.ds_numel)
        count = min(per_process, parameter.ds_numel - start)
        return Shard(
            name=name,
            shape=tuple(parameter.ds_shape),
            start=start,
            weight=self.access.weight(parameter).detach()[:count],
            moments={moment: self.access.moment(parameter, moment)[:count] for moment in MOMENTS},
        )

    def gradient(self, shard: Shard) -> Float[Tensor, " piece"]:
        """A view of DeepSpeed's gradient buffer."""
        return self.access.gradient(self.parameters[shard.name])[: shard.count]

    def piece(self, name: str, like: Shard) -> Float[Tensor, " piece"]:
        """A view of the partitioned weights."""
        flat: Tensor = self.parameters[name].ds_tensor.data.view(-1)
        return flat[: like.count]

    def refresh(self, written: Mapping[str, Shard]) -> None:
        """Gathers persistent parameters again.

        ZeRO-3 gathers weights before each use, but those below the persistence threshold stay gathered: with more
        than one process the next forward would still see their old values.
        """
        if dist.get_world_size() == 1:
            return  # what is gathered is a view of the shard
        stale = [parameter for name in written if (parameter := self.parameters[name]).ds_persist]
        if stale:
            stale[0].partition(stale)
            stale[0].all_gather(stale)


class FragmentLayout(Layout):
    """ZeRO-1 and 2: weights are whole everywhere, the optimizer's groups are flattened and cut across parameters."""

    def shard(self, name: str) -> Shard:
        """The part of the parameter that falls into this process's cut of its group."""
        parameter = self.parameters[name]
        mapping, shape = parameter._hp_mapping, tuple(parameter.shape)
        if mapping is None:
            return Shard(name, shape, 0, self._empty(), {moment: self._empty() for moment in MOMENTS})
        moments = {moment: mapping.get_hp_fragment(moment) for moment in MOMENTS}
        return Shard(name, shape, mapping.lp_fragment_address.start, mapping.get_hp_fragment().detach(), moments)

    def gradient(self, shard: Shard) -> Float[Tensor, " piece"]:
        """A view of DeepSpeed's averaged gradient."""
        if shard.count == 0:
            return self._empty()
        parameter = self.parameters[shard.name]
        found: Tensor = parameter._hp_mapping.get_lp_grad_fragment(parameter._index_in_param_group).view(-1)
        return found if found.numel() == shard.count else found[shard.start : shard.start + shard.count]

    def piece(self, name: str, like: Shard) -> Float[Tensor, " piece"]:
        """A view of the whole weights."""
        flat: Tensor = self.parameters[name].data.view(-1)
        return flat[like.start : like.start + like.count]

    def refresh(self, written: Mapping[str, Shard]) -> None:
        """Adds up the pieces of all processes."""
        if dist.get_world_size() == 1:
            return
        for name, shard in written.items():
            flat = self.parameters[name].data.view(-1)
            flat[: shard.start] = 0
            flat[shard.start + shard.count :] = 0
            dist.all_reduce(flat)

    def _empty(self) -> Tensor:
        return torch.empty(0, dtype=torch.float32, device=self.device)


class ReplicatedLayout(Layout):
    """No ZeRO: every process holds everything.

    Args:
        parameters: of the module, by name.
        device: where tensors live.
        optimizer: whose state has been made.
    """

    replicated = True

    def __init__(self, parameters: Mapping[str, nn.Parameter], device: str, optimizer: torch.optim.Optimizer) -> None:
        super().__init__(parameters, device)
        self.optimizer = optimizer

    def shard(self, name: str) -> Shard:
        """The whole parameter."""
        parameter = self.parameters[name]
        state = self.optimizer.state[parameter]
        moments = {moment: state[moment].view(-1) for moment in MOMENTS}
        return Shard(name, tuple(parameter.shape), 0, parameter.data.view(-1), moments)

    def gradient(self, shard: Shard) -> Float[Tensor, " piece"]:
        """The whole gradient."""
        found: Tensor = self.parameters[shard.name].grad.view(-1)
        return found

    def piece(self, name: str, like: Shard) -> Float[Tensor, " piece"]:
        """The whole weights."""
        found: Tensor = self.parameters[name].data.view(-1)
        return found

    def refresh(self, written: Mapping[str, Shard]) -> None:
        """Nothing to do: every process wrote the same."""
