"""An unfinished slide, read like its finished file: tiles come from the spool, the rest is background."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from restain.image import RGB
from restain.slides.codec import Codec
from restain.slides.pyramid import Position, Pyramid
from restain.slides.sources import Mpp, Sizes
from restain.slides.tiling import Box
from restain.slides.writer import Colour


class SpooledSource:
    """The levels of a slide that is being made; see `restain.slides.sources.Source`."""

    format = "spool"
    icc_profile: bytes | None = None

    def __init__(
        self, pyramid: Pyramid, codec: Codec, background: Colour, mpp: float, tile: Callable[[Position], bytes | None]
    ) -> None:
        """Read an unfinished slide.

        Args:
            pyramid: its shape.
            codec: how its tiles are encoded.
            background: the colour where there is none.
            mpp: micrometres per pixel of its first level.
            tile: an encoded tile of any level, or None where there is none.
        """
        self.levels: Sizes = pyramid.levels
        self.mpp_candidates: Mapping[str, Mpp] = {"the slide that it is made of": (mpp, mpp)}
        self.notes: Sequence[str] = ()
        self._pyramid, self._codec, self._background, self._tile = pyramid, codec, background, tile

    def read(self, level: int, box: Box) -> RGB:
        """See `Source`."""
        side = self._pyramid.tile_px
        canvas = np.empty((box.height, box.width, 3), np.uint8)
        canvas[:] = self._background
        for row in range(box.y // side, -(-(box.y + box.height) // side)):
            for column in range(box.x // side, -(-(box.x + box.width) // side)):
                if data := self._tile(Position(level, row, column)):
                    rgb = self._codec.decode(data, (side, side))
                    left, top = column * side - box.x, row * side - box.y
                    there = canvas[max(top, 0) : top + side, max(left, 0) : left + side]
                    there[:] = rgb[max(-top, 0) :, max(-left, 0) :][: there.shape[0], : there.shape[1]]
        return canvas

    def close(self) -> None:
        """See `Source`; the spool is its owner's."""
