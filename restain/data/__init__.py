"""Paired H&E and IHC tiles: found, checked, cropped and augmented; and what is derived from them."""
