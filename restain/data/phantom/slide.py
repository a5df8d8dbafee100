"""A drawn slide: islands of tissue on bare glass. Any window of it is drawn without the rest, so it may be huge."""

import numpy as np
from numpy.typing import NDArray

from restain.data.phantom.anatomy import Anatomy, Bounds
from restain.data.phantom.paint import Layers
from restain.data.phantom.render import Staining, camera_noise, draw_staining, he_substance, ihc_substance, photograph
from restain.data.phantom.tissue import Tissue, Window
from restain.errors import ConfigError
from restain.image import RGB
from restain.randomness import derive_seed
from restain.stains import Marker

_ISLAND_UM = (60.0, 1000.0)
"""Half the width of an island: an eighth of the slide, within these."""

_PLACES = 64  # of the endless tissue, from which the one is taken whose share of tissue is nearest to the wanted one
_LOOK = 33  # points across, at which that share is measured


class PhantomSlide:
    """One section on its slide, as H&E and as the IHC of the very same section, in register.

    Windows that overlap agree exactly; they may be drawn in several threads.

    Args:
        seed: decides everything.
        size_px: side of the slide, at least 64.
        marker: what the IHC shows: "membrane" (like HER2) or "nuclear" (like Ki67 or ER).
        mpp: µm per pixel, 0.1 to 2.
        coverage: share of the slide that is tissue, above 0 and below 1.
        framed: whether all tissue ends before the border of the slide, as a section that was laid on it; then up to
            half of the slide can be tissue.
        laboratory: seed of the laboratory that stains this slide, and its neighbour if it is given; None: each has
            one of its own.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        seed: int,
        size_px: int,
        marker: Marker = "membrane",
        mpp: float = 0.5,
        coverage: float = 0.3,
        *,
        framed: bool = False,
        laboratory: int | None = None,
    ) -> None:
        if size_px < 64:
            raise ConfigError(f"size {size_px}: a slide needs at least 64 px")
        if not 0.1 <= mpp <= 2:
            raise ConfigError(f"mpp {mpp:g}: expected 0.1 to 2 µm per pixel")
        if not 0 < coverage < 1:
            raise ConfigError(f"coverage {coverage:g}: expected the share of tissue, above 0 and below 1")
        self.seed, self.size_px, self.coverage, self.laboratory = seed, size_px, coverage, laboratory
        island_um = float(np.clip(size_px * mpp / 8, *_ISLAND_UM))
        tissue_seed = derive_seed(seed, "phantom", "slide")
        self.corner = self._choose_corner(Anatomy(tissue_seed, coverage, island_um), mpp, framed)
        """Of the endless tissue, the pixel that is the slide's first."""
        frame_um = self._frame(self.corner, mpp) if framed else None
        self.tissue = Tissue(tissue_seed, marker, mpp, coverage, island_um, frame_um)
        rng = np.random.default_rng(derive_seed(seed if laboratory is None else laboratory, "phantom", "laboratory"))
        self._he, self.ihc_staining = draw_staining(rng, "he"), draw_staining(rng, "ihc")

    def __str__(self) -> str:
        marker, mpp = self.tissue.marker, self.tissue.mpp
        by = "" if self.laboratory is None else f", laboratory {self.laboratory}"
        return f"seed {self.seed}, {self.size_px} px, {marker}, {mpp} µm per px, coverage {self.coverage}{by}"

    def he(self, x: int, y: int, width: int, height: int) -> RGB | None:
        """The H&E of a window, height x width x 3, or None where there is glass only."""
        layers = self._draw(x, y, width, height)
        return None if layers is None else self._photograph(he_substance(layers), self._he, "he", x, y)

    def ihc(self, x: int, y: int, width: int, height: int) -> RGB | None:
        """The true IHC of the same window, or None where there is glass only."""
        layers = self._draw(x, y, width, height)
        return None if layers is None else self._photograph(ihc_substance(layers), self.ihc_staining, "ihc", x, y)

    @property
    def he_glass(self) -> tuple[int, int, int]:
        """Colour of the glass in the H&E."""
        return levels_of_glass(self._he)

    @property
    def ihc_glass(self) -> tuple[int, int, int]:
        """Colour of the glass in the IHC."""
        return levels_of_glass(self.ihc_staining)

    def _draw(self, x: int, y: int, width: int, height: int) -> Layers | None:
        layers = self.tissue.draw(Window(self.corner[0] + x, self.corner[1] + y, width, height)).layers
        return layers if any(layer.any() for layer in layers) else None

    def _photograph(self, substance: NDArray[np.floating], staining: Staining, name: str, x: int, y: int) -> RGB:
        height, width = substance.shape[1:]
        key = derive_seed(self.seed, "phantom", "slide", name)
        return photograph(substance, staining, camera_noise(key, np.arange(x, x + width), np.arange(y, y + height)))

    def _frame(self, corner: tuple[int, int], mpp: float) -> Bounds:
        x, y = corner[0] * mpp, corner[1] * mpp
        return x, y, x + self.size_px * mpp, y + self.size_px * mpp

    def _choose_corner(self, anatomy: Anatomy, mpp: float, framed: bool) -> tuple[int, int]:
        """The first of all places whose tissue covers about what is wanted."""
        rng = np.random.default_rng(derive_seed(self.seed, "phantom", "place"))
        across = np.linspace(0, self.size_px * mpp, _LOOK)
        corners = rng.integers(-1_000_000, 1_000_000, (_PLACES, 2))
        shares = []
        for x, y in corners:
            xs, ys = x * mpp + across, y * mpp + across
            tissue = anatomy.edge.grid(xs, ys) > anatomy.edge_level
            if framed:
                tissue &= anatomy.depth_in_frame(self._frame((x, y), mpp), xs, ys) > 0
            shares.append(tissue.mean())
        x, y = corners[int(np.argmin(np.abs(np.array(shares) - self.coverage)))]
        return int(x), int(y)


def levels_of_glass(staining: Staining) -> tuple[int, int, int]:
    """Colour of bare glass, in grey levels."""
    red, green, blue = (round(255 * float(light)) for light in staining.glass)
    return red, green, blue
