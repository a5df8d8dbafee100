"""Least-squares adversarial losses (LSGAN, Mao et al. 2017): scores of real images go to 1, of virtual images to 0."""

from torch import Tensor

from restain.precision import full_precision


@full_precision
def lsgan_discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """Tell real from virtual: half the mean square of (real score - 1), plus half that of the virtual score.

    Args:
        real_score: the discriminator's map for real images, B x 1 x h x w.
        fake_score: the discriminator's map for virtual images, detached from the generator, B x 1 x h x w.
    """
    return ((real_score - 1).square().mean() + fake_score.square().mean()) / 2


@full_precision
def lsgan_generator_loss(fake_score: Tensor) -> Tensor:
    """Pass for real: the mean square of (virtual score - 1)."""
    return (fake_score - 1).square().mean()
