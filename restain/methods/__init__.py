"""The methods, one file per paper, by name."""

from restain.methods.asp import Asp
from restain.methods.base import Method
from restain.methods.classify import Classify
from restain.methods.cut import Cut
from restain.methods.cyclegan import CycleGan
from restain.methods.pix2pix import Pix2pix
from restain.methods.pspstain import PspStain
from restain.methods.pyramidp2p import PyramidP2P
from restain.methods.reconstruct import Reconstruct
from restain.methods.registered import Registered
from restain.methods.segment import Segment
from restain.methods.simgan import SimGan
from restain.methods.tdkstain import TdkStain
from restain.methods.vsmt import Vsmt

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        *(Reconstruct, Classify, Segment),  # what others need first
        *(Pix2pix, CycleGan, PyramidP2P, TdkStain),
        *(Cut, Asp, PspStain, SimGan),
        Vsmt,
        Registered,  # our own
    )
}
"""Every method that a recipe can name."""
