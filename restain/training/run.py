"""`train`: from a recipe and a folder of pairs to a checkpoint, auxiliary models first."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn

from restain.data.layouts import Split
from restain.data.nuclei import NuclearMaps
from restain.data.pairs import Pair, PairedTiles, collate
from restain.errors import ConfigError, InputError
from restain.methods import METHODS
from restain.methods.base import Method
from restain.randomness import derive_seed
from restain.training.auxiliary import auxiliary_folder, load_auxiliary, nuclei_folder
from restain.training.batches import Batches
from restain.training.config import Pretrained, Recipe
from restain.training.fit import fit
from restain.training.folder import MODEL, STATE, check_folder, claimed, listing
from restain.training.ranks import Ranks, join
from restain.training.recipes import load_recipe
from restain.training.state import steps_done

SHOWN_PAIRS = 4
"""Rows of a sample grid."""


def train(
    recipe: Recipe | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    steps: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> Path:
    """Train what a recipe says; go on where an earlier call with the same arguments was killed.

    Models that the method needs first and the recipe does not name are trained in `auxiliary/` beside `out` and kept
    there for the next run. Under `torchrun`, the processes train together.

    Args:
        recipe: a recipe, or the name or file of one.
        data: folder of the data set; its training part is learned from.
        out: folder of the run; made where it is missing.
        steps: length of the training in place of the recipe's.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        console: where to show progress; nowhere if None.

    Returns:
        The checkpoint of the trained network.

    Raises:
        ConfigError: the recipe is wrong, or does not fit the data.
        InputError: the data cannot be used.
        OutputError: `out` is something else than this run, or cannot be written.
        NonFiniteLossError: training went astray; names step, term and the last good state.
    """
    if not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe)
    if steps is not None:
        recipe = recipe.with_steps(steps)
    ranks = join(device)
    if recipe.data.batch_size % ranks.count:
        raise ConfigError(
            f"batch_size in [data] is {recipe.data.batch_size}, which {ranks.count} processes cannot share evenly; "
            f"use a multiple, as in --set data.batch_size={ranks.count}"
        )
    least = METHODS[recipe.method].needs(recipe.model).images
    if recipe.data.batch_size // ranks.count < least:
        raise ConfigError(
            f"batch_size in [data] is {recipe.data.batch_size}, so that each of {ranks.count} processes gets "
            f"{recipe.data.batch_size // ranks.count}, but {recipe.method} compares the images of a batch; "
            f"use at least {least * ranks.count}, as in --set data.batch_size={least * ranks.count}"
        )
    return _run(recipe, Path(data), Path(out), ranks, console if ranks.writes else None)


def build(recipe: Recipe, auxiliary: Mapping[str, nn.Module]) -> Method:
    """The recipe's method with the weights that its seed gives.

    PyTorch's initialisers take no generator, so the global one is seeded meanwhile, and put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(recipe.seed, "weights"))
        return METHODS[recipe.method](recipe.model, **auxiliary)


def auxiliary_runs(recipe: Recipe, data: Path | str, out: Path | str) -> dict[Path, Recipe]:
    """The models that `train(recipe, data, out)` would train first: the folder of each, and its recipe.

    Raises:
        MissingError, InputError: the data cannot be used.
    """
    pairs = _pairs(recipe, Path(data), "train")
    _check_whole_tiles(pairs, recipe)
    listed = listing(pairs)
    return {
        auxiliary_folder(name, choice, listed, Path(out)): choice
        for name, choice in recipe.auxiliary.items()
        if isinstance(choice, Recipe)
    }


def _run(recipe: Recipe, root: Path, out: Path, ranks: Ranks, console: Console | None) -> Path:
    """Train one recipe into one folder; its auxiliary models come here too, as recipes of their own."""
    pairs = _training_pairs(recipe, root)
    _check_whole_tiles(pairs, recipe)
    batches = Batches(pairs, recipe.data, recipe.seed, ranks)
    steps = recipe.training.total_steps(batches.per_epoch)
    listed = listing(pairs)
    check_folder(out, recipe, listed)
    ranks.wait()  # every process looks before the first one writes
    if steps_done(out / STATE) == steps and (out / MODEL).is_file():
        _tell(console, f"{out} is finished: {steps:,} steps")
        return out / MODEL
    _tell(console, pairs.describe())
    if nuclei := METHODS[recipe.method].needs(recipe.model).nuclei:
        pairs.nuclei = NuclearMaps(nuclei_folder(nuclei, listed, out), *nuclei)
        _tell(console, f"densities of nuclei are kept in {pairs.nuclei.folder}; the first look at a tile makes its own")
    with claimed(out, recipe, listed) if ranks.writes else nullcontext():
        method = build(recipe, _auxiliary(recipe, root, out, listed, ranks, console))
        draws = ranks.writes and recipe.training.sample_every_steps
        fit(method, batches, recipe, out, ranks, shown=_shown(recipe, root) if draws else None, console=console)
    return out / MODEL


def _auxiliary(
    recipe: Recipe, root: Path, out: Path, listed: str, ranks: Ranks, console: Console | None
) -> dict[str, nn.Module]:
    """What the method needs first, trained now or before."""
    proposals = METHODS[recipe.method].auxiliary(recipe.model)
    models = {}
    for name, choice in recipe.auxiliary.items():
        if isinstance(choice, Pretrained):
            path = choice.checkpoint
        else:
            path = _run(choice, root, auxiliary_folder(name, choice, listed, out), ranks, console)
        models[name] = load_auxiliary(name, proposals[name], path)
    return models


def _training_pairs(recipe: Recipe, root: Path) -> PairedTiles:
    grades: Literal["auto", "none"] = "auto" if METHODS[recipe.method].reads_grades else "none"
    data = recipe.data
    return PairedTiles(root, "train", _crop(recipe), recipe.seed, data.augment, grades, unpaired=data.unpaired)


def _pairs(recipe: Recipe, root: Path, split: Split) -> PairedTiles:
    return PairedTiles(root, split, _crop(recipe), recipe.seed, grades="none")


def _crop(recipe: Recipe) -> int | None:
    return None if recipe.data.crop_px == "whole" else recipe.data.crop_px


def _check_whole_tiles(pairs: PairedTiles, recipe: Recipe, place: str = "") -> None:
    """Check that the method can learn from the tiles, and its auxiliary models too, where they are not cropped.

    Raises:
        InputError: names the first tile that does not fit.
    """
    needs = METHODS[recipe.method].needs(recipe.model)
    for pair, (width, height) in zip(pairs.files, pairs.sizes, strict=True) if recipe.data.crop_px == "whole" else ():
        if min(width, height) < needs.crop_px or width % needs.crop_multiple or height % needs.crop_multiple:
            multiples = f", multiples of {needs.crop_multiple}" if needs.crop_multiple > 1 else ""
            raise InputError(
                f"{pair.he} is {width} x {height} px, but {recipe.method} learns from whole tiles and needs sides of "
                f"at least {needs.crop_px} px{multiples}; set crop_px in [{place}data] to a size that fits"
            )
    for name, choice in recipe.auxiliary.items():
        if isinstance(choice, Recipe):
            _check_whole_tiles(pairs, choice, f"{place}auxiliary.{name}.")


def _shown(recipe: Recipe, root: Path) -> Pair:
    """A few pairs for the sample grids, from the held-out part where there is one, spread over it, of one size."""
    try:
        pairs = _pairs(recipe, root, "val")
        _check_whole_tiles(pairs, recipe)
    except InputError:
        pairs = _pairs(recipe, root, "train")
    alike = [index for index, size in enumerate(pairs.sizes) if size == pairs.sizes[0]]
    chosen = alike[:: max(1, len(alike) // SHOWN_PAIRS)][:SHOWN_PAIRS]
    return collate([pairs.item(index, epoch=0) for index in chosen])


def _tell(console: Console | None, words: str) -> None:
    if console:
        console.print(words, soft_wrap=True, highlight=False, markup=False)
