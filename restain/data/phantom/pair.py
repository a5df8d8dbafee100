"""A pair of drawn tiles with the ground truth."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.data.phantom.cells import KINDS, TUMOUR
from restain.data.phantom.displacement import Displacement
from restain.data.phantom.noise import Amounts
from restain.data.phantom.render import camera_noise, draw_staining, he_substance, ihc_substance, photograph
from restain.data.phantom.tissue import Section, Tissue, Window
from restain.errors import ConfigError
from restain.randomness import derive_seed
from restain.stains import Marker

GRADE_LIMITS = (0.1, 0.4, 0.7)
"""Shares of positive tumour cells from which on a tile has grade 1, 2 and 3."""

_PLACES = 8  # tried until one shows enough
_LEAST_TISSUE, _LEAST_TUMOUR = 0.75, 0.2


@dataclass(frozen=True)
class PhantomSettings:
    """What to draw."""

    size_px: int = 512
    """Side of a tile, at least 64."""
    marker: Marker = "membrane"
    """"membrane" (like HER2) or "nuclear" (like Ki67 or ER)."""
    mpp: float = 0.5
    """µm per pixel, 0.1 to 2."""
    displacement: float = 48 / 512
    """Longest displacement of the neighbouring section, as a share of the side, 0 to 0.25."""
    depth_um: float = 4.0
    """Distance of the neighbouring section, in µm. At 0 it is the same section, displaced."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.size_px < 64:
            raise ConfigError(f"size {self.size_px}: a tile needs at least 64 px")
        if self.marker not in ("membrane", "nuclear"):
            raise ConfigError(f"marker '{self.marker}': expected 'membrane' or 'nuclear'")
        if not 0.1 <= self.mpp <= 2:
            raise ConfigError(f"mpp {self.mpp}: expected 0.1 to 2 µm per pixel")
        if not 0 <= self.displacement <= 0.25:
            raise ConfigError(f"displacement {self.displacement}: expected a share of the side from 0 to 0.25")
        if not 0 <= self.depth_um <= 100:
            raise ConfigError(f"depth {self.depth_um} µm: expected 0 to 100")


@dataclass(frozen=True)
class PhantomCells:
    """The nuclei that a tile shows, one array entry each; positions in px, 0 at the centre of the first pixel."""

    x: Amounts
    y: Amounts
    radius: Amounts
    """Of the circle with the same area as the nucleus, px."""
    kind: NDArray[np.int64]
    """Index into `KINDS`."""
    positive: NDArray[np.bool_]
    """Whether the cell carries the marker; tumour cells alone do."""

    @property
    def positive_fraction(self) -> float:
        """Share of the tumour cells that are positive; 0 where there are none."""
        tumour = self.kind == TUMOUR
        return float(self.positive[tumour].mean()) if tumour.any() else 0.0

    @property
    def grade(self) -> int:
        """0 to 3, by `GRADE_LIMITS`."""
        return int(np.searchsorted(GRADE_LIMITS, self.positive_fraction, side="right"))

    def records(self) -> list[dict[str, float | str | bool]]:
        """One dictionary for each cell."""
        return [
            {
                "x": round(float(x), 2),
                "y": round(float(y), 2),
                "radius": round(float(radius), 2),
                "kind": KINDS[kind],
                "positive": bool(positive),
            }
            for x, y, radius, kind, positive in zip(self.x, self.y, self.radius, self.kind, self.positive, strict=True)
        ]


@dataclass(frozen=True)
class PhantomPair:
    """An H&E tile, the IHC of a neighbouring section, and the truth. Images are S x S x 3 RGB."""

    he: NDArray[np.uint8]
    ihc: NDArray[np.uint8]
    """The neighbouring section, displaced: what a laboratory has."""
    ihc_aligned: NDArray[np.uint8]
    """The very section of the H&E, stained for the marker and in register: what no laboratory has."""
    displacement: NDArray[np.float16]
    """(dx, dy) in px on 64 x 64 points from corner to corner, 2 x 64 x 64. It relates the coordinates of the two
    sections: tissue at p in the H&E goes on at p + d(p) in `ihc`. At `depth_um` 0 that is all, and
    ihc_aligned(p) = ihc(p + d(p)) up to interpolation and noise; deeper, nuclei come and go and borders move too."""
    cells: PhantomCells
    """Of the H&E, and so of `ihc_aligned`."""

    @property
    def grade(self) -> int:
        """0 to 3, from the share of positive tumour cells."""
        return self.cells.grade


def draw_pair(seed: int, settings: PhantomSettings | None = None) -> PhantomPair:
    """Draw a pair; the same seed and settings give the same bytes.

    **Positivity.** Each region of tumour has an activity, about 0 to 1, the same all through a pile of sections. Tumour
    cells look active to a degree that scatters around it by `LOOKS_NOISE`: the more, the larger and paler the nucleus,
    with a rim and a nucleolus, and the pinker the cytoplasm. Their expression scatters around their looks by
    `HIDDEN_NOISE`, which no H&E can tell, and above `POSITIVE_EXPRESSION` they are positive.
    """
    settings = settings or PhantomSettings()
    tissue = Tissue(derive_seed(seed, "phantom", "tissue"), settings.marker, settings.mpp)
    rng = np.random.default_rng(derive_seed(seed, "phantom", "laboratory"))
    he_staining, ihc_staining = draw_staining(rng, "he"), draw_staining(rng, "ihc")
    window = _choose_window(tissue, settings.size_px, rng)
    section = tissue.draw(window)

    size = settings.size_px
    displacement = Displacement(derive_seed(seed, "phantom", "displacement"), size, settings.displacement * size)
    neighbour = _displaced(tissue, window, settings.depth_um, displacement)

    def grain(name: str) -> Amounts:
        return camera_noise(derive_seed(seed, "phantom", name), np.arange(size), np.arange(size))

    return PhantomPair(
        he=photograph(he_substance(section.layers), he_staining, grain("he")),
        ihc=photograph(neighbour, ihc_staining, grain("ihc")),
        ihc_aligned=photograph(ihc_substance(section.layers), ihc_staining, grain("ihc aligned")),
        displacement=displacement.field(),
        cells=_listed(section, window, settings.mpp),
    )


def _choose_window(tissue: Tissue, size_px: int, rng: np.random.Generator) -> Window:
    """Look for a place with tissue and tumour, as the tiles of real data sets have been chosen."""
    side_um = size_px * tissue.mpp
    for _ in range(_PLACES):
        x, y = rng.integers(-20_000, 20_000, 2)
        xs, ys = (first * tissue.mpp + np.linspace(0, side_um, 33) for first in (x, y))
        survey = tissue.anatomy.survey((xs[0], ys[0], xs[-1], ys[-1]), 0.0)
        tumour = (survey.epithelium.grid(xs, ys) > 0) & (survey.lumen.grid(xs, ys) < 0)
        if (survey.tissue.grid(xs, ys) > 0).mean() >= _LEAST_TISSUE and tumour.mean() >= _LEAST_TUMOUR:
            break
    return Window(int(x), int(y), size_px, size_px)


def _displaced(tissue: Tissue, window: Window, depth_um: float, displacement: Displacement) -> Amounts:
    """What is to be stained in the neighbouring section, as it lies on its own slide: 2 x H x W."""
    x, y = displacement.origins()
    left, top = int(np.floor(x.min())), int(np.floor(y.min()))
    width, height = int(np.ceil(x.max())) - left + 1, int(np.ceil(y.max())) - top + 1
    around = Window(window.x + left, window.y + top, width, height)
    substance = ihc_substance(tissue.draw(around, depth_um).layers)
    places = np.stack([y - top, x - left])
    return np.stack([ndimage.map_coordinates(part, places, order=1, output=np.float32) for part in substance])


def _listed(section: Section, window: Window, mpp: float) -> PhantomCells:
    """The cells in pixels of the window."""
    cells = section.cells
    return PhantomCells(
        x=(cells.x / mpp - 0.5 - window.x).astype(np.float32),
        y=(cells.y / mpp - 0.5 - window.y).astype(np.float32),
        radius=cells.nucleus_radius_um / np.float32(mpp),
        kind=cells.kind,
        positive=cells.positive,
    )
