"""Whole slides as files and coordinates: read at any resolution, cut into tiles, written as pyramids; no network."""
