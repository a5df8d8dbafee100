"""How much stain, on how many cells: DAB density, nuclei, and the scores that pathologists read from them."""

from restain.quantify.cells import Cells, measure_cells
from restain.quantify.density import densities
from restain.quantify.nuclei import NUCLEUS_UM, Marker, Segmenter, find_nuclei
from restain.quantify.tally import Tally, tally
from restain.quantify.tiles import Settings, TileResult, quantify_image, quantify_tiles

__all__ = [
    "NUCLEUS_UM",
    "Cells",
    "Marker",
    "Segmenter",
    "Settings",
    "Tally",
    "TileResult",
    "densities",
    "find_nuclei",
    "measure_cells",
    "quantify_image",
    "quantify_tiles",
    "tally",
]
