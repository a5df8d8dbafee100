"""A network over pixels: images and whole slides, in tiles that know their neighbours."""
