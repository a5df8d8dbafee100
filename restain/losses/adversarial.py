"""Adversarial losses: least squares (LSGAN, Mao et al. 2017) and cross-entropy (Goodfellow et al. 2014).

With least squares, scores of real images go to 1, of virtual images to 0. With cross-entropy, scores are logits: the
sigmoid of a score is the probability that the patch is real.
"""

from torch import Tensor
from torch.nn import functional as F

from restain.tensors import full_precision


@full_precision
def lsgan_discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """Loss of the discriminator: half the mean square of (real score - 1), plus half that of the virtual score.

    Args:
        real_score: the discriminator's map for real images, B x 1 x h x w.
        fake_score: the discriminator's map for virtual images, detached from the generator, B x 1 x h x w.
    """
    return ((real_score - 1).square().mean() + fake_score.square().mean()) / 2


@full_precision
def lsgan_generator_loss(fake_score: Tensor) -> Tensor:
    """Loss of the generator: the mean square of (virtual score - 1)."""
    return (fake_score - 1).square().mean()


@full_precision
def bce_discriminator_loss(real_score: Tensor, fake_score: Tensor) -> Tensor:
    """Loss of the discriminator: half of -log p(real) plus half of -log(1 - p(virtual)), p the sigmoid of the score.

    The half slows the discriminator down relative to the generator (Isola et al. 2017, section 3.3).

    Args:
        real_score: the discriminator's map for real images, B x 1 x h x w.
        fake_score: the discriminator's map for virtual images, detached from the generator, B x 1 x h x w.
    """
    return (F.softplus(-real_score).mean() + F.softplus(fake_score).mean()) / 2


@full_precision
def bce_generator_loss(fake_score: Tensor) -> Tensor:
    """Loss of the generator: -log p(virtual), whose gradient does not vanish while the discriminator wins."""
    return F.softplus(-fake_score).mean()
