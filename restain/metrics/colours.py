"""Stain vectors estimated from a set of images, and metrics that use them instead of those of Ruifrok & Johnston.

Colours of stains differ between laboratories and scanners. Images are re-rendered with the reference colours, so that
the formulas of the metrics stay the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from restain.errors import InputError
from restain.folders import list_images
from restain.image import load_image
from restain.metrics.registry import Metric
from restain.stains import estimate_stain_vectors, vectors_in_words, with_reference_stains

_IMAGES = 64
_PIXELS_EACH = 20_000


def stain_vectors_of(folder: Path) -> Tensor:
    """Estimate the stain vectors, 3 x 3, of the IHC images in a folder, from at most 64 of them, evenly spread.

    Raises:
        MissingError, InputError: the folder has no images, or one cannot be read.
        InputError: they do not show two stains.
    """
    files = list_images(folder)
    if not files:
        raise InputError(f"{folder} has no images to estimate stain vectors from; give a folder of IHC images")
    pixels = []
    for path in files[:: -(-len(files) // _IMAGES)]:
        rgb = load_image(path).reshape(-1, 3)
        pixels.append(torch.from_numpy(rgb[:: -(-len(rgb) // _PIXELS_EACH)]) / 255)
    try:
        return estimate_stain_vectors(torch.cat(pixels))
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error


def by_vectors(metrics: Mapping[str, Metric], vectors: Tensor) -> dict[str, Metric]:
    """The same metrics, where those that separate stains get the IHC images with the reference colours.

    H&E images are unchanged, because their stain vectors differ.
    """
    redrawn: dict[object, Callable[[Tensor, Tensor], Tensor]] = {}
    found = {}
    for name, metric in metrics.items():
        if "stains" in metric.protocol:  # metrics with the same function still share one run of it
            both = metric.partner == "real"
            measure = redrawn.setdefault(metric.measure, partial(_measure, metric.measure, vectors, both))
            protocol = {**metric.protocol, "stains": vectors_in_words(vectors)}
            metric = replace(metric, measure=measure, protocol=protocol)
        found[name] = metric
    return found


def _measure(
    measure: Callable[[Tensor, Tensor], Tensor], vectors: Tensor, both: bool, virtual: Tensor, partner: Tensor
) -> Tensor:
    virtual = with_reference_stains(virtual, vectors)
    return measure(virtual, with_reference_stains(partner, vectors) if both else partner)
