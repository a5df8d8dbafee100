"""Measurements of each cell: position, DAB in the nucleus, and how much of the membrane is stained."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.image import RGB
from restain.quantify.density import Float32s, densities, smooth
from restain.quantify.nuclei import Labels
from restain.stains import POSITIVE_DENSITY, Marker

CLASSES = ("Negative", "1+", "2+", "3+")
"""The classes of a cell, by its intensity 0 to 3."""

NUCLEAR_LIMITS = (0.2, 0.4, 0.6)
"""Least mean DAB density of a nucleus for 1+, 2+ and 3+: the defaults of QuPath (Bankhead et al. 2017)."""

MEMBRANE_UM = 4.0
"""Largest distance of a membrane from its nucleus, where no other nucleus is nearer."""

SECTORS = 16
"""Directions around a nucleus in which the membrane is measured."""

COMPLETE = 0.6
"""Least share of stained directions of a complete membrane. On phantoms it best separates positive cells from negative
ones with stained neighbours; full rings do not occur, because membranes leave the section."""

INCOMPLETE = 0.2
"""Least share of stained directions of an incompletely stained membrane."""

STRONG_MEMBRANE = 0.5
"""Least mean DAB density of the stained membrane for complete staining to be intense."""

_MEMBRANE_BLUR_UM = 0.4
_RIM_PX = 1.5


@dataclass(frozen=True)
class Cells:
    """The cells of an image, one array entry each."""

    label: NDArray[np.int32]
    """Label of the nucleus."""
    x: Float32s
    """Centre of the nucleus in px, 0 at the centre of the first pixel."""
    y: Float32s
    area_um2: Float32s
    """Of the nucleus."""
    haematoxylin: Float32s
    """Mean optical density in the nucleus."""
    dab: Float32s
    """Mean optical density in the nucleus."""
    completeness: Float32s
    """Share of the directions around the nucleus in which the membrane is stained, 0 to 1."""
    membrane_dab: Float32s
    """Mean DAB density of the stained part of the membrane; 0 if none is stained."""
    intensity: NDArray[np.int64]
    """0 to 3, an index of `CLASSES`."""

    def __len__(self) -> int:
        return len(self.x)

    def chosen(self, which: NDArray[np.bool_]) -> "Cells":
        """The cells selected by a mask or indices."""
        return Cells(**{field.name: getattr(self, field.name)[which] for field in fields(self)})


def measure_cells(rgb: RGB, labels: Labels, mpp: float, marker: Marker) -> Cells:
    """Measure and classify every labelled nucleus.

    With a nuclear marker the class is that of the mean DAB density in the nucleus (`nuclear_intensity`), with a
    membrane marker that of the stain around it (`membrane_intensity`).

    Args:
        rgb: IHC, H x W x 3.
        labels: nuclei, H x W; 0 is background.
        mpp: µm per pixel.
        marker: where DAB lies on positive cells.
    """
    haematoxylin, dab = densities(rgb)
    areas = np.bincount(labels.ravel())
    index = np.flatnonzero(areas)
    index = index[index > 0]
    area_px = areas[index]
    rows, columns = (np.arange(length, dtype=np.float32) for length in labels.shape)
    y = _means(np.broadcast_to(rows[:, None], labels.shape), labels, index)
    x = _means(np.broadcast_to(columns, labels.shape), labels, index)
    nuclear = _means(dab, labels, index)
    completeness, membrane = _membrane(dab, labels, index, x, y, mpp)
    return Cells(
        label=index.astype(np.int32),
        x=x,
        y=y,
        area_um2=(area_px * mpp**2).astype(np.float32),
        haematoxylin=_means(haematoxylin, labels, index),
        dab=nuclear,
        completeness=completeness,
        membrane_dab=membrane,
        intensity=nuclear_intensity(nuclear) if marker == "nuclear" else membrane_intensity(completeness, membrane),
    )


def nuclear_intensity(dab: Float32s) -> NDArray[np.int64]:
    """Classify nuclei by mean DAB density, 0 to 3, with `NUCLEAR_LIMITS`."""
    return np.searchsorted(np.asarray(NUCLEAR_LIMITS, np.float32), dab, side="right")


def membrane_intensity(completeness: Float32s, membrane_dab: Float32s) -> NDArray[np.int64]:
    """Classify cells by their membrane, 0 to 3, after ASCO/CAP (Wolff et al. 2018).

    3+ is complete and intense, 2+ complete and weak to moderate, 1+ incomplete, 0 none. The guideline gives no numbers:
    `COMPLETE`, `INCOMPLETE` and `STRONG_MEMBRANE` are ours.
    """
    complete = completeness >= COMPLETE
    intense = membrane_dab >= STRONG_MEMBRANE
    return (completeness >= INCOMPLETE).astype(np.int64) + complete + (complete & intense)


def _means(values: NDArray[np.floating], labels: Labels, index: NDArray[np.intp]) -> Float32s:
    return np.asarray(ndimage.mean(values, labels, index), np.float32).reshape(len(index))


def _membrane(
    dab: Float32s, labels: Labels, index: NDArray[np.intp], x: Float32s, y: Float32s, mpp: float
) -> tuple[Float32s, Float32s]:
    """Completeness and density of each cell's membrane.

    A pixel belongs to the nearest nucleus within `MEMBRANE_UM`. In each direction from a nucleus's centre its pixel
    with the most DAB is taken as the membrane; it is stained above `POSITIVE_DENSITY`. The rim of the nucleus is
    included, so that directions in which another nucleus touches are measured too.
    """
    distance, nearest = ndimage.distance_transform_edt(labels == 0, return_indices=True)
    owner = np.where(distance <= MEMBRANE_UM / mpp, labels[tuple(nearest)], 0)
    inside = ndimage.distance_transform_edt(labels > 0)
    rows, columns = np.nonzero((owner > 0) & (inside <= _RIM_PX))
    cell = np.searchsorted(index, owner[rows, columns])
    angle = np.arctan2(rows - y[cell], columns - x[cell])
    sector = ((angle / (2 * np.pi) + 0.5) * SECTORS).astype(np.int64).clip(0, SECTORS - 1)
    darkest = np.full((len(index), SECTORS), -1.0, np.float32)
    np.maximum.at(darkest, (cell, sector), smooth(dab, _MEMBRANE_BLUR_UM / mpp)[rows, columns])
    stained = darkest >= POSITIVE_DENSITY
    completeness = stained.sum(1) / np.maximum((darkest >= 0).sum(1), 1)
    density = (darkest * stained).sum(1) / np.maximum(stained.sum(1), 1)
    return completeness.astype(np.float32), density.astype(np.float32)
