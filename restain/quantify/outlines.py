"""The outline of each labelled nucleus as a polygon."""

import numpy as np
from contourpy import contour_generator
from numpy.typing import NDArray
from scipy import ndimage

from restain.quantify.nuclei import Labels


def outlines(labels: Labels, which: NDArray[np.int32]) -> list[NDArray[np.float64]]:
    """Trace nuclei halfway between their pixels and the background.

    Args:
        labels: H x W; 0 is background.
        which: the labels to trace, each present.

    Returns:
        For each, its longest closed contour: x and y in px, K x 2, the first point repeated at the end. 0 is the
        upper left corner of the first pixel, as in QuPath.
    """
    boxes = ndimage.find_objects(labels)
    return [_outline(labels, label, boxes[label - 1]) for label in which.tolist()]


def _outline(labels: Labels, label: int, box: tuple[slice, slice]) -> NDArray[np.float64]:
    inside = np.pad(labels[box] == label, 1).astype(np.float64)
    lines = contour_generator(z=inside).lines(0.5)
    longest = max((np.asarray(line, np.float64) for line in lines), key=len)
    return np.add(longest, [box[1].start - 0.5, box[0].start - 0.5])
