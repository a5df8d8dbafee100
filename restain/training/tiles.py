"""The tiles that a recipe trains on, shows and evaluates, and whether they meet the needs of a step."""

from pathlib import Path
from typing import Literal

from restain.data.layouts import Split
from restain.data.pairs import Pair, PairedTiles, collate
from restain.errors import InputError
from restain.methods import METHODS
from restain.training.config import Recipe

SHOWN_PAIRS = 4
"""Rows of a sample grid."""


def training_pairs(recipe: Recipe, root: Path) -> PairedTiles:
    """The training part, with the random changes of the recipe.

    Raises:
        MissingError, InputError: as in `PairedTiles`.
    """
    grades: Literal["auto", "none"] = "auto" if METHODS[recipe.method].reads_grades else "none"
    data = recipe.data
    return PairedTiles(
        root,
        "train",
        _crop(recipe),
        recipe.seed,
        data.augment,
        grades,
        unpaired=data.unpaired,
        resize_px=data.resize_px,
    )


def plain_pairs(recipe: Recipe, root: Path, split: Split) -> PairedTiles:
    """A part without random changes: the centre of each tile, at the scale and size of the training.

    Raises:
        MissingError, InputError: as in `PairedTiles`.
    """
    return PairedTiles(root, split, _crop(recipe), recipe.seed, grades="none", resize_px=recipe.data.resize_px)


def at_scale(recipe: Recipe, scale: float) -> Recipe:
    """The recipe with the micrometres per pixel of the resized tiles."""
    mpp = recipe.data.mpp
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"mpp": mpp / scale})}) if mpp else recipe


def _crop(recipe: Recipe) -> int | None:
    return None if recipe.data.crop_px == "whole" else recipe.data.crop_px


def check_whole_tiles(pairs: PairedTiles, recipe: Recipe, place: str = "") -> None:
    """Check that uncropped tiles meet the needs of the method and its auxiliary models.

    Raises:
        InputError: names the first tile that does not fit.
    """
    needs = METHODS[recipe.method].needs(recipe.model)
    for pair, (width, height) in zip(pairs.files, pairs.sizes, strict=True) if recipe.data.crop_px == "whole" else ():
        if min(width, height) < needs.crop_px or width % needs.crop_multiple or height % needs.crop_multiple:
            multiples = f", multiples of {needs.crop_multiple}" if needs.crop_multiple > 1 else ""
            raise InputError(
                f"{pair.he} is {width} x {height} px, but {recipe.method} trains on whole tiles and needs sides of "
                f"at least {needs.crop_px} px{multiples}; set crop_px in [{place}data] to a size that fits"
            )
    for name, choice in recipe.auxiliary.items():
        if isinstance(choice, Recipe):
            check_whole_tiles(pairs, choice, f"{place}auxiliary.{name}.")


def shown_pairs(recipe: Recipe, root: Path) -> Pair:
    """A few pairs of one size for the sample grids, spread over the held-out part, or the training part without one."""
    try:
        pairs = plain_pairs(recipe, root, "val")
        check_whole_tiles(pairs, recipe)
    except InputError:
        pairs = plain_pairs(recipe, root, "train")
    alike = [index for index, size in enumerate(pairs.sizes) if size == pairs.sizes[0]]
    chosen = alike[:: max(1, len(alike) // SHOWN_PAIRS)][:SHOWN_PAIRS]
    return collate([pairs.item(index, epoch=0) for index in chosen])
