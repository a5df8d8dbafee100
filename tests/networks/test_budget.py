"""A network that would be larger than it may be is not begun; one that fits is built as ever."""

import pytest
import torch
from torch import nn

from restain.networks.budget import MOST_TENSORS, OverBudgetError, within
from restain.networks.generator import Generator, GeneratorConfig


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_what_fits_is_the_same_network(spectral_norm: bool) -> None:
    config = GeneratorConfig(width=2, blocks=1, spectral_norm=spectral_norm)
    torch.manual_seed(3)
    plain = Generator(config)
    torch.manual_seed(3)
    with within(10_000):
        bounded = Generator(config)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in bounded.state_dict().items())


def test_the_bound_is_the_number_of_weights() -> None:
    exact = 7 * 5 + 5
    with within(exact):
        nn.Linear(7, 5)
    with pytest.raises(OverBudgetError, match="more than 39 weights"), within(exact - 1):
        nn.Linear(7, 5)


@pytest.mark.parametrize("width", [10**6, 2**62, 10**30])
def test_what_no_machine_holds_is_refused_before_memory_is_taken(width: int) -> None:
    with pytest.raises(OverBudgetError, match="more than 1,000,000 weights"), within(10**6):
        nn.Conv2d(width, 3, 7)


def test_small_tensors_without_end_are_refused() -> None:
    with pytest.raises(OverBudgetError, match=f"more than {MOST_TENSORS:,} tensors"), within(10**9):
        nn.ModuleList(nn.Linear(1, 1) for _ in range(10**9))
