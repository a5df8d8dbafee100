"""Encodes and decodes tiles of a slide: JPEG in RGB, JPEG in YCbCr 4:2:0, or lossless deflate."""

import io
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from restain.errors import InputError
from restain.image import RGB

Compression = Literal["jpeg", "compact", "lossless"]


@dataclass(frozen=True)
class Codec:
    """Compression of tiles."""

    compression: Compression = "jpeg"
    """`jpeg` keeps RGB at full resolution, so that DAB keeps its colour; `compact` halves the resolution of colour;
    `lossless` is deflate. JPEG in YCbCr at full resolution is left out: Bio-Formats decodes it in wrong colours."""
    quality: int = 90
    """JPEG quality, 1 to 100."""

    def __post_init__(self) -> None:
        if self.compression not in ("jpeg", "compact", "lossless"):
            raise InputError(f"unknown compression {self.compression!r}; expected jpeg, compact or lossless")
        if not 1 <= self.quality <= 100:
            raise InputError(f"JPEG quality {self.quality} is out of range; expected 1 to 100")

    @property
    def is_jpeg(self) -> bool:
        """Whether encoded tiles are complete JPEG files."""
        return self.compression != "lossless"

    @property
    def words(self) -> str:
        """Text for the provenance of a slide."""
        return self.compression if self.compression == "lossless" else f"{self.compression}, quality {self.quality}"

    def encode(self, rgb: RGB) -> bytes:
        """H x W x 3 uint8 to bytes; equal pixels give equal bytes."""
        if self.compression == "lossless":
            difference = rgb.copy()
            difference[:, 1:] -= rgb[:, :-1]  # the horizontal predictor of TIFF, modulo 256
            return zlib.compress(difference.tobytes(), 6)
        encoded = io.BytesIO()
        colour = {"keep_rgb": True, "subsampling": 0} if self.compression == "jpeg" else {"subsampling": 2}
        Image.fromarray(rgb).save(encoded, format="JPEG", quality=self.quality, **colour)
        return encoded.getvalue()

    def decode(self, data: bytes, size: tuple[int, int]) -> RGB:
        """The inverse of `encode`, for an image of the given width and height."""
        if self.compression == "lossless":
            difference = np.frombuffer(zlib.decompress(data), np.uint8).reshape(size[1], size[0], 3)
            return np.cumsum(difference, axis=1, dtype=np.uint8)
        return np.asarray(Image.open(io.BytesIO(data), formats=["JPEG"]).convert("RGB"))
