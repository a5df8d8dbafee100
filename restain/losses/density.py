"""Distance in optical density, which adds up where stains do: the mean amount of stain, not the likelier one."""

from torch import Tensor
from torch.nn import functional as F

from restain.stains import to_unit
from restain.tensors import full_precision, same_shape

GREY_LEVEL = 1 / 255


@full_precision
def density_loss(virtual: Tensor, real: Tensor) -> Tensor:
    """Compare optical densities: the mean square of their difference, over pixels and colours.

    Where an H&E does not tell which cells are positive, the image that is best by mean absolute difference shows no
    stain at all wherever fewer than half of them are; the best by this loss shows the mean amount (Beer–Lambert: of
    several stains on one place it is the densities that add up). Light below one grey level counts as one.

    Args:
        virtual: images, N x 3 x H x W in [-1, 1].
        real: their partners in register, same shape.

    Raises:
        ShapeError: the shapes differ.
    """
    same_shape(virtual=virtual, real=real)
    density, wanted = (-to_unit(images).clamp_min(GREY_LEVEL).log10() for images in (virtual, real))
    return F.mse_loss(density, wanted)
