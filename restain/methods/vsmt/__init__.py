"""VSMT: virtual staining guided by dual-aligned multi-task features (Xie et al., CVPR 2026).

`method` is the step; `structure` and `spatial` bring the real IHC's features to the virtual IHC's coordinates, `fusion`
turns them into guidance, `tasks` holds the four frozen auxiliary models, `config` every switch and the two profiles.
"""

from restain.methods.vsmt.config import VsmtConfig
from restain.methods.vsmt.method import Vsmt

__all__ = ["Vsmt", "VsmtConfig"]
