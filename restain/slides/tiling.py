"""Covers an image that is too large for one pass with tiles."""

from collections.abc import Iterator
from dataclasses import dataclass

from restain.errors import InputError


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in px: left and top, then width and height."""

    x: int
    y: int
    width: int
    height: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index an array of H x W x ... with."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)

    def within(self, outer: "Box") -> "Box":
        """The same rectangle, measured from the corner of `outer`."""
        return Box(self.x - outer.x, self.y - outer.y, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Tile:
    """A tile: the network sees `window`, and the `core` of its output is kept."""

    core: Box
    window: Box


def tiles(size: tuple[int, int], tile_px: int, halo_px: int, multiple: int = 4) -> Iterator[Tile]:
    """Cover an image with tiles, row by row.

    The cores are a grid of `tile_px` that covers each pixel once. A window is its core with `halo_px` on every side;
    where that would leave the image, the window is moved inward instead, so that all windows have one size and the
    network meets the border of the image only where it is. Along a side that one window covers, there is one tile.

    Args:
        size: width and height in px, multiples of `multiple`.
        tile_px: side of a core, such a multiple too.
        halo_px: margin around a core, such a multiple too.
        multiple: 2 to the number of times that the network halves the image. Sides and origins of all that it sees are
            multiples of this, so that all windows share one grid of coarse pixels.

    Raises:
        InputError: one of them is no such multiple, or the tile is not positive.
    """
    if tile_px < multiple or halo_px < 0 or any(value % multiple for value in (*size, tile_px, halo_px)):
        raise InputError(
            f"tile of {tile_px} px, halo of {halo_px} px, image of {size[0]} x {size[1]} px: expected multiples of "
            f"{multiple}, and a tile of at least that"
        )
    columns, rows = (
        list(spans(length, length if length <= tile_px + 2 * halo_px else tile_px, halo_px)) for length in size
    )
    for (y, height), (window_y, window_height) in rows:
        for (x, width), (window_x, window_width) in columns:
            yield Tile(Box(x, y, width, height), Box(window_x, window_y, window_width, window_height))


def spans(
    length: int, tile_px: int, halo_px: int, part: tuple[int, int] | None = None
) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Start and length of each core and of its window, along one side; windows are moved inward at the borders.

    Args:
        length: of the image.
        tile_px: of a core.
        halo_px: margin of a window on either side.
        part: start and length of what the cores cover; all if not given.
    """
    first, count = part or (0, length)
    window = min(length, tile_px + 2 * halo_px)
    for start in range(first, first + count, tile_px):
        yield (start, min(tile_px, first + count - start)), (min(max(start - halo_px, 0), length - window), window)
