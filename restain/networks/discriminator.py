"""The PatchGAN discriminator, with blurred or strided downsampling, at one or several scales.

Source: Isola et al. 2017 (pix2pix); Park et al. 2020 (CUT) for the blur; Wang et al. 2018 (pix2pixHD) for the scales.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from restain.errors import ShapeError
from restain.networks.blocks import BlurDown, Chain, NormName, convolution, initialise, normalisation


def smallest_px(depth: int) -> int:
    """The shortest side, px, for a discriminator with so many halvings."""
    return 4 << depth


class Discriminator(nn.Module):
    """Score overlapping patches: N x C x H x W in [-1, 1] to N x 1 x h x w scores.

    With the defaults it is VSMT's and ASP's (5 stages, 2.79 M weights); `width=64, depth=3, spectral=False` is CUT's.
    With `antialias=False` besides, it is the 70 x 70 PatchGAN of pix2pix (`norm="batch"`) and CycleGAN (`"instance"`).

    Args:
        width: channels of the first convolution; they double with each stage, to at most eight times as many.
        depth: halvings.
        channels: of the images; 6 for an image together with its H&E.
        spectral: divide each convolution by its largest singular value.
        antialias: blurred downsampling; otherwise strided convolutions.
        norm: from the second stage on.
    """

    def __init__(
        self,
        width: int = 32,
        depth: int = 5,
        *,
        channels: int = 3,
        spectral: bool = True,
        antialias: bool = True,
        norm: NormName = "instance",
    ) -> None:
        super().__init__()
        self.smallest_px = smallest_px(depth)

        def block(channels_in: int, channels_out: int, *, shrinks: bool, norm: NormName | None) -> list[nn.Module]:
            stride = 2 if shrinks and not antialias else 1
            layers: list[nn.Module] = [
                convolution(channels_in, channels_out, 4, stride=stride, padding=1, norm=norm, spectral=spectral)
            ]
            layers += [normalisation(norm, channels_out)] if norm else []
            return [*layers, nn.LeakyReLU(0.2, inplace=True), *([BlurDown()] if shrinks and antialias else [])]

        wide = [width * min(2**stage, 8) for stage in range(depth + 1)]
        layers = block(channels, width, shrinks=True, norm=None)
        for stage in range(1, depth + 1):
            layers += block(wide[stage - 1], wide[stage], shrinks=stage < depth, norm=norm)
        layers.append(convolution(wide[-1], 1, 4, padding=1, spectral=spectral))
        self.layers = Chain(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """One score per patch; a real one should score 1.

        Raises:
            ShapeError: the images are too small for `depth` halvings.
        """
        if min(images.shape[-2:]) < self.smallest_px:
            raise ShapeError(
                f"the discriminator needs images of at least {self.smallest_px} px a side, but these are "
                f"{images.shape[-1]} x {images.shape[-2]}; crop larger, or give it fewer stages"
            )
        scores: Tensor = self.layers(images)
        return scores


class MultiscaleDiscriminator(nn.Module):
    """Score an image at full size, at half of it, and so on, with one discriminator each (Wang et al. 2018).

    Args:
        discriminators: from the finest scale to the coarsest.
    """

    def __init__(self, *discriminators: Discriminator) -> None:
        super().__init__()
        self.discriminators = nn.ModuleList(discriminators)

    def forward(self, images: Tensor) -> list[Tensor]:
        """One map of scores per scale, finest first.

        Raises:
            ShapeError: the coarsest image is too small for its discriminator.
        """
        scores = []
        for scale, discriminator in enumerate(self.discriminators):
            if scale:
                # padding is not counted, so that a constant image stays constant
                images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
            scores.append(discriminator(images))
        return scores
