"""Numerics of a step on this device: bfloat16, channels last, compilation, and reproducible dropout."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from restain.networks.blocks import Staged
from restain.randomness import derive_seed
from restain.training.config import TrainingConfig

MOST_VERSIONS = 1000
"""Of one piece of code, compiled for as many shapes and settings; more than a method has stages and crops."""


def profits_from_bfloat16(device: torch.device) -> bool:
    """Whether it multiplies bfloat16 matrices in hardware: NVIDIA from Ampere on, CPUs with AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_multiplies_bfloat16()


def _cpu_multiplies_bfloat16() -> bool:
    # private names in torch 2.6 to 2.13; if a later version drops them, `auto` means float32
    probes = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return any(probe() for probe in probes if probe is not None)


def computes_in_bfloat16(config: TrainingConfig, device: torch.device) -> bool:
    """Resolve `precision` for this device."""
    return config.precision == "bfloat16" or (config.precision == "auto" and profits_from_bfloat16(device))


def memory_format(config: TrainingConfig, device: torch.device) -> torch.memory_format:
    """Resolve `channels_last` for this device."""
    auto = device.type in ("cpu", "cuda") and not config.compile
    wanted = auto if config.channels_last == "auto" else config.channels_last
    return torch.channels_last if wanted else torch.preserve_format


def compile_stages(method: nn.Module) -> None:
    """Compile every stage of every staged network in place, for the sizes that occur.

    Stages, not networks: a method runs networks in parts, and blocks of one shape share one compilation. The compiler
    may not choose channels last by itself, because it then expects another memory order from the gradient of replicate
    padding than PyTorch 2.13 delivers. Nor may it give up after eight versions of a piece of code, as it does by
    itself: stages of all networks share theirs.
    """
    for limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(torch._dynamo.config, limit, MOST_VERSIONS)
    for network in [module for module in method.modules() if isinstance(module, Staged)]:
        for stage in network.stages.values():
            stage.compile(dynamic=False, options={"layout_optimization": False})


@contextmanager
def step_numerics(device: torch.device, bfloat16: bool, seed: int, step: int, rank: int) -> Iterator[None]:
    """The surroundings of one step: its precision and, for dropout, a random state derived from (seed, step, rank).

    Dropout takes no generator, so the global state is used and restored afterwards. It depends on the rank, because
    processes should not all drop the same units. So with dropout N processes do not reproduce one process exactly;
    everything else does.

    Autocast's cache of rounded weights is off, because a step changes weights between its passes.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, "step", step, rank))
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16, cache_enabled=False):
            yield
