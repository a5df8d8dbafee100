"""Several processes that train one model, started by `torchrun`: their ranks and collective operations.

Gradients are averaged in `restain.methods.base.descend`, because methods call parts of networks in turn, which wrappers
of whole modules do not support. Here the initial weights are broadcast, logged losses are averaged over the ranks, and
only the first rank writes.
"""

import atexit
import os
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn

from restain.errors import InputError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the training."""

    rank: int
    """Number of this process, from 0."""
    count: int
    """Number of processes."""
    device: torch.device
    """Device of this process."""

    @property
    def writes(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait for all processes."""
        if self.count > 1:
            distributed.barrier()

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the processes, elementwise."""
        if self.count > 1:
            distributed.all_reduce(values)
            values = values / self.count
        return values

    def share(self, module: nn.Module) -> None:
        """Broadcast the weights and buffers of the first process."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, src=0)


def join(device: str = "auto") -> Ranks:
    """Join the processes of `torchrun`; a single process without it.

    They stay connected until this process ends, because `torchrun` allows only one rendezvous.

    Args:
        device: `cpu`, `cuda` (with torchrun one GPU per process), or `auto`: CUDA if there is a GPU.

    Raises:
        InputError: the device is not available here.
    """
    chosen = _device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Ranks(0, 1, chosen)
    if not distributed.is_initialized():
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
        atexit.register(distributed.destroy_process_group)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), chosen)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise InputError(f"device is {name!r}: expected auto, cpu or cuda")
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} needs its own GPU, but PyTorch sees {torch.cuda.device_count()}; "
            "use the device cpu, or start at most one process per GPU"
        )
    return torch.device("cuda", local_rank)
