"""Sections that are drawn in no time: nuclei as spots, in both stains."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from restain.image import to_tensor
from restain.registration.field import Affine, Field, Raster, field_of
from restain.registration.warp import places_on, warp
from restain.stains import from_unit, hed_to_rgb
from tests.registration.islands import MPP, Islands


@pytest.fixture(scope="session")
def section() -> "Section":
    return Section(0)


@pytest.fixture(scope="session")
def islands() -> Islands:
    return Islands(1)


@pytest.fixture
def save_slide(tmp_path: Path) -> Callable[[str, NDArray[np.uint8]], Path]:
    """Write an image as a slide of 4 µm per pixel."""

    def save(name: str, rgb: NDArray[np.uint8]) -> Path:
        path = tmp_path / f"{name}.tif"
        tifffile.imwrite(path, rgb, tile=(128, 128), resolution=(1e4 / MPP, 1e4 / MPP), resolutionunit="CENTIMETER")
        return path

    return save


class Section:
    """A tile of spots, as H&E and as IHC of the very same section."""

    def __init__(self, seed: int, size_px: int = 256) -> None:
        rng = np.random.default_rng(seed)
        nuclei = np.zeros((size_px, size_px))
        y, x = rng.integers(0, size_px, (2, size_px**2 // 300))
        nuclei[y, x] = rng.uniform(0.5, 1.5, len(x))
        nuclei = np.minimum(ndimage.gaussian_filter(nuclei, 3) * 60, 1.2)
        tissue = ndimage.gaussian_filter(rng.normal(size=nuclei.shape), 24)
        tissue = (tissue > -0.5 * tissue.std()) * 1.0
        brown = ndimage.gaussian_filter((rng.uniform(size=nuclei.shape) > 0.999) * 1.0, 6) * 30
        zero = np.zeros_like(nuclei)
        self.box = Raster(0, 0, size_px, size_px, 1.0)
        self.he = _drawn(nuclei * tissue, 0.4 * tissue, zero)
        self.ihc = _drawn(0.8 * nuclei * tissue, zero, 0.05 * tissue + brown * tissue)

    def displaced(self, field: Field) -> Tensor:
        """The IHC as it lies where p in the H&E goes on at p + d(p)."""
        back = field.inverse(Raster(-64, -64, self.box.width + 128, self.box.height + 128, 1.0))
        image = ((self.ihc[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
        return to_tensor(warp(image, self.box, places_on(back, self.box))[0])


def _drawn(haematoxylin: np.ndarray, eosin: np.ndarray, dab: np.ndarray) -> Tensor:
    return from_unit(hed_to_rgb(torch.from_numpy(np.stack([haematoxylin, eosin, dab]))[None].float() / 6))


@pytest.fixture(scope="session")
def bend(section: Section) -> Field:
    """A turn by 4 degrees about the middle, a shift, and a wave."""
    turn = np.deg2rad(4)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    around = Affine(np.column_stack([linear, [128, 128] - linear @ [128, 128] + [9, -6]]))
    return field_of(lambda points: around(points) + 4 * np.sin(points[:, ::-1] / 40), section.box, 16.0)
