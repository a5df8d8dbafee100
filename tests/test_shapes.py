import pytest
import torch

from restain.errors import ShapeError
from restain.shapes import same_shape


def test_equal_shapes_pass() -> None:
    same_shape(virtual=torch.zeros(2, 3), real=torch.ones(2, 3))


def test_a_difference_is_named() -> None:
    with pytest.raises(ShapeError, match="virtual 2 × 3, real 1 × 3"):
        same_shape(virtual=torch.zeros(2, 3), real=torch.zeros(1, 3))
