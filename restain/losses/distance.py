"""Pixel-wise distance between registered images."""

from torch import Tensor
from torch.nn import functional as F

from restain.tensors import full_precision, same_shape


@full_precision
def l1_loss(virtual: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference over pixels (L1).

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    return F.l1_loss(virtual, real)
