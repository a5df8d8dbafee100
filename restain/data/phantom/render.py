"""Renders substance as colour, with variation between laboratories (Beer–Lambert)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from restain.data.phantom.noise import Amounts, hash_lattice, normal
from restain.data.phantom.paint import Layers
from restain.stains import beer_lambert

_VECTORS = {"he": ((0.56, 0.72, 0.41), (0.20, 0.86, 0.47)), "ihc": ((0.70, 0.64, 0.32), (0.27, 0.57, 0.78))}
"""Optical density per unit of haematoxylin and eosin as scanned slides show them; of the bluer counterstain and DAB."""

_STRENGTHS = {"he": (1.0, 0.72), "ihc": (0.42, 0.75)}
"""Units of each stain per unit of substance, on average."""

_HUE_SPREAD = {"he": 0.08, "ihc": 0.03}
"""How much laboratories differ in hue; little in DAB, so that brown stays brown for every threshold in use."""

_GRAIN_LEVELS = 1.5
"""Deviation of the camera's noise in grey levels."""


@dataclass(frozen=True)
class Staining:
    """How one laboratory stains and scans."""

    vectors: NDArray[np.float64]
    """Optical density in red, green and blue per unit of each stain, S x 3."""
    strengths: NDArray[np.float64]
    """Units of each stain per unit of substance, S."""
    glass: NDArray[np.float64]
    """Light through the bare slide, 3 values in [0, 1]."""


def draw_staining(rng: np.random.Generator, kind: Literal["he", "ihc"]) -> Staining:
    """Draw one laboratory's haematoxylin and eosin ("he"), or counterstain and DAB ("ihc")."""
    vectors = np.array(_VECTORS[kind]) * rng.normal(1, _HUE_SPREAD[kind], (2, 3))
    return Staining(
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        strengths=rng.uniform(0.75, 1.3, 2) * _STRENGTHS[kind],
        glass=rng.uniform(0.90, 0.97) + rng.uniform(-0.012, 0.012, 3),
    )


def he_substance(layers: Layers) -> Amounts:
    """What haematoxylin and eosin stain, 2 x H x W."""
    return np.stack([layers.chromatin, layers.protein])


def ihc_substance(layers: Layers) -> Amounts:
    """What the counterstain, faintly in fibres too, and DAB stain, 2 x H x W."""
    return np.stack([layers.chromatin + np.float32(0.22) * layers.protein, layers.marker])


def camera_noise(key: int, columns: NDArray[np.int64], rows: NDArray[np.int64]) -> Amounts:
    """The camera's noise at every crossing of columns and rows of pixels, in grey levels."""
    return _GRAIN_LEVELS * normal(hash_lattice(key, columns, rows[:, None]))


def photograph(substance: Amounts, staining: Staining, grain: Amounts) -> NDArray[np.uint8]:
    """Stain and photograph.

    Args:
        substance: S x H x W, at least 0.
        staining: how.
        grain: noise of the camera, H x W, in grey levels.

    Returns:
        H x W x 3 RGB.
    """
    amounts = torch.from_numpy(substance * staining.strengths[:, None, None].astype(np.float32))
    light = beer_lambert(amounts[None], torch.from_numpy(staining.vectors))[0].numpy()
    levels = light.transpose(1, 2, 0) * (255 * staining.glass).astype(np.float32) + grain[:, :, None]
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)
