"""The held-out tiles that every row is evaluated on, linked in one folder per side."""

import shutil
from pathlib import Path

from restain.bench.cell import Judging
from restain.data.layouts import WHOLE
from restain.data.pairs import PairedTiles
from restain.data.partners import PairFiles
from restain.errors import InputError
from restain.folders import list_images
from restain.image import save_image


def gather(
    data: Path, out: Path, truth: Path | None, tiles: int | None, extractors: tuple[tuple[str, Path], ...]
) -> Judging:
    """Link the held-out pairs to `out/he` and `out/real`, or cut them if one file shows both sides.

    Args:
        data: the data set.
        out: a folder for them; results of an earlier call are replaced.
        truth: folder of IHC registered with the held-out H&E, with the same names; the data set's IHC if None.
        tiles: number of tiles, spread evenly; all if None.
        extractors: passed through.

    Raises:
        MissingError, InputError: the data set cannot be used, has no held-out part, or `truth` lacks a tile.
    """
    held_out = PairedTiles(data, "val", grades="none")
    if held_out.part in (WHOLE, "train"):
        raise InputError(f"{data} has no held-out part, which a bench needs for its evaluation; split off a val part")
    files = held_out.files
    if tiles is not None and tiles < len(files):
        files = [files[place * len(files) // tiles] for place in range(tiles)]
    truths = {path.stem: path for path in list_images(truth)} if truth else {}
    if truth and (lacking := [pair.name for pair in files if pair.name not in truths]):
        raise InputError(
            f"{truth} has no image {lacking[0]} (and {len(lacking) - 1} more); expected each held-out tile"
        )
    he, real = out / "he", out / "real"
    for folder in (he, real):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    for pair in files:
        _place(pair, he, real, truths.get(pair.name))
    return Judging(he, real, extractors)


def _place(pair: PairFiles, he: Path, real: Path, truth: Path | None) -> None:
    if pair.he == pair.ihc:
        stained, own = pair.load()
        save_image(he / f"{pair.name}.png", stained)
        if truth is None:
            save_image(real / f"{pair.name}.png", own)
    else:
        _link(pair.he, he, pair.name)
        if truth is None:
            _link(pair.ihc, real, pair.name)
    if truth is not None:
        _link(truth, real, pair.name)


def _link(source: Path, folder: Path, name: str) -> None:
    """Link if the file system can, else copy; partners get the same name."""
    target = folder / f"{name}{source.suffix}"
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)
