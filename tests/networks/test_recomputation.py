"""What is computed again for the gradient is the same to the last bit, and is not kept."""

import copy
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from restain.networks.blocks import BlurUp, Chain
from restain.networks.convolution import Conv2d, take_fewer_multiplications
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.normalisation import InstanceNorm
from restain.networks.recomputation import linear, recomputed

ORDERS = [torch.contiguous_format, torch.channels_last]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layers() -> list[nn.Module]:
    """Every chain that a network here has: an activation, a doubling, and a doubling of an activation."""
    torch.manual_seed(0)
    return [
        *(Conv2d(3, 8, 3, padding=1), InstanceNorm(8), nn.ReLU(inplace=True), nn.Identity()),
        *(Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), InstanceNorm(8), nn.LeakyReLU(0.2, inplace=True)),
        *(BlurUp(), Conv2d(8, 4, 3, padding=1), BlurUp(), Conv2d(4, 4, 3), InstanceNorm(4), nn.ELU()),
        *(Conv2d(4, 4, 1), InstanceNorm(4)),
    ]


def gradients(network: nn.Module, x: Tensor, bfloat16: bool) -> list[Tensor]:
    """The result, and what x and every weight get of it."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        result = network(x)
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    return [result, *torch.autograd.grad(result, (x, *weights), drawn(*result.shape, seed=1).to(result.dtype))]


@contextmanager
def without_recomputation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("restain.networks.recomputation._pays", lambda x: False)
        yield


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_results_and_gradients_are_those_of_keeping_everything(
    order: torch.memory_format, batch: int, bfloat16: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Chain(*layers()).to(memory_format=order).requires_grad_(not frozen)
    x = drawn(batch, 3, 8, 12).contiguous(memory_format=order)
    found = gradients(network, x, bfloat16)
    with without_recomputation(monkeypatch):
        expected = gradients(network, x, bfloat16)
    plain = gradients(nn.Sequential(*network), x, bfloat16)
    for one, other, third in zip(found, expected, plain, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)


def test_of_a_generator_the_gradients_are_the_same_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under spectral norm, and by Winograd's algorithm."""
    torch.manual_seed(0)
    network = Generator(GeneratorConfig(width=24, blocks=2)).to(memory_format=torch.channels_last)
    take_fewer_multiplications(network)
    x = drawn(1, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    found = gradients(copy.deepcopy(network), x, bfloat16=False)
    with without_recomputation(monkeypatch):
        expected = gradients(copy.deepcopy(network), x, bfloat16=False)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_only_what_convolutions_read_and_give_is_kept() -> None:
    first, second = Conv2d(3, 8, 3), Conv2d(8, 4, 3)
    network = Chain(first, InstanceNorm(8), nn.ReLU(inplace=True), BlurUp(), second)
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    x = drawn(1, 3, 10, 10).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        network(x)
    of_first = 8 * 8 * 8
    assert sum(kept.values()) == x.numel() + first.weight.numel() + of_first + second.weight.numel()


def test_nothing_outlives_the_gradient() -> None:
    first, second = Conv2d(3, 8, 3), Conv2d(8, 4, 3)
    middle = first(drawn(1, 3, 10, 10))
    end = weakref.ref(middle)
    result = second(BlurUp()(Chain(InstanceNorm(8), nn.ReLU())(middle)))
    del middle
    assert end() is not None
    result.sum().backward()
    assert end() is None, "the graph of a result that still exists holds it"


def test_a_result_that_was_changed_in_place_is_kept_as_it_is() -> None:
    layer, x = Conv2d(2, 2, 1, bias=False), drawn(1, 2, 4, 4).requires_grad_()
    for formula in (lambda: recomputed(torch.exp, x), lambda: linear(lambda values: 2 * values, x)):
        made = formula().add_(1)
        (found,) = torch.autograd.grad(layer(made).sum(), layer.weight)
        expected = made.detach().sum((0, 2, 3)).expand(2, 2)
        torch.testing.assert_close(found.squeeze(), expected)


def test_a_graph_that_is_retained_gives_its_gradient_twice() -> None:
    network, x = Chain(*layers()), drawn(1, 3, 8, 8).requires_grad_()
    total = network(x).square().sum()
    first, second = (torch.autograd.grad(total, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
