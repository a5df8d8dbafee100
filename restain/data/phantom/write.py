"""Write drawn pairs to a folder in the layout of MIST, with the truth beside them."""

import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from restain.data.phantom.pair import PhantomPair, PhantomSettings, draw_pair
from restain.errors import ConfigError, OutputError
from restain.image import atomic_path, save_image
from restain.randomness import derive_seed

_SIDES = {"A": "he", "B": "ihc", "B_aligned": "ihc_aligned"}


def write_pairs(
    out: Path,
    pairs: int,
    *,
    validation: int,
    seed: int = 0,
    settings: PhantomSettings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draw pairs into `out/TrainValAB`: trainA (H&E), trainB (displaced IHC), trainB_aligned, and val likewise.

    For each pair there are also `displacement/NAME.npy` (2 x 64 x 64, float16) and `cells/NAME.json`. Names end in the
    grade: `0007_2+`. `out/phantom.json` says what was drawn; it comes last, so a folder without it is not complete.

    Args:
        out: a new or empty folder.
        pairs: how many, at least 1.
        validation: how many of them, the last ones, are for validation.
        seed: decides everything. A pair depends on it and on its own number alone.
        settings: what to draw.
        on_progress: called with (pairs written, pairs in all).

    Raises:
        ConfigError: the counts make no sense.
        OutputError: the folder is not empty or cannot be written.
    """
    settings = settings or PhantomSettings()
    if pairs < 1 or not 0 <= validation <= pairs:
        raise ConfigError(f"{pairs} pairs, {validation} for validation: expected at least 1, and not more validation")
    refuse_used_folder(out)
    for index in range(pairs):
        pair = draw_pair(derive_seed(seed, "phantom", "pair", index), settings)
        split = "train" if index < pairs - validation else "val"
        _write_pair(out / "TrainValAB", split, f"{index:04d}_{pair.grade}+", pair)
        if on_progress:
            on_progress(index + 1, pairs)
    described = {"pairs": pairs, "validation": validation, "seed": seed, **asdict(settings)}
    _write(out / "phantom.json", (json.dumps(described, indent=1) + "\n").encode())


def refuse_used_folder(out: Path) -> None:
    """Check that the folder is empty.

    Raises:
        OutputError: `out` is a file or a folder that holds something.
    """
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; give a new or empty folder")
    if out.is_dir() and any(out.iterdir()):
        raise OutputError(f"{out} is not empty; give a new folder, or remove its contents")


def _write_pair(base: Path, split: str, name: str, pair: PhantomPair) -> None:
    for side, image in _SIDES.items():
        save_image(base / f"{split}{side}" / f"{name}.png", getattr(pair, image))
    field = io.BytesIO()
    np.save(field, pair.displacement)
    _write(base / "displacement" / f"{name}.npy", field.getvalue())
    truth = {
        "grade": pair.grade,
        "positive_fraction": round(pair.cells.positive_fraction, 4),
        "cells": pair.cells.records(),
    }
    _write(base / "cells" / f"{name}.json", json.dumps(truth).encode())


def _write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
