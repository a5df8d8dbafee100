"""Staining: large images in tiles. It knows coordinates, and of a generator only that it maps N x 3 x H x W to the same."""
