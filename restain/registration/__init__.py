"""Registration of neighbouring sections: smooth displacements, estimated by matching and applied by warping.

Positions are (x, y) in µm from the top left corner of the image or slide that they belong to; the pixel in column i
has its centre at (i + 0.5) · mpp. A map takes positions in the H&E to positions in the IHC, N x 2 to N x 2.
"""

from restain.registration.field import Affine, Field, Map, Raster, composed, field_of

__all__ = ["Affine", "Field", "Map", "Raster", "composed", "field_of"]
