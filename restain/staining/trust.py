"""Where not to believe a virtual stain: where it changes with what must not matter, or the H&E is unlike any seen.

Tissue has no up and down, so turning or mirroring the H&E should turn or mirror the result and nothing else. Where the
eight symmetries of the square disagree on DAB, the network is guessing (test-time augmentation, Wang et al. 2019).
Several checkpoints may be asked in the same way (deep ensembles, Lakshminarayanan et al. 2017).
"""

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from restain.checkpoint import CheckpointInfo
from restain.errors import InputError
from restain.folders import TRUST_FOLDER
from restain.image import atomic_path, load_image, save_image, to_tensor
from restain.metrics.familiarity import BLOCK_PX, Familiarity
from restain.staining.files import find_jobs
from restain.stains import dab_density, to_unit

RGB = NDArray[np.uint8]
Floats = NDArray[np.float32]
Stain = Callable[[RGB], RGB]
"""From H&E to virtual IHC, H x W x 3 each."""

SHOWN_OD = 0.2
"""Disagreement that gets the brightest colour in a picture."""


def disagreement(virtual: Iterable[RGB]) -> Floats:
    """Standard deviation of the DAB density over several virtual stains of one image.

    Args:
        virtual: H x W x 3 each, at least two; one is held at a time.

    Returns:
        Optical density, H x W.

    Raises:
        InputError: there are fewer than two.
    """
    count = 0
    mean: NDArray[np.float64] = np.zeros(())
    squares: NDArray[np.float64] = np.zeros(())
    for rgb in virtual:  # Welford's sums
        density = dab_density(to_unit(to_tensor(rgb)))[0, 0].double().numpy()
        count += 1
        away = density - mean
        mean = mean + away / count
        squares = squares + away * (density - mean)
    if count < 2:
        raise InputError("disagreement needs at least two virtual stains of an image")
    return np.asarray(np.sqrt(squares / count), np.float32)


def under_symmetries(stain: Stain, rgb: RGB) -> Iterator[RGB]:
    """Stain an image in its eight orientations; each result is turned back.

    Args:
        stain: one way to stain it.
        rgb: H&E, H x W x 3.
    """
    for turns in range(4):
        for mirrored in (False, True):
            seen = np.rot90(rgb[:, ::-1] if mirrored else rgb, turns)
            back = np.rot90(stain(np.ascontiguousarray(seen)), -turns)
            yield np.ascontiguousarray(back[:, ::-1] if mirrored else back)


def comparable(stains: Sequence[Stain], rgb: RGB) -> Iterator[RGB]:
    """Virtual stains of one image that ought to agree: eight orientations of one network's, or one by each network.

    Args:
        stains: one for each network.
        rgb: H&E, H x W x 3.
    """
    return under_symmetries(stains[0], rgb) if len(stains) == 1 else (stain(rgb) for stain in stains)


def passes(networks: int) -> int:
    """How many virtual stains of an image `comparable` gives."""
    return 8 if networks == 1 else networks


def write_trust(
    stains: Sequence[Stain],
    inputs: Sequence[Path],
    out: Path,
    model: CheckpointInfo,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a map of the disagreement for each image, in the folder `trust` beside its result, and a table in each.

    A map is dark where the orientations agree and bright where they do not; blocks unlike the training H&E have a cyan
    frame. Images that cannot be read or stained are passed over.

    Args:
        stains: as in `comparable`.
        inputs: image files and folders of them, as they were given to `stain_files`.
        out: folder of the results.
        model: what the checkpoint says of itself; it knows its training H&E after `restain calibrate`.
        on_progress: called with the passes done and in all.

    Returns:
        The tables, `trust.csv`: mean and 95th percentile of the disagreement, and the share of unlike blocks.

    Raises:
        OutputError: a result cannot be written.
    """
    known = model.extra.get("familiarity")
    familiarity = Familiarity.from_json(known) if known else None
    rows: dict[Path, list[tuple[str, float, float, float]]] = {}
    jobs, each = find_jobs(inputs, out, overwrite=True), passes(len(stains))

    def told(views: Iterator[RGB], before: int) -> Iterator[RGB]:
        for done, view in enumerate(views, start=before + 1):
            if on_progress:
                on_progress(done, each * len(jobs))
            yield view

    for number, job in enumerate(jobs):
        try:
            he = load_image(job.source)
            spread = disagreement(told(comparable(stains, he), each * number))
        except InputError:
            continue
        picture = (mpl.colormaps["inferno"](np.minimum(spread / SHOWN_OD, 1))[..., :3] * 255).round().astype(np.uint8)
        share = math.nan
        if familiarity is not None and min(he.shape[:2]) >= BLOCK_PX:
            unlike = familiarity.unlike(to_unit(to_tensor(he)))[0].numpy()
            _frame(picture, unlike)
            share = float(unlike.mean())
        folder = job.target.parent / TRUST_FOLDER
        save_image(folder / job.target.name, picture)
        measured = (job.target.stem, float(spread.mean()), float(np.quantile(spread, 0.95)), share)
        rows.setdefault(folder / "trust.csv", []).append(measured)
    for table, lines in rows.items():
        _write_table(table, lines)
    return list(rows)


def _write_table(table: Path, rows: Iterable[tuple[str, float, float, float]]) -> None:
    with atomic_path(table) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "disagreement_mean_od", "disagreement_p95_od", "unlike_training_share"])
        for image, *values in rows:
            writer.writerow([image, *("" if math.isnan(value) else f"{value:.5f}" for value in values)])


def _frame(picture: RGB, unlike: NDArray[np.bool_]) -> None:
    """Draw a line around each marked block."""
    for row, column in np.argwhere(unlike).tolist():
        block = picture[row * BLOCK_PX : (row + 1) * BLOCK_PX, column * BLOCK_PX : (column + 1) * BLOCK_PX]
        block[:2] = block[-2:] = block[:, :2] = block[:, -2:] = (0, 220, 220)
