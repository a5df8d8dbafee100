"""Measures one image or slide and writes its cells and overlay; collects the rows of the tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from restain.errors import InputError
from restain.image import save_image
from restain.polygons import Roi, geojson_file, read_rois
from restain.quantify.output import Overlay, add_cells, write_csv
from restain.quantify.tally import Tally
from restain.quantify.tiles import QuantifySettings, Read, quantify_tiles

WHOLE = "all"
"""What the tables call the whole image; no region of interest may."""


@dataclass(frozen=True)
class MeasuredImage:
    """An image to measure."""

    name: str
    """What the tables call it, and the files that are written, without ending."""
    size: tuple[int, int]
    """Width and height in px of what is measured."""
    read: Read
    scale: float = 1.0
    """How many px of the whole image one px that is measured is wide; for coordinates of cells and regions."""


@dataclass
class Report:
    """The rows of `regions.csv` and `tiles.csv`, and what to know about them."""

    regions: list[dict[str, object]] = field(default_factory=list)
    tiles: list[dict[str, object]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the rows should know; one sentence each."""

    def save(self, out: Path) -> None:
        """Write both tables.

        Raises:
            OutputError: a file cannot be written.
        """
        write_csv(out / "regions.csv", self.regions)
        write_csv(out / "tiles.csv", self.tiles)


def load_rois(path: Path) -> list[Roi]:
    """Read regions of interest to be summed up on their own.

    Raises:
        MissingError, InputError: as in `read_rois`; or one has the name of the whole image.
    """
    rois = read_rois(path)
    if any(roi.name == WHOLE for roi in rois):
        raise InputError(f"{path}: a region is named '{WHOLE}', as the tables name the whole image; rename it")
    return rois


def quantify_source(
    source: MeasuredImage,
    settings: QuantifySettings,
    out: Path,
    report: Report,
    *,
    rois: Sequence[Roi] = (),
    tile_px: int = 1024,
    on_pixels: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Measure an image tile by tile; write `NAME.geojson` and `NAME.overlay.png`, and add its rows to the report.

    Args:
        source: the image.
        settings: how to measure.
        out: folder of the results.
        report: gets a row for the whole image, one for each region of interest, and one for each tile; none where the
            image fails.
        rois: parts of the image that are summed up on their own.
        tile_px: side of a tile.
        on_pixels: called after each tile with its pixels.

    Returns:
        The tally of the whole image.

    Raises:
        InputError: the image cannot be read, or its pixels are too coarse for the nuclei.
        OutputError: a file cannot be written.
    """
    overlay = Overlay(source.size)
    whole = Tally()
    parts = {roi.name: Tally() for roi in rois}
    tiles: list[dict[str, object]] = []
    with geojson_file(out / f"{source.name}.geojson") as cells:
        for tile in quantify_tiles(source.read, source.size, settings, tile_px):
            height, width = tile.rgb.shape[:2]
            counted = tile.tally()
            whole += counted
            for roi in rois:
                if roi.may_touch(tile.location, (width, height), source.scale):
                    parts[roi.name] += tile.tally(roi.mask(tile.location, (width, height), source.scale))
            x, y = tile.location
            place = {"image": source.name, "x": x, "y": y, "width": width, "height": height}
            tiles.append({**place, **counted.row(settings.marker)})
            add_cells(cells, tile, source.scale)
            overlay.add(tile)
            on_pixels(width * height)
    save_image(out / f"{source.name}.overlay.png", overlay.picture)
    width, height = (round(side * source.scale) for side in source.size)
    report.notes.extend(
        f"{source.name}: nothing of region '{name}' lies in the image of {width} × {height} px; its row is empty"
        for name, counted in parts.items()
        if not counted.area_um2
    )
    report.tiles.extend(tiles)
    report.regions.extend(
        {"image": source.name, "region": name, **counted.row(settings.marker)}
        for name, counted in ((WHOLE, whole), *parts.items())
    )
    return whole
