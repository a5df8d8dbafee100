"""Networks that stain: H&E to virtual IHC.

Besides their output, staining needs their grid (`multiple`), reach (`halo_px`) and smallest input (`smallest_px`).
"""

from restain.networks.generator import Generator
from restain.networks.unet import UNet

Stainer = Generator | UNet
"""N x 3 x H x W to N x 3 x H x W in [-1, 1]."""
