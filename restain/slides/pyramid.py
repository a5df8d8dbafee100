"""The shape of a pyramid: each level half the size of the one before, in square tiles, down to a single tile."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from restain.errors import InputError
from restain.slides.tiling import Box


class Position(NamedTuple):
    """Position of a tile: level (0 is the full size), row and column."""

    level: int
    row: int
    column: int


@dataclass(frozen=True)
class Pyramid:
    """A pyramid of width x height px in tiles of `tile_px`, a multiple of 16 as TIFF asks."""

    size: tuple[int, int]
    tile_px: int = 512

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.tile_px < 16 or self.tile_px % 16:
            raise InputError(
                f"a slide of {self.size[0]} x {self.size[1]} px in tiles of {self.tile_px} px: "
                "expected at least one pixel, and tiles that are multiples of 16"
            )

    @property
    def levels(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level."""
        sizes = [self.size]
        while max(sizes[-1]) > self.tile_px:
            width, height = sizes[-1]
            sizes.append((-(-width // 2), -(-height // 2)))
        return tuple(sizes)

    def grid(self, level: int) -> tuple[int, int]:
        """Rows and columns of tiles of a level."""
        width, height = self.levels[level]
        return -(-height // self.tile_px), -(-width // self.tile_px)

    def positions(self, level: int) -> Iterator[Position]:
        """The tiles of a level, row by row."""
        rows, columns = self.grid(level)
        return (Position(level, row, column) for row in range(rows) for column in range(columns))

    def box(self, position: Position) -> Box:
        """The area of a tile in its level, clipped at the right and lower border."""
        width, height = self.levels[position.level]
        x, y = position.column * self.tile_px, position.row * self.tile_px
        return Box(x, y, min(self.tile_px, width - x), min(self.tile_px, height - y))
