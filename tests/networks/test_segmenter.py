"""The segmenter: shapes at any size, the published number of weights, what it reads, and what its norms remember."""

import pytest
import torch
from torch.testing import assert_close

from restain.networks.segmenter import Segmenter, SegmenterConfig


@pytest.mark.parametrize(("height", "width"), [(64, 48), (50, 37), (16, 16)])
def test_every_pixel_gets_a_logit(height: int, width: int) -> None:
    network = Segmenter(SegmenterConfig.of_width(2)).eval()
    images = torch.randn(2, 3, height, width)
    assert network(images).shape == (2, 2, height, width)
    features = network.features(images)
    assert features.shape == (2, 2, height, width)
    assert_close(network.head(features), network(images))


def test_its_size_is_the_one_that_is_said() -> None:
    assert sum(weight.numel() for weight in Segmenter().parameters()) == 1_845_922


def test_a_mark_depends_on_the_surroundings_and_on_no_more() -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig.of_width(8)).eval()
    image = torch.randn(1, 3, 384, 384, requires_grad=True)
    network(image)[0, 0, 192, 192].backward()
    assert image.grad is not None
    touched = image.grad.abs().sum((0, 1)) > 0
    assert touched[192, 192]
    assert touched[192, 152]  # through the bottleneck, not through three convolutions of the finest scale
    assert not touched[0, 0]


def test_strength_of_stain_survives_the_norms() -> None:
    torch.manual_seed(0)
    network = Segmenter(SegmenterConfig.of_width(8)).eval()
    light, dark = (torch.full((1, 3, 16, 16), level) for level in (0.8, -0.8))
    assert (network(light) - network(dark)).abs().min() > 0  # instance norm would make both 0
