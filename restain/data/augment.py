"""Random changes to a training pair: one window and the same flips for both stains, colour jitter for the H&E alone."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's conversion to grey


class Augment(BaseModel):
    """How strongly pairs are changed; the defaults are VSMT's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flips: bool | Literal["left-right"] = "left-right"
    """Mirror half of the pairs left to right, as all published recipes do; `true`: half top to bottom, too."""
    brightness: float = Field(0.3, ge=0, le=1)
    """The H&E is multiplied by a factor from 1 - brightness to 1 + brightness."""
    contrast: float = Field(0.3, ge=0, le=1)
    """Likewise, its distance from the grey of its mean."""
    saturation: float = Field(0.2, ge=0, le=1)
    """Likewise, its distance from its own grey version."""


@dataclass(frozen=True)
class Change:
    """The random change of one pair: its window, how it is mirrored, and the colour factors of the H&E."""

    left: int
    top: int
    width: int
    height: int
    mirror_x: bool = False
    mirror_y: bool = False
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0


def draw_change(augment: Augment, size: tuple[int, int], window: tuple[int, int], generator: torch.Generator) -> Change:
    """Draw the change of one pair; the number of draws does not depend on the settings.

    Args:
        augment: how strong.
        size: width and height of the pair in px.
        window: width and height of the crop in px, at most `size`.
        generator: a CPU generator for this pair.
    """
    x, y, mirror_x, mirror_y, brightness, contrast, saturation = torch.rand(7, generator=generator).tolist()
    return Change(
        left=int(x * (size[0] - window[0] + 1)),
        top=int(y * (size[1] - window[1] + 1)),
        width=window[0],
        height=window[1],
        mirror_x=augment.flips is not False and mirror_x < 0.5,
        mirror_y=augment.flips is True and mirror_y < 0.5,
        brightness=1 + augment.brightness * (2 * brightness - 1),
        contrast=1 + augment.contrast * (2 * contrast - 1),
        saturation=1 + augment.saturation * (2 * saturation - 1),
    )


def centre_window(size: tuple[int, int], window: tuple[int, int]) -> Change:
    """The central crop without any other change; sizes are width and height in px."""
    return Change(left=(size[0] - window[0]) // 2, top=(size[1] - window[1]) // 2, width=window[0], height=window[1])


def crop_and_mirror(rgb: NDArray[np.uint8], change: Change) -> NDArray[np.uint8]:
    """Crop and mirror an image, H x W x 3 or H x W; returns a view."""
    window = rgb[change.top : change.top + change.height, change.left : change.left + change.width]
    return window[:: -1 if change.mirror_y else 1, :: -1 if change.mirror_x else 1]


def jitter_colour(images: Tensor, change: Change) -> Tensor:
    """Change brightness, then contrast, then saturation of N x 3 x H x W in [-1, 1]; each result is clamped.

    The factors are those of Pillow's `ImageEnhance`. The order is fixed, while torchvision draws it.
    """
    if (change.brightness, change.contrast, change.saturation) == (1, 1, 1):
        return images
    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    rgb = ((images + 1) / 2 * change.brightness).clamp(0, 1)
    mean = (rgb * luma).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    rgb = torch.lerp(mean.expand_as(rgb), rgb, change.contrast).clamp(0, 1)
    grey = (rgb * luma).sum(1, keepdim=True)
    return torch.lerp(grey.expand_as(rgb), rgb, change.saturation).clamp(0, 1) * 2 - 1
