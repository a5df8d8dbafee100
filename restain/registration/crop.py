"""The common area of an aligned pair: the largest rectangle in which every pixel is covered."""

import numpy as np
from numpy.typing import NDArray

Crop = tuple[int, int, int, int]
"""Left, upper, width, height in px."""

COARSE_PX = 4
"""Side of the squares on which `shared_rectangle` looks."""


def largest_rectangle(covered: NDArray[np.bool_]) -> Crop:
    """The largest rectangle of covered pixels; of several, the first by its lower edge.

    Args:
        covered: H x W.
    """
    height, width = covered.shape
    best, area = (0, 0, 0, 0), 0
    rising = np.zeros(width + 1, dtype=int)  # covered pixels from the row upwards; the last column ends every bar
    for row in range(height):
        rising[:width] = np.where(covered[row], rising[:width] + 1, 0)
        open_bars: list[tuple[int, int]] = []  # where a bar begins, and its height; ever higher
        for column, level in enumerate(rising.tolist()):
            begin = column
            while open_bars and open_bars[-1][1] >= level:
                begin, high = open_bars.pop()
                if (column - begin) * high > area:
                    best, area = (begin, row - high + 1, column - begin, high), (column - begin) * high
            open_bars.append((begin, level))
    return best


def square_nearest_middle(covered: NDArray[np.bool_], size_px: int) -> Crop | None:
    """The square of covered pixels nearest to the centre of the image; None if none fits."""
    height, width = covered.shape
    if min(height, width) < size_px:
        return None
    sums = np.pad(covered.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = size_px
    full = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n] == n * n
    y, x = np.nonzero(full)
    if not len(y):
        return None
    nearest = int(np.argmin((2 * y + n - height) ** 2 + (2 * x + n - width) ** 2))
    return int(x[nearest]), int(y[nearest]), n, n


def shared_rectangle(covered: NDArray[np.bool_], multiple: int) -> Crop:
    """About the largest rectangle of covered pixels whose sides are multiples of so many px.

    It is sought on squares of `COARSE_PX`, which takes a sixteenth of the time and costs a few px.
    """
    height, width = (side // COARSE_PX * COARSE_PX for side in covered.shape)
    squares = covered[:height, :width].reshape(height // COARSE_PX, COARSE_PX, width // COARSE_PX, COARSE_PX)
    whole: NDArray[np.bool_] = np.asarray(squares.all((1, 3)))
    left, top, width, height = (COARSE_PX * edge for edge in largest_rectangle(whole))
    less_x, less_y = width % multiple, height % multiple
    return left + less_x // 2, top + less_y // 2, width - less_x, height - less_y


def middle_square(width: int, height: int, size_px: int) -> Crop | None:
    """The square in the centre of an image; None if it does not fit."""
    if min(width, height) < size_px:
        return None
    return (width - size_px) // 2, (height - size_px) // 2, size_px, size_px
