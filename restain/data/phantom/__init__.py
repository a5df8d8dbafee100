"""The phantom: synthetic tissue with known displacement, cells and stain, because no paired data set can be shipped.

`Tissue` is endless, and any window of it can be drawn without the rest. `draw_pair` cuts two neighbouring sections of
one and stains them. Sizes are in µm, so that the same tissue can be drawn at any resolution.
"""

from restain.data.phantom.cells import HIDDEN_NOISE, KINDS, LOOKS_NOISE, POSITIVE_EXPRESSION
from restain.data.phantom.neighbour import NeighbourSettings, PhantomNeighbour
from restain.data.phantom.pair import GRADE_LIMITS, PhantomCells, PhantomPair, PhantomSettings, draw_pair
from restain.data.phantom.slide import PhantomSlide
from restain.data.phantom.tissue import Section, Tissue, Window
from restain.data.phantom.write import write_pairs

__all__ = [
    "GRADE_LIMITS",
    "HIDDEN_NOISE",
    "KINDS",
    "LOOKS_NOISE",
    "POSITIVE_EXPRESSION",
    "NeighbourSettings",
    "PhantomCells",
    "PhantomNeighbour",
    "PhantomPair",
    "PhantomSettings",
    "PhantomSlide",
    "Section",
    "Tissue",
    "Window",
    "draw_pair",
    "write_pairs",
]
