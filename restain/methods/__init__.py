"""The methods, one file per paper, by name."""

from restain.methods.asp import Asp
from restain.methods.base import Method
from restain.methods.classify import Classify
from restain.methods.cut import Cut
from restain.methods.pspstain import PspStain
from restain.methods.reconstruct import Reconstruct
from restain.methods.segment import Segment
from restain.methods.simgan import SimGan
from restain.methods.vsmt import Vsmt

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Reconstruct, Classify, Segment, Cut, Asp, PspStain, SimGan, Vsmt)
}
"""Every method that a recipe can name."""
