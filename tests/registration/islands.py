"""Small slides for registration: islands of random haematoxylin, and the same tissue under a known map."""

from collections.abc import Callable

import numpy as np
from scipy import ndimage

from restain.image import RGB
from restain.registration.field import Affine, Floats, Raster
from restain.registration.warp import places_on

MPP = 4.0
SIDE_PX = 420

_HAEMATOXYLIN, _EOSIN, _DAB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])


class Islands:
    """Tissue of random density in a square of 420 px at 4 µm: two islands, and where a marker is."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)

        def noise(sigma: float) -> Floats:
            values = ndimage.gaussian_filter(rng.normal(size=(SIDE_PX, SIDE_PX)), sigma, mode="wrap")
            return np.asarray(values / values.std())

        rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
        tall = (columns - 0.4) ** 2 / 0.05 + (rows - 0.5) ** 2 / 0.12
        small = (columns - 0.78) ** 2 / 0.008 + (rows - 0.3) ** 2 / 0.02
        inside = ndimage.gaussian_filter((np.minimum(tall, small) + 0.1 * noise(20) < 1).astype(float), 1)
        self.layers = np.stack(
            [
                inside * np.clip(0.35 + 0.15 * noise(4) + 0.12 * noise(1.5), 0, None),
                inside * np.clip(0.25 + 0.1 * noise(6), 0, None),
                inside * np.clip(0.6 * noise(10) - 0.5, 0, None),
            ]
        )

    def he(self) -> RGB:
        """As H&E, H x W x 3."""
        return light(self.layers[0], self.layers[1], 0 * self.layers[0])

    def ihc(self, back: Callable[[Floats], Floats] | None = None, size: tuple[int, int] = (SIDE_PX, SIDE_PX)) -> RGB:
        """As IHC; `back` takes places on its slide to places on that of the H&E, µm; `size` is width, height in px."""
        layers = self.layers
        if back is not None:
            x, y = places_on(back, Raster(0, 0, *size, MPP)) / MPP - 0.5
            layers = np.stack([ndimage.map_coordinates(layer, [y, x], order=1, cval=0) for layer in layers])
        return light(0.7 * layers[0], 0.1 * layers[1], layers[2])


def light(haematoxylin: Floats, eosin: Floats, dab: Floats) -> RGB:
    """Stains on glass, with the noise of a camera."""
    density = haematoxylin[..., None] * _HAEMATOXYLIN + eosin[..., None] * _EOSIN + dab[..., None] * _DAB
    rgb = 240 * 10**-density
    return np.clip(rgb + np.random.default_rng(0).normal(0, 1.5, rgb.shape), 0, 255).astype(np.uint8)


def turned(degrees: float, mirror: bool = False, scale: float = 1.0) -> Affine:
    """About the middle of the section's slide, in µm."""
    turn, middle = np.radians(degrees), np.full(2, SIDE_PX * MPP / 2)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = scale * rotation @ np.diag([-1 if mirror else 1, 1])
    return Affine(np.column_stack([linear, middle * scale - linear @ middle]))
