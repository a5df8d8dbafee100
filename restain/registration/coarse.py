"""The initial estimate for a pair of tiles: one shift and one rotation, then blocks around it.

Both correlate normalised channels, which have zero mean, so that several cost little more than one. For slides,
`restain.registration.matching` takes mean and contrast from each block instead: those blocks meet glass, pen and DAB,
and count only where haematoxylin is sure.
"""

from collections.abc import Sequence

import numpy as np
import torch

from restain.registration.channels import CHANNEL_WEIGHTS, Channels
from restain.registration.field import Affine, Map
from restain.registration.fitting import Matches
from restain.registration.matching import APART, LEAST_CORRELATION, LEAST_OVERLAP, block_window, highest, squares
from restain.registration.warp import places_on

TURNS = tuple(range(-12, 13, 3))
"""Rotations that are tried, in degrees."""
LEAST_SHARED = 0.35
"""Least overlap of the tiles at a shift."""
_NOTHING = 1e-2  # sum of squares; a single nucleus has about 50


def coarsest(channels: Channels) -> Channels:
    """The input of `turn_and_shift`: an eighth of the size, blurred."""
    return channels.halved().halved().halved().normalised(0.75, 15)


def turn_and_shift(first: Channels, second: Channels, turns: Sequence[float] = TURNS) -> tuple[Affine, float]:
    """The rotation and shift at which two sections fit best.

    Args:
        first: normalised.
        second: the same of the other section, the same size.
        turns: in degrees.

    Returns:
        The map from the first section to the second, and the correlation there, less where little is shared.
    """
    _, height, width = first.values.shape
    middle, size = np.array([width, height]) * first.pitch / 2, (2 * height, 2 * width)
    weights = torch.from_numpy(CHANNEL_WEIGHTS)[:, None, None]
    ours = torch.from_numpy(first.values)
    spectrum, energy, pixels = (
        torch.fft.rfft2(part, s=size).conj() for part in (ours, (weights * ours**2).sum(0), torch.ones(height, width))
    )
    best, found = -1.0, Affine.identity()
    for degrees in turns:
        cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        linear = np.array([[cos, -sin], [sin, cos]])
        turn = Affine(np.column_stack([linear, middle - linear @ middle]))
        theirs, inside = (torch.from_numpy(part) for part in second.at(places_on(turn, first.box)))
        product, their_energy, our_energy, shared = (
            torch.fft.irfft2(part, s=size)
            for part in (
                (weights * spectrum * torch.fft.rfft2(theirs, s=size)).sum(0),
                pixels * torch.fft.rfft2((weights * theirs**2).sum(0), s=size),
                energy * torch.fft.rfft2(inside, s=size),
                pixels * torch.fft.rfft2(inside, s=size) / (height * width),
            )
        )
        fit = product / (their_energy.clamp_min(_NOTHING) * our_energy.clamp_min(_NOTHING)).sqrt()
        fit = torch.where(shared > LEAST_SHARED, fit * shared.clamp(0, 1).sqrt(), -1.0).flatten()
        place = int(fit.argmax())
        if fit[place] > best:
            best = fit[place].item()
            y, x = ((at + n) % (2 * n) - n for at, n in zip(divmod(place, 2 * width), (height, width), strict=True))
            found = turn.after(Affine(np.array([[1, 0, x * first.pitch], [0, 1, y * first.pitch]])))
    return found, best


def matched_blocks(
    first: Channels, second: Channels, start: Map, *, block_px: int, step_px: int, reach_px: int
) -> Matches:
    """Match blocks of one section with the other, near where a map expects them.

    Args:
        first: the section of the blocks, normalised.
        second: the section to search, normalised, the same size.
        start: where they are expected.
        block_px: side of a block in px of the channels, even; its centre has most weight.
        step_px: distance of neighbouring blocks.
        reach_px: search radius around the expected position, in x and in y.

    Returns:
        One match for each block that could be matched. The confidence is its correlation, less where another place fits
        nearly as well.
    """
    theirs, inside = (torch.from_numpy(part) for part in second.at(places_on(start, first.box)))
    ours, window = torch.from_numpy(first.values), block_window(block_px)
    weights = torch.from_numpy(CHANNEL_WEIGHTS)[:, None, None, None]
    half, side = block_px // 2, block_px + 2 * reach_px

    def spectrum(images: torch.Tensor) -> torch.Tensor:
        padded: torch.Tensor = torch.fft.rfft2(images, s=(side, side))
        return padded

    def summed(product: torch.Tensor) -> torch.Tensor:
        near: torch.Tensor = torch.fft.irfft2(product, s=(side, side))[:, : 2 * reach_px + 1, : 2 * reach_px + 1]
        return near

    blocks = torch.stack([squares(channel, block_px, step_px, half) for channel in ours])
    regions = torch.stack([squares(channel, side, step_px, half + reach_px) for channel in theirs])
    weight = squares(torch.ones_like(inside), block_px, step_px, half) * window
    covered = spectrum(squares(inside, side, step_px, half + reach_px))
    template = spectrum(weight).conj()
    product = summed((weights * spectrum(blocks * weight).conj() * spectrum(regions)).sum(0))
    their_energy = summed(template * spectrum((weights * regions**2).sum(0)))
    our_energy = summed(spectrum((weights * blocks**2).sum(0) * weight).conj() * covered)
    shared = summed(template * covered) / weight.sum((1, 2), keepdim=True)
    fit = product / (their_energy.clamp_min(_NOTHING) * our_energy.clamp_min(_NOTHING)).sqrt()

    shift, peak, other = highest(torch.where(shared > LEAST_OVERLAP, fit, -1.0), round(APART * block_px))
    rows, columns = (torch.arange(0, length, step_px) for length in inside.shape)
    sure = peak > LEAST_CORRELATION
    points = torch.cartesian_prod(rows, columns).flip(1)[sure].double().numpy() * first.pitch
    shifts = (shift - reach_px)[sure].double().numpy() * first.pitch
    confidence = (peak * (1 - (other / peak).clamp(0, 1)).sqrt())[sure].double().numpy()
    return Matches(points, start(points + shifts), confidence)
