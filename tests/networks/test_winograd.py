"""Convolutions with fewer multiplications are convolutions: values, gradients, batches, and where they are used."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

from restain.networks import winograd
from restain.networks.convolution import Conv2d, take_fewer_multiplications
from restain.networks.winograd import LEAST_CHANNELS, convolve, gradients

ORDERS = [torch.contiguous_format, torch.channels_last]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(1, 3, 6, 6), (2, 5, 10, 14), (1, 4, 22, 10)])
def test_values_and_gradients_are_those_of_a_convolution(order: torch.memory_format, shape: tuple[int, ...]) -> None:
    x = drawn(*shape).contiguous(memory_format=order).requires_grad_()
    weight = drawn(7, shape[1], 3, 3, seed=1).contiguous(memory_format=order).requires_grad_()
    bias = drawn(7, seed=2)
    expected = F.conv2d(x, weight, bias)
    assert_close(convolve(x.detach(), weight.detach(), bias), expected, rtol=0, atol=1e-11)
    gradient = drawn(*expected.shape, seed=3).contiguous(memory_format=order)
    theirs = torch.autograd.grad(expected, (x, weight), gradient)
    ours = gradients(x.detach(), weight.detach(), gradient, True, True)
    for one, other in zip(ours, theirs, strict=True):
        assert one is not None
        assert_close(one, other, rtol=0, atol=1e-11)


def test_a_batch_gives_what_its_images_give() -> None:
    x, weight = drawn(3, 4, 10, 6, dtype=torch.float32), drawn(5, 4, 3, 3, dtype=torch.float32)
    assert_close(convolve(x, weight), torch.cat([convolve(image, weight) for image in x.split(1)]))


def test_rounding_in_single_precision_is_some_ten_times_that_of_a_convolution() -> None:
    x, weight = drawn(1, 128, 34, 34), drawn(128, 128, 3, 3, seed=1)
    exact = F.conv2d(x, weight)
    errors = [((f(x.float(), weight.float()) - exact).std() / exact.std()).item() for f in (F.conv2d, convolve)]
    assert errors[0] < errors[1] < 1e-5


@pytest.mark.parametrize("padding", [{}, {"padding": 1}, {"padding": 1, "padding_mode": "reflect"}])
def test_wide_convolutions_take_it_where_wanted_and_give_the_same(
    padding: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(winograd, "convolve", lambda *given: calls.append(given) or convolve(*given))
    side = 8 if padding else 10
    x = drawn(2, LEAST_CHANNELS, side, side).requires_grad_()
    layer = Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, dtype=torch.float64, **padding)
    plain = nn.Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, dtype=torch.float64, **padding)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), plain(x))
    assert not calls
    take_fewer_multiplications(nn.Sequential(layer))
    found, expected = layer(x), plain(x)
    assert len(calls) == 1
    assert_close(found, expected, rtol=0, atol=1e-11)
    gradient = drawn(*expected.shape, seed=4)
    ours, theirs = (
        torch.autograd.grad(result, (x, *of.parameters()), gradient)
        for result, of in ((found, layer), (expected, plain))
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("layer", "side"),
    [
        (Conv2d(LEAST_CHANNELS - 1, LEAST_CHANNELS, 3), 10),
        (Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3), 11),  # no whole tiles
        (Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, stride=2), 10),
        (Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 5), 12),
        (Conv2d(LEAST_CHANNELS, LEAST_CHANNELS, 3, groups=2), 10),
    ],
)
def test_what_does_not_fit_is_computed_as_ever(layer: Conv2d, side: int) -> None:
    x = drawn(1, layer.in_channels, side, side, dtype=torch.float32)
    expected = layer(x)
    take_fewer_multiplications(layer)
    assert torch.equal(layer(x), expected)
