"""Views of an image that keep its structure or keep its stain (VSMT, structure enhancement learning).

Every function takes images N x 3 x H x W in [-1, 1] and one CPU generator per image, draws each image's parameters
from its own generator, and works on the whole batch on the device of the images. So a batch gives what its images give
one by one, and the device is never waited for.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from torch import Generator, Tensor

from restain.errors import ShapeError
from restain.stains import from_unit, hed_to_rgb, rgb_to_hed, to_unit
from restain.tensors import full_precision

ROUNDING = 1e-3
"""What float32 may take from a whole number of waves."""

BatchTransform = Callable[[Tensor, Sequence[Generator]], Tensor]


def _ordered(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"the range {list(limits)} is upside down; give the lower limit first")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
Probability = Annotated[float, Field(ge=0, le=1)]


class ViewSettings(BaseModel):
    """How views are drawn; the defaults are the published code's where VSMT states them, ours elsewhere."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    hed_jitter: Probability = 1.0
    """How often a structure-preserving view has its stains scaled, by the two factors below."""
    dab_factor: Range = (0.0, 1.2)
    haematoxylin_factor: Range = (0.8, 1.5)
    rgb_jitter: Probability = 0.0
    """How often mean and spread of its colours change, each channel by its own two numbers below."""
    rgb_factor: Range = (0.7, 1.3)
    """On the distance from the channel's mean."""
    rgb_shift: Range = (-0.2, 0.2)
    """On the mean; images range from -1 to 1."""
    channel_swap: Probability = 0.0
    """How often its colour channels are put in random order."""
    slight_elastic: Probability = 0.25
    """How often it is bent slightly."""
    slight_alpha: Range = (0.5, 1.2)
    """Strength, see `elastic`."""
    patchwise: Probability = 0.75
    """How often its patches are turned, mirrored and partly erased, each by itself."""
    patches_per_side: Literal[1, 2, 4, 6, 8] = 8
    """A multiple of the alignment regions along a side, or tissue changes its region; 8 are as many as at 512 px."""
    patch_rotation: Probability = 0.2
    """How often a patch is turned by an angle, by at most the next number."""
    patch_rotation_deg: float = Field(30.0, ge=0, le=45)
    patch_quarter_turns: Probability = 0.5
    """How often it is turned by 90, 180 or 270 degrees besides."""
    patch_flips: Probability = 0.5
    """How often it is mirrored, along each axis; the probability is ours."""
    patch_erasing: Probability = 0.3
    """How often it loses a box of its own shape, with the next share of its area."""
    patch_erased: Range = (0.02, 0.2)

    pixel_shuffle: Probability = 0.3
    """Odds that a stain-preserving view has the pixels inside each patch shuffled."""
    shuffle_px: dict[int, float] = {8: 2, 16: 2, 32: 1, 64: 1}
    """Patch sides to choose from, with their odds; those that do not divide the image are left out, but one must."""
    low_pass: Probability = 0.2
    """Odds that it loses its detail."""
    cutoff: Range = (0.01, 0.04)
    """Highest frequency that stays, in cycles per px."""
    absolute_low_pass: bool = True
    """Show the absolute value of what is left: a slip of the published code, which turns the dark parts of an image
    bright, and so makes the view unlike it in more than detail."""
    strong_elastic: Probability = 0.5
    """Odds that it is bent strongly."""
    strong_alpha: Range = (3.0, 6.0)
    """Strength, see `elastic`."""

    @model_validator(mode="after")
    def _something_happens(self) -> "ViewSettings":
        if not self.pixel_shuffle + self.low_pass + self.strong_elastic:
            raise ValueError("pixel_shuffle, low_pass and strong_elastic are all 0; one of them must happen")
        if not self.shuffle_px or min(self.shuffle_px) < 2 or min(self.shuffle_px.values()) <= 0:
            raise ValueError(f"shuffle_px is {self.shuffle_px}; give patch sides of 2 px or more, and odds above 0")
        return self


@full_precision
def structure_preserving(images: Tensor, generators: Sequence[Generator], settings: ViewSettings) -> Tensor:
    """Change the stain and keep the structure: T_str. Each change happens or not, independently.

    Args:
        images: N x 3 x H x W in [-1, 1], H and W multiples of 8 and at least 32.
        generators: one CPU generator per image.
        settings: how often and how strongly.

    Returns:
        Views of the same shape and range.

    Raises:
        ShapeError: the images have another shape, or there is not one generator per image.
    """
    _check(images, generators)
    hed = partial(jitter_stains, dab=settings.dab_factor, haematoxylin=settings.haematoxylin_factor)
    rgb = partial(jitter_channels, factor=settings.rgb_factor, shift=settings.rgb_shift)
    bend = partial(elastic, alpha=settings.slight_alpha)
    disturb = partial(
        disturb_patches,
        per_side=settings.patches_per_side,
        rotation=(settings.patch_rotation, settings.patch_rotation_deg),
        quarter_turns=settings.patch_quarter_turns,
        flips=settings.patch_flips,
        erasing=(settings.patch_erasing, settings.patch_erased),
    )
    changes: list[tuple[float, BatchTransform]] = [
        (settings.hed_jitter, hed),
        (settings.rgb_jitter, rgb),
        (settings.channel_swap, swap_channels),
        (settings.slight_elastic, bend),
        (settings.patchwise, disturb),
    ]
    for probability, change in changes:
        draws = [float(torch.rand((), generator=generator)) for generator in generators]
        images = _change_some(images, generators, [i for i, draw in enumerate(draws) if draw < probability], change)
    return images


@full_precision
def stain_preserving(images: Tensor, generators: Sequence[Generator], settings: ViewSettings) -> Tensor:
    """Destroy the structure and keep the stain: T_stn. Exactly one change happens to each image.

    The probabilities of VSMT's three changes add up to 1, so we read them as odds: a view that happens to be the image
    itself would be a false negative. Arguments, shapes and errors as in `structure_preserving`.
    """
    _check(images, generators)
    changes: list[BatchTransform] = [
        partial(shuffle_pixels, odds=settings.shuffle_px),
        partial(keep_low_frequencies, cutoff=settings.cutoff, absolute=settings.absolute_low_pass),
        partial(elastic, alpha=settings.strong_alpha),
    ]
    odds = torch.tensor([settings.pixel_shuffle, settings.low_pass, settings.strong_elastic])
    choices = [int(odds.multinomial(1, generator=generator)) for generator in generators]
    for kind, change in enumerate(changes):
        images = _change_some(images, generators, [i for i, choice in enumerate(choices) if choice == kind], change)
    return images


def jitter_stains(
    images: Tensor, generators: Sequence[Generator], dab: tuple[float, float], haematoxylin: tuple[float, float]
) -> Tensor:
    """Scale the amounts of haematoxylin and DAB; eosin stays."""
    draws = _uniform(generators, 2)
    factors = torch.stack([_between(draws[:, 0], haematoxylin), torch.ones(len(draws)), _between(draws[:, 1], dab)], 1)
    return from_unit(hed_to_rgb(rgb_to_hed(to_unit(images)) * _send(factors, images).view(-1, 3, 1, 1)))


def jitter_channels(
    images: Tensor, generators: Sequence[Generator], factor: tuple[float, float], shift: tuple[float, float]
) -> Tensor:
    """Scale each channel's distance from its mean, and shift the mean; clamped to [-1, 1]."""
    draws = _uniform(generators, 2, 3, 1, 1)
    scale, offset = _send(_between(draws[:, 0], factor), images), _send(_between(draws[:, 1], shift), images)
    mean = images.mean((2, 3), keepdim=True)
    return ((images - mean) * scale + mean + offset).clamp(-1, 1)


def swap_channels(images: Tensor, generators: Sequence[Generator]) -> Tensor:
    """Put the colour channels in random order."""
    order = torch.stack([torch.randperm(3, generator=generator) for generator in generators])
    return images.gather(1, _send(order, images).view(-1, 3, 1, 1).expand_as(images))


def elastic(images: Tensor, generators: Sequence[Generator], alpha: tuple[float, float]) -> Tensor:
    """Bend by a smooth random field, bicubic between 8 x 8 random nodes.

    Alpha is the field's root mean square, in hundredths of half a side: alpha 1 moves 2.6 px at 512 px. VSMT gives
    alpha without a unit; in this one its 0.5 to 1.2 is slight and its 3 to 6 is strong.
    """
    strength = _send(_between(_uniform(generators), alpha), images).view(-1, 1, 1, 1)
    nodes = _send(torch.stack([torch.randn(2, 8, 8, generator=generator) for generator in generators]), images)
    field = F.interpolate(nodes, images.shape[2:], mode="bicubic", align_corners=True)
    field = field * (0.01 * strength / field.square().mean((1, 2, 3), keepdim=True).sqrt())
    return _sample(images, _identity(len(images), images), field.permute(0, 2, 3, 1))


def disturb_patches(
    images: Tensor,
    generators: Sequence[Generator],
    per_side: int,
    rotation: tuple[float, float],
    quarter_turns: float,
    flips: float,
    erasing: tuple[float, tuple[float, float]],
) -> Tensor:
    """Turn, mirror and erase each patch by itself.

    What turns in from outside a patch is its mirror image; what is erased becomes 0, mid-grey. Quarter turns of a patch
    that is not square stretch it.

    Args:
        images: N x 3 x H x W in [-1, 1].
        generators: one per image.
        per_side: patches along a side.
        rotation: share of the patches that are turned by an angle, and the largest angle in degrees.
        quarter_turns: share that are turned by one to three quarters.
        flips: share that are mirrored, along each axis.
        erasing: share that lose a box, and the limits of its share of the area.

    Raises:
        ShapeError: that many patches do not fit the image.
    """
    if images.shape[2] % per_side or images.shape[3] % per_side:
        raise ShapeError(f"an image of {images.shape[3]} x {images.shape[2]} px has no {per_side} patches per side")
    count, height, width = len(images), images.shape[2] // per_side, images.shape[3] // per_side
    draws = _send(_uniform(generators, per_side**2, 10), images).flatten(0, 1)
    turned, angle, quartered, quarters, mirror_x, mirror_y, erased, area, box_x, box_y = draws.unbind(1)

    degrees = torch.where(turned < rotation[0], (2 * angle - 1) * rotation[1], 0)
    degrees = degrees + torch.where(quartered < quarter_turns, 90 * (1 + (3 * quarters).floor()), 0)
    radians = degrees * (torch.pi / 180)
    mirror = torch.where(torch.stack([mirror_x, mirror_y], 1) < flips, -1.0, 1.0)
    turn = torch.stack([radians.cos(), -radians.sin(), radians.sin(), radians.cos()], 1).view(-1, 2, 2)
    patches = images.reshape(count, 3, per_side, height, per_side, width)
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, height, width)
    patches = _sample(patches, turn * mirror[:, None])

    share, limits = erasing
    side = _between(area, limits).sqrt()[:, None]
    start = torch.stack([box_x, box_y], 1) * (1 - side)
    x = (torch.arange(width, device=images.device) + 0.5) / width
    y = (torch.arange(height, device=images.device) + 0.5) / height
    in_x = (x >= start[:, :1]) & (x < start[:, :1] + side)
    in_y = (y >= start[:, 1:]) & (y < start[:, 1:] + side)
    box = in_y[:, None, :, None] & in_x[:, None, None, :] & (erased < share).view(-1, 1, 1, 1)
    patches = patches.masked_fill(box, 0).view(count, per_side, per_side, 3, height, width)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


def shuffle_pixels(images: Tensor, generators: Sequence[Generator], odds: Mapping[int, float]) -> Tensor:
    """Shuffle the pixels inside square patches; each image has one patch side, and one order for all its patches.

    Args:
        images: N x 3 x H x W.
        generators: one per image.
        odds: by the side of a patch, px.

    Raises:
        ShapeError: none of the patch sides divides the image.
    """
    height, width = images.shape[2:]
    fitting = {side: weight for side, weight in odds.items() if height % side == 0 and width % side == 0}
    if not fitting:
        raise ShapeError(f"none of the patch sides {list(odds)} divides an image of {width} x {height} px")
    weights = torch.tensor(list(fitting.values()), dtype=torch.float64)
    sides = [list(fitting)[int(weights.multinomial(1, generator=generator))] for generator in generators]
    orders = torch.zeros(len(images), max(sides) ** 2, dtype=torch.int64)
    for order, side, generator in zip(orders, sides, generators, strict=True):
        order[: side**2] = torch.randperm(side**2, generator=generator)

    step = _send(torch.tensor(sides), images).view(-1, 1, 1)
    y = torch.arange(height, device=images.device).view(1, -1, 1)
    x = torch.arange(width, device=images.device).view(1, 1, -1)
    inside = _send(orders, images).gather(1, (y % step * step + x % step).flatten(1)).view(-1, height, width)
    source = (y - y % step + inside // step) * width + (x - x % step + inside % step)
    return images.flatten(2).gather(2, source.flatten(1)[:, None].expand(-1, 3, -1)).view_as(images)


def keep_low_frequencies(
    images: Tensor, generators: Sequence[Generator], cutoff: tuple[float, float], absolute: bool
) -> Tensor:
    """Remove every wave shorter than a drawn cut-off in cycles per px; clamped to [-1, 1].

    The cut-off is rounded down to whole waves in the shorter side, as in the published code. With `absolute`, numbers
    below 0 lose their sign afterwards, see `ViewSettings.absolute_low_pass`.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    limit = _send((_between(_uniform(generators), cutoff) * side + ROUNDING).floor(), images).view(-1, 1, 1, 1)
    y = torch.fft.fftfreq(height, device=images.device).view(-1, 1)
    x = torch.fft.rfftfreq(width, device=images.device)
    waves = torch.fft.rfft2(images) * (torch.hypot(y, x) * side <= limit + ROUNDING)
    smooth: Tensor = torch.fft.irfft2(waves, s=(height, width))
    return (smooth.abs() if absolute else smooth).clamp(-1, 1)


def _check(images: Tensor, generators: Sequence[Generator]) -> None:
    count, channels, height, width = images.shape if images.ndim == 4 else (0, 0, 0, 0)
    if channels != 3 or height % 8 or width % 8 or min(height, width) < 32:
        raise ShapeError(f"expected N x 3 x H x W, sides multiples of 8 and at least 32, got {list(images.shape)}")
    if len(generators) != count:
        raise ShapeError(f"expected one generator per image, got {len(generators)} for {count} images")


def _change_some(images: Tensor, generators: Sequence[Generator], places: list[int], change: BatchTransform) -> Tensor:
    """Apply a change to some images of a batch, with their own generators."""
    if not places:
        return images
    where = _send(torch.tensor(places), images)
    changed = change(images.index_select(0, where), [generators[place] for place in places])
    return images.index_copy(0, where, changed)


def _uniform(generators: Sequence[Generator], *shape: int) -> Tensor:
    """Draw N x shape numbers in [0, 1), each image's from its own generator."""
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def _between(draws: Tensor, limits: tuple[float, float]) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * draws


def _send(numbers: Tensor, images: Tensor) -> Tensor:
    """Bring drawn numbers to the images' device without waiting for it, those that are no integers in their type."""
    if images.is_cuda:
        numbers = numbers.pin_memory()
    return numbers.to(images.device, images.dtype if numbers.is_floating_point() else None, non_blocking=True)


def _identity(count: int, images: Tensor) -> Tensor:
    return torch.eye(2, device=images.device, dtype=images.dtype).expand(count, 2, 2)


def _sample(images: Tensor, turn: Tensor, displacement: Tensor | float = 0.0) -> Tensor:
    """Sample images where a 2 x 2 matrix and a displacement (N x H x W x 2, sides span -1 to 1) send each pixel."""
    places = F.affine_grid(F.pad(turn, (0, 1)), list(images.shape), align_corners=False) + displacement
    return F.grid_sample(images, places, padding_mode="reflection", align_corners=False)
