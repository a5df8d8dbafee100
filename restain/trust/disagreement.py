"""How much a virtual stain depends on the orientation of the tissue, which must not matter.

Tissue has no up and down, so turning or mirroring the H&E should turn or mirror the result and nothing else. Where the
eight symmetries of the square disagree on DAB, the network is guessing (test-time augmentation, Wang et al. 2019).
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from restain.errors import InputError
from restain.image import RGB, to_tensor
from restain.quantify.density import Float32s
from restain.stains import dab_density, to_unit

Stain = Callable[[RGB], RGB]
"""From H&E to virtual IHC, H x W x 3 each."""


def disagreement(virtual: Iterable[RGB]) -> Float32s:
    """Standard deviation of DAB density over several virtual stains of one image.

    Args:
        virtual: H x W x 3 each, at least two; one is held at a time.

    Returns:
        Optical density, H x W.

    Raises:
        InputError: there are fewer than two.
    """
    count = 0
    mean: NDArray[np.float64] = np.zeros(())
    squares: NDArray[np.float64] = np.zeros(())
    for rgb in virtual:  # Welford's sums
        density = dab_density(to_unit(to_tensor(rgb)))[0, 0].double().numpy()
        count += 1
        away = density - mean
        mean = mean + away / count
        squares = squares + away * (density - mean)
    if count < 2:
        raise InputError("disagreement needs at least two virtual stains of an image")
    return np.asarray(np.sqrt(squares / count), np.float32)


def under_symmetries(stain: Stain, rgb: RGB, upright: RGB | None = None) -> Iterator[RGB]:
    """Stain an image in its eight orientations, each turned back.

    Args:
        stain: stains an image.
        rgb: H&E, H x W x 3.
        upright: the result for the upright image, if known.
    """
    for turns in range(4):
        for mirrored in (False, True):
            if upright is not None and not turns and not mirrored:
                yield upright
                continue
            seen = np.rot90(rgb[:, ::-1] if mirrored else rgb, turns)
            back = np.rot90(stain(np.ascontiguousarray(seen)), -turns)
            yield np.ascontiguousarray(back[:, ::-1] if mirrored else back)
