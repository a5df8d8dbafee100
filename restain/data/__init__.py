"""Paired H&E and IHC tiles: found, checked, cropped and augmented, with grades and densities of nuclei."""
