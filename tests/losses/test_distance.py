import pytest
import torch
from torch.testing import assert_close

from restain.errors import ShapeError
from restain.losses.distance import l1_loss


def test_l1_is_the_mean_absolute_difference() -> None:
    virtual, real = torch.tensor([[0.0, 1.0], [-1.0, 0.5]]), torch.tensor([[0.5, 1.0], [1.0, 0.5]])
    assert_close(l1_loss(virtual, real), torch.tensor(2.5 / 4))
    assert_close(l1_loss(real, virtual), l1_loss(virtual, real))
    assert l1_loss(real, real) == 0


def test_images_of_another_shape_are_refused_not_broadcast() -> None:
    with pytest.raises(ShapeError, match="same shape"):
        l1_loss(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))


def test_l1_is_exact_under_autocast() -> None:
    virtual = torch.linspace(-1, 1, 1000).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = l1_loss(virtual, torch.zeros(1000))
    assert loss.dtype == torch.float32
    assert_close(loss, virtual.float().abs().mean())
