"""Sample grids: results on a few pairs, as a PNG with one row per pair and labelled columns."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from restain.data.pairs import Pair
from restain.image import save_image, to_uint8
from restain.methods.base import Method
from restain.networks.norm import evaluating

CELL_PX = 256
"""Approximate longer side of an image in the grid: larger images are reduced, smaller ones repeat their pixels."""
LABEL_PX = 20
"""Height of the line of labels."""
GAP_PX = 4


def save_samples(path: Path, method: Method, pair: Pair) -> None:
    """Draw the columns of `method.sample(pair)`, one row per image; the method is unchanged.

    Raises:
        OutputError: the picture cannot be written.
    """
    with evaluating(method), torch.no_grad():
        columns = {name: to_uint8(images) for name, images in method.sample(pair).items()}
    rows = len(next(iter(columns.values())))
    height, width = next(iter(columns.values())).shape[1:3]
    side = max(height, width)
    scale = CELL_PX / side if side > CELL_PX else CELL_PX // side
    cell = (max(1, round(width * scale)), max(1, round(height * scale)))
    step_x, step_y = cell[0] + GAP_PX, cell[1] + GAP_PX
    grid = Image.new("RGB", (len(columns) * step_x - GAP_PX, LABEL_PX + rows * step_y - GAP_PX), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=12)
    for column, (name, images) in enumerate(columns.items()):
        draw.text((column * step_x + 2, 2), name, fill="black", font=font)
        for row, image in enumerate(images):
            shown = Image.fromarray(image).resize(cell, Image.Resampling.BOX)
            grid.paste(shown, (column * step_x, LABEL_PX + row * step_y))
    save_image(path, np.asarray(grid))
