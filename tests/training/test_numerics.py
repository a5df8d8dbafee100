import pytest
import torch
from torch import nn

from restain.networks.auxiliary import Autoencoder, AuxiliaryConfig
from restain.training.config import TrainingConfig
from restain.training.numerics import (
    compile_stages,
    computes_in_bfloat16,
    memory_format,
    profits_from_bfloat16,
    step_numerics,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def dropped(seed: int, step: int, rank: int) -> torch.Tensor:
    with step_numerics(CPU, False, seed, step, rank):
        return nn.functional.dropout(torch.ones(64))


def test_dropout_depends_on_seed_step_and_rank_alone() -> None:
    assert torch.equal(dropped(0, 5, 0), dropped(0, 5, 0))
    others = [dropped(1, 5, 0), dropped(0, 6, 0), dropped(0, 5, 1)]
    assert not any(torch.equal(dropped(0, 5, 0), other) for other in others)


def test_the_global_generator_is_put_back() -> None:
    before = torch.random.get_rng_state()
    dropped(0, 0, 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_bfloat16_sees_weights_that_moved_within_the_step() -> None:
    layer = nn.Linear(1, 1, bias=False)
    with step_numerics(CPU, True, 0, 0, 0):
        layer.weight.data.fill_(1)
        assert layer(torch.ones(1, 1)).dtype == torch.bfloat16
        layer.weight.data.fill_(2)
        assert layer(torch.ones(1, 1)).item() == 2


def test_auto_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    for profits in (True, False):
        monkeypatch.setattr("restain.training.numerics._cpu_multiplies_bfloat16", lambda profits=profits: profits)
        assert profits_from_bfloat16(CPU) is profits
        assert computes_in_bfloat16(TrainingConfig(), CPU) is profits
        assert computes_in_bfloat16(TrainingConfig(precision="bfloat16"), CPU)
        assert not computes_in_bfloat16(TrainingConfig(precision="float32"), CPU)


def test_channels_last_unless_compiled_or_not_wanted() -> None:
    assert memory_format(TrainingConfig(), CPU) == torch.channels_last
    assert memory_format(TrainingConfig(), CUDA) == torch.channels_last
    assert memory_format(TrainingConfig(compile=True), CUDA) == torch.preserve_format
    assert memory_format(TrainingConfig(compile=True, channels_last=True), CPU) == torch.channels_last
    assert memory_format(TrainingConfig(channels_last=False), CUDA) == torch.preserve_format


def test_every_stage_is_compiled_for_fixed_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them: by itself the compiler leaves the rest uncompiled after eight versions of the same code."""
    compiled = []
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    monkeypatch.setattr(nn.Module, "compile", lambda stage, dynamic, **_: compiled.append((stage, dynamic)))
    network = Autoencoder(AuxiliaryConfig(width=1))
    compile_stages(nn.ModuleList([network]))
    assert compiled == [(stage, False) for stage in network.stages.values()]
    assert torch._dynamo.config.recompile_limit > len(compiled) > 8
