"""Quantification of IHC: DAB density, nuclei, and the scores that pathologists derive from them."""

from restain.quantify.cells import Cells, measure_cells
from restain.quantify.density import densities
from restain.quantify.nuclei import NUCLEUS_UM, NucleusSegmenter, find_nuclei
from restain.quantify.tally import Tally, tally
from restain.quantify.tiles import QuantifySettings, TileResult, quantify_image, quantify_tiles
from restain.stains import Marker

__all__ = [
    "NUCLEUS_UM",
    "Cells",
    "Marker",
    "NucleusSegmenter",
    "QuantifySettings",
    "Tally",
    "TileResult",
    "densities",
    "find_nuclei",
    "measure_cells",
    "quantify_image",
    "quantify_tiles",
    "tally",
]
