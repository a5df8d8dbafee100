"""The PatchGAN discriminator with blurred downsampling (Isola et al. 2017; Park et al. 2020)."""

from torch import Tensor, nn

from restain.errors import ShapeError
from restain.networks.blocks import BlurDown, convolution, initialise, normalisation


class Discriminator(nn.Module):
    """Judge overlapping patches: N x C x H x W in [-1, 1] to N x 1 x h x w scores.

    With the defaults it is VSMT's and ASP's (5 stages, 2.79 M weights); `width=64, depth=3, spectral=False` is CUT's.
    """

    def __init__(self, width: int = 32, depth: int = 5, *, channels: int = 3, spectral: bool = True) -> None:
        super().__init__()
        self.smallest_px = 4 * 2**depth

        def conv(channels_in: int, channels_out: int) -> nn.Conv2d:
            return convolution(channels_in, channels_out, 4, padding=1, spectral=spectral)

        layers: list[nn.Module] = [conv(channels, width), nn.LeakyReLU(0.2), BlurDown()]
        for stage in range(1, depth):
            before, after = width * min(2 ** (stage - 1), 8), width * min(2**stage, 8)
            layers += [conv(before, after), normalisation("instance", after), nn.LeakyReLU(0.2), BlurDown()]
        before, after = width * min(2 ** (depth - 1), 8), width * min(2**depth, 8)
        layers += [conv(before, after), normalisation("instance", after), nn.LeakyReLU(0.2), conv(after, 1)]
        self.layers = nn.Sequential(*layers)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """One score per patch; a real one should score 1.

        Raises:
            ShapeError: the images are so small that no patch is left after `depth` halvings.
        """
        if min(images.shape[-2:]) < self.smallest_px:
            raise ShapeError(
                f"the discriminator needs images of at least {self.smallest_px} px a side, but these are "
                f"{images.shape[-1]} x {images.shape[-2]}; crop larger, or give it fewer stages"
            )
        scores: Tensor = self.layers(images)
        return scores
