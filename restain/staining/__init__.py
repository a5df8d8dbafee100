"""Staining: a network over images and whole slides, in tiles with shared statistics."""
