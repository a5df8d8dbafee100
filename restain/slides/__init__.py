"""Staining: large images in tiles. Knows coordinates, and of a generator only that it maps images to images alike."""
