import pytest
import torch
from torch import Tensor

from restain.errors import ShapeError
from restain.tensors import full_precision, same_shape


@full_precision
def product(left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
    """Multiply."""
    return left @ right * scale


LEFT, RIGHT = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))


def test_autocast_does_not_reach_the_matrix_product() -> None:
    exact = LEFT @ RIGHT
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal((LEFT @ RIGHT).float(), exact)
        assert torch.equal(product(LEFT, right=RIGHT), exact)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_and_gradients_come_back_in_the_callers_type(half: torch.dtype) -> None:
    left = LEFT.to(half).requires_grad_()
    result = product(left, RIGHT, scale=2.0)
    assert torch.equal(result, LEFT.to(half).float() @ RIGHT * 2)
    result.sum().backward()
    assert left.grad is not None
    assert left.grad.dtype == half


def test_double_precision_stays() -> None:
    assert product(LEFT.double(), RIGHT.double()).dtype == torch.float64


def test_the_formula_keeps_its_name() -> None:
    assert product.__name__ == "product"
    assert product.__doc__ == "Multiply."


def test_equal_shapes_pass() -> None:
    same_shape(virtual=torch.zeros(2, 3), real=torch.ones(2, 3))


def test_a_difference_is_named() -> None:
    with pytest.raises(ShapeError, match="virtual 2 × 3, real 1 × 3"):
        same_shape(virtual=torch.zeros(2, 3), real=torch.zeros(1, 3))
