"""Measures one image or slide, writes its cells and overlay, and returns its rows of the tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from restain.errors import InputError
from restain.image import save_image
from restain.polygons import Roi, geojson_file, read_rois
from restain.quantify.output import Overlay, add_cells, write_csv
from restain.quantify.tally import Tally
from restain.quantify.tiles import QuantifySettings, Read, quantify_tiles

WHOLE = "all"
"""Name of the whole image in the tables; regions of interest cannot use it."""


@dataclass(frozen=True)
class MeasuredImage:
    """An image to measure."""

    name: str
    """Its name in the tables, and of the files that are written, without suffix."""
    size: tuple[int, int]
    """Width and height in px of what is measured."""
    read: Read
    scale: float = 1.0
    """Px of the whole image per measured px; for coordinates of cells and regions."""


@dataclass(frozen=True)
class QuantifyReport:
    """The measurements of one image."""

    whole: Tally
    """Of the whole image."""
    regions: Sequence[Mapping[str, object]]
    """Rows of `regions.csv`: the whole image, then each region of interest."""
    tiles: Sequence[Mapping[str, object]]
    """Rows of `tiles.csv`."""
    notes: Sequence[str]
    """One sentence each, such as on regions without a pixel of the image."""


def save_tables(out: Path, reports: Sequence[QuantifyReport]) -> None:
    """Write `regions.csv` and `tiles.csv` for all images together.

    Raises:
        OutputError: a file cannot be written.
    """
    write_csv(out / "regions.csv", [row for report in reports for row in report.regions])
    write_csv(out / "tiles.csv", [row for report in reports for row in report.tiles])


def load_rois(path: Path) -> list[Roi]:
    """Read regions of interest that are measured separately.

    Raises:
        MissingError, InputError: as in `read_rois`; or a region has the name of the whole image.
    """
    rois = read_rois(path)
    if any(roi.name == WHOLE for roi in rois):
        raise InputError(
            f"{path}: a region is named '{WHOLE}', which is the name of the whole image in the tables; rename it"
        )
    return rois


def quantify_file(
    image: MeasuredImage,
    settings: QuantifySettings,
    out: Path,
    *,
    rois: Sequence[Roi] = (),
    tile_px: int = 1024,
    on_pixels: Callable[[int], None] = lambda _: None,
) -> QuantifyReport:
    """Measure an image tile by tile, and write `NAME.geojson` and `NAME.overlay.png`.

    Args:
        image: the image.
        settings: how to measure.
        out: folder of the results.
        rois: parts of the image that are also measured separately.
        tile_px: side of a tile.
        on_pixels: called after each tile with its pixels.

    Raises:
        InputError: the image cannot be read, or its pixels are too coarse for the nuclei.
        OutputError: a file cannot be written.
    """
    overlay = Overlay(image.size)
    whole = Tally()
    parts = {roi.name: Tally() for roi in rois}
    tiles: list[dict[str, object]] = []
    with geojson_file(out / f"{image.name}.geojson") as cells:
        for tile in quantify_tiles(image.read, image.size, settings, tile_px):
            height, width = tile.rgb.shape[:2]
            counted = tile.tally()
            whole += counted
            for roi in rois:
                if roi.may_touch(tile.location, (width, height), image.scale):
                    parts[roi.name] += tile.tally(roi.mask(tile.location, (width, height), image.scale))
            x, y = tile.location
            place = {"image": image.name, "x": x, "y": y, "width": width, "height": height}
            tiles.append({**place, **counted.row(settings.marker)})
            add_cells(cells, tile, image.scale)
            overlay.add(tile)
            on_pixels(width * height)
    save_image(out / f"{image.name}.overlay.png", overlay.picture)
    width, height = (round(side * image.scale) for side in image.size)
    notes = [
        f"{image.name}: region '{name}' covers no pixel of the image of {width} × {height} px; its row is empty"
        for name, counted in parts.items()
        if not counted.area_um2
    ]
    regions = [
        {"image": image.name, "region": name, **counted.row(settings.marker)}
        for name, counted in ((WHOLE, whole), *parts.items())
    ]
    return QuantifyReport(whole, regions, tiles, notes)
