"""Plain distance between images that lie on one another."""

from torch import Tensor
from torch.nn import functional as F

from restain.tensors import full_precision, same_shape


@full_precision
def l1_loss(virtual: Tensor, real: Tensor) -> Tensor:
    """Compare pixel by pixel: the mean absolute difference.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    return F.l1_loss(virtual, real)
