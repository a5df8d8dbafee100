"""Facts about the U-Net: size, how far a pixel reaches, what it refuses, how it normalises."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.networks.norm import ConvLayer
from restain.networks.unet import UNet, UNetConfig


def images(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


def test_the_published_size() -> None:
    with torch.device("meta"):
        network = UNet()
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e6, 2) == 54.41
    assert (network.multiple, network.halo_px) == (256, 768)
    # as published: no norm after the first and the last convolution, dropout in three stages on the way up
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in network.down.modules()) == 6
    dropped = [any(isinstance(layer, nn.Dropout) for layer in stage) for stage in network.up]
    assert dropped == [False, True, True, True, False, False, False]
    biased = [isinstance(layer.bias, nn.Parameter) for layer in network.modules() if isinstance(layer, ConvLayer)]
    assert biased == [False] * 15 + [True]


@pytest.mark.parametrize("depth", [2, 3, 6])
def test_it_keeps_the_size_down_to_one_pixel_in_the_middle(depth: int) -> None:
    network = UNet(UNetConfig(width=2, depth=depth)).double()
    assert network(images(1, 3, network.smallest_px, 2 * network.multiple)).shape[2:] == (2**depth, 2 ** (depth + 1))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_no_pixel_reaches_further_than_the_halo(depth: int) -> None:
    network = UNet(UNetConfig(width=1, depth=depth)).double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(layer.weight, 1e-2)
    side = 8 * network.multiple
    x = images(1, 3, side, side).requires_grad_()
    reaches = []
    for place in range(side // 2, side // 2 + network.multiple):
        (gradient,) = torch.autograd.grad(network(x)[0, 0, place, place], x)
        touched = gradient[0].abs().sum(dim=(0, 1)).nonzero().flatten()
        reaches += [place - int(touched[0]), int(touched[-1]) - place]
    assert max(reaches) == 3 * (network.multiple - 1) <= network.halo_px


@torch.no_grad()
def test_images_share_statistics_in_training_and_nothing_in_evaluation() -> None:
    network = UNet(UNetConfig(width=2, depth=3, dropout=0.0)).double()
    batch = images(3, 3, 16, 16)
    assert not torch.allclose(network(batch)[:1], network(batch[:1]))
    network.eval()
    assert_close(network(batch), torch.cat([network(image[None]) for image in batch]))


def test_sides_that_do_not_fit_are_refused_with_the_way_out() -> None:
    network = UNet(UNetConfig(width=1, depth=5))
    with pytest.raises(ShapeError, match="multiples of 32 px, but these images are 48 x 80; set depth to at most 4"):
        network(torch.zeros(1, 3, 80, 48))
    with pytest.raises(ShapeError, match="are 33 x 33; crop to a multiple"):
        network(torch.zeros(1, 3, 33, 33))
