"""The networks that turn H&E into virtual IHC.

All that staining asks of them besides their images: on which grid they see (`multiple`), how far (`halo_px`), and how
little is too little (`smallest_px`).
"""

from restain.networks.generator import Generator
from restain.networks.unet import UNet

Stainer = Generator | UNet
"""N x 3 x H x W to N x 3 x H x W in [-1, 1]."""
