"""What the tests of paired data share: a writer of small tiles."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

WriteTile = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def write_tile() -> WriteTile:
    """Write a random tile, folders included, and return its pixels."""

    def write(path: Path, size: tuple[int, int] = (16, 16), seed: int | None = None) -> NDArray[np.uint8]:
        number = len(str(path)) + sum(str(path).encode()) if seed is None else seed
        rgb = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rgb).save(path)
        return rgb

    return write
