"""`restain demo`: starter weights on drawn tissue, then the way from two slides to a measured stain, on one page."""
