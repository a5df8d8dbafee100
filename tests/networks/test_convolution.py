"""Our convolution and spectral norm are PyTorch's, in values and gradients; and what they keep for the way back."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.testing import assert_close

from restain.networks.blocks import BlurDown
from restain.networks.convolution import Conv2d
from restain.networks.spectral import spectral_norm

ORDERS = [torch.contiguous_format, torch.channels_last]
WAYS: list[dict[str, object]] = [
    {},
    {"padding": 1},
    {"padding": (2, 1), "padding_mode": "reflect"},
    {"padding": 2, "padding_mode": "reflect", "stride": 2},
    {"padding": 1, "stride": 2, "bias": False},
    {"padding": 1, "padding_mode": "reflect", "groups": 2},
    {"padding": 1, "padding_mode": "replicate"},
]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_values_and_gradients_are_pytorchs(order: torch.memory_format, batch: int, way: dict[str, object]) -> None:
    ours = Conv2d(4, 6, 3, dtype=torch.float64, **way).to(memory_format=order)
    theirs = nn.Conv2d(4, 6, 3, dtype=torch.float64, **way)
    theirs.load_state_dict(ours.state_dict())
    x = drawn(batch, 4, 7, 8).contiguous(memory_format=order).requires_grad_()
    results = [layer(x) for layer in (ours, theirs)]
    assert_close(*results)
    gradient = drawn(*results[0].shape, seed=1).contiguous(memory_format=order)
    found, expected = (
        torch.autograd.grad(result, (x, *layer.parameters()), gradient)
        for result, layer in zip(results, (ours, theirs), strict=True)
    )
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_autocast_rounds_as_it_does_for_pytorchs() -> None:
    ours, theirs = Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)
    theirs.load_state_dict(ours.state_dict())
    x = drawn(1, 4, 8, 8).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        results = [layer(x) for layer in (ours, theirs)]
    assert results[0].dtype == torch.bfloat16
    assert torch.equal(*results)
    found, expected = (torch.autograd.grad(result.float().square().sum(), x)[0] for result in results)
    assert found.dtype == torch.float32
    assert_close(found, expected)


def test_an_input_that_is_too_small_for_its_reflection_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"[Pp]adding"):
        Conv2d(1, 1, 3, padding=2, padding_mode="reflect")(torch.zeros(1, 1, 2, 8))


@pytest.mark.parametrize("padding", [{}, {"padding": 1, "padding_mode": "reflect"}])
def test_frozen_weights_keep_no_input_and_padding_is_never_kept(padding: dict[str, object]) -> None:
    layer, x = Conv2d(2, 2, 3, **padding), torch.zeros(1, 2, 8, 8, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(x)
        assert sum(tensor.numel() for tensor in kept) == x.numel() + layer.weight.numel()
        kept.clear()
        layer.requires_grad_(False)
        result = layer(x)
        assert sum(tensor.numel() for tensor in kept) == layer.weight.numel()
    result.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_spectral_norm_is_pytorchs(order: torch.memory_format, training: bool, size: int) -> None:
    plain = nn.Conv2d(4, 6, size, dtype=torch.float64)
    torch.manual_seed(0)
    theirs = parametrizations.spectral_norm(copy.deepcopy(plain)).train(training)
    torch.manual_seed(0)
    ours = spectral_norm(copy.deepcopy(plain)).to(memory_format=order).train(training)
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))
    weights = [layer.weight for layer in (ours, theirs)]
    assert_close(*weights)
    found, expected = (
        torch.autograd.grad(weight, layer.parametrizations.weight.original, drawn(6, 4, size, size))[0]
        for weight, layer in zip(weights, (ours, theirs), strict=True)
    )
    assert_close(found, expected)
    assert_close(dict(ours.state_dict()), dict(theirs.state_dict()))  # power iteration moved the same vectors


def test_spectral_norm_under_autocast_gives_what_a_convolution_would_round_to() -> None:
    layer = spectral_norm(nn.Conv2d(4, 6, 3)).eval()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = layer.weight
    assert torch.equal(rounded, layer.weight.bfloat16())


def test_what_traces_a_network_sees_operators_of_pytorch_alone() -> None:
    """OpenVINO converts from such a trace."""
    x = drawn(1, 4, 8, 8).float()
    network = nn.Sequential(Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), BlurDown()).eval().requires_grad_(False)
    traced = torch.jit.trace(network, x)
    assert "PythonOp" not in str(traced.inlined_graph)
    assert "^" not in str(traced.inlined_graph)
    assert_close(traced(x), network(x))
