"""Distance in optical density, which is additive in stains, so that it learns the mean amount of stain."""

from torch import Tensor
from torch.nn import functional as F

from restain.stains import to_unit
from restain.tensors import full_precision, same_shape

GREY_LEVEL = 1 / 255


@full_precision
def density_loss(virtual: Tensor, real: Tensor) -> Tensor:
    """Compare optical densities: the mean square of their difference, over pixels and colours.

    If the H&E does not determine which cells are positive, the mean absolute difference is minimised by no stain
    wherever fewer than half of them are; this loss is minimised by the mean amount (Beer–Lambert: densities of stains
    add up). Light is clamped to at least one grey level.

    Args:
        virtual: images, N x 3 x H x W in [-1, 1].
        real: registered partners, same shape.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    density, wanted = (-to_unit(images).clamp_min(GREY_LEVEL).log10() for images in (virtual, real))
    return F.mse_loss(density, wanted)
