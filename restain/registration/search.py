"""Global search for the position of a section on the other slide: rotation, mirroring, scale and shift.

Every turn and scale is tried on a small image by correlation in the Fourier domain, of where tissue is and of how dense
its nuclei are; the best few are refined by block matching. How many blocks of the tissue are found where one affine map
says tells a true pair from a false one: chance brings few.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from restain.registration.field import Affine, Floats
from restain.registration.fitting import Matches
from restain.registration.matching import Structure, match_blocks
from restain.registration.overview import GLASS_WEIGHT, Overview, shrunk, whole_factor

SEARCH_PX = 64
"""Longest side of the tissue in the images that are searched."""
ANGLE_STEP = 5.0
"""Degrees between the rotations that are tried."""
SCALE_STEP = 2 ** (1 / 8)
SCALES_BY_FILE = tuple(SCALE_STEP**n for n in (0, -1, 1))
"""Where the files are right about their resolution; shrinkage and stretch of a section included."""
SCALES_BEYOND = tuple(SCALE_STEP**n for n in range(-9, 10) if abs(n) > 1)
"""Where they are not: from a little below 0.5 to a little above 2."""
AREA_SCALES = (0.5, 1.6)
"""Scales are tried between these times the one at which the areas of tissue are alike: the IHC may have more tissue."""
CANDIDATES = 8
"""Number of the best candidates that are refined."""
REFINE_PX = 400
"""Longest side of the tissue, about, in the images by which they are refined."""
BLOCK_PX, REACH_PX = 32, 16
TOLERANCE_PX = 5.0
"""A block agrees if it is found so near to where the affine map says, in px of these images; sections are bent."""
ACCEPTED = 0.3
"""Least share of the blocks that must agree, of very many; of few, chance can make more of them agree."""
PROMISING = 0.25
"""Share of the blocks that must agree at first sight."""
LEAST_BLOCKS = 12
"""Fewest blocks on both tissues for a decision."""
_BLOCKS = {False: 80, True: 300}  # on tissue, at first sight and at the second


@dataclass(frozen=True)
class Candidate:
    """A way in which the section may lie, and how well it fits, 0 to 1."""

    affine: Affine
    score: float
    angle: float
    mirror: bool
    scale: float


@dataclass(frozen=True)
class Lie:
    """The position of the section on the IHC slide, with its confidence."""

    affine: Affine
    """From places on the H&E slide to places on the IHC slide, in µm."""
    agreement: float
    """Share of the blocks on tissue of both slides that are found where the map says, 0 to 1."""
    blocks: int
    """How many blocks lie on tissue of both."""
    correlation: float
    """Mean correlation of those that agree."""

    @property
    def needed(self) -> float:
        """Share of so many blocks that must agree to be believed."""
        return ACCEPTED + 1.5 / math.sqrt(max(self.blocks, 1))

    @property
    def is_found(self) -> bool:
        """Whether the agreement exceeds chance."""
        return self.agreement >= self.needed and self.blocks >= LEAST_BLOCKS


def find_lie(he: Overview, ihc: Overview, *, mirror: bool = True, any_scale: bool = True) -> Lie:
    """Find how the section lies; first by the resolutions that the files say, then by any scale from 0.5 to 2.

    Args:
        he: the slide of the H&E.
        ihc: that of the IHC.
        mirror: whether it may lie with its other side up.
        any_scale: whether the files may be wrong about their resolution.

    Returns:
        The best that was found, whether it can be believed (`is_found`) or not.
    """
    wanted = he.extent_um / REFINE_PX
    first = shrunk(he.structure(), whole_factor(he.mpp, wanted))
    second = shrunk(ihc.structure(), whole_factor(ihc.mpp, wanted))
    best = Lie(Affine.identity(), 0.0, 0, 0.0)
    for scales in _rounds(he, ihc) if any_scale else [SCALES_BY_FILE]:
        for candidate in search(he, ihc, scales, (False, True) if mirror else (False,)):
            lie = refine(first, second, candidate.affine, rounds=1)
            if lie.agreement >= PROMISING:
                lie = refine(first, second, lie.affine, rounds=3)
            if (lie.blocks >= LEAST_BLOCKS, lie.agreement) > (best.blocks >= LEAST_BLOCKS, best.agreement):
                best = lie
            if best.is_found:
                return best
    return best


def _rounds(he: Overview, ihc: Overview) -> list[Sequence[float]]:
    """Scales to try together: those of the files, those at which the areas of tissue are alike, all others."""
    by_area = math.sqrt(ihc.tissue.sum() * ihc.mpp**2 / (he.tissue.sum() * he.mpp**2))
    low, high = (factor * by_area for factor in AREA_SCALES)
    others = sorted(SCALES_BEYOND, key=lambda scale: abs(math.log(scale / by_area)))
    others = [scale for scale in others if low <= scale <= high]
    return [SCALES_BY_FILE, others[:4], others[4:]]


def search(he: Overview, ihc: Overview, scales: Sequence[float], mirrors: Sequence[bool]) -> list[Candidate]:
    """Try every turn, with every scale and side up, and give the best places, the best first."""
    mpp = max(max(he.extent_um, ihc.extent_um) / SEARCH_PX, he.mpp, ihc.mpp)
    first, second = _small(he, mpp), _small(ihc, mpp)
    side = 2 * SEARCH_PX
    spectrum = torch.fft.rfft2(_unit(_padded(second.images, side)))
    found = [
        candidate
        for mirror in mirrors
        for scale in scales
        for candidate in _best_shifts(first, second, spectrum, mirror, scale)
    ]
    return _apart(sorted(found, key=lambda one: -one.score))


def refine(he: Structure, ihc: Structure, start: Affine, *, rounds: int) -> Lie:
    """Improve an affine map by block matching, and tell how many blocks of tissue agree with it.

    Args:
        he: of the whole H&E slide.
        ihc: of the whole IHC slide.
        start: the map to begin with.
        rounds: how often blocks are sought.
    """
    affine = start
    height, width = he.values.shape
    tissue = int((he.weights > 2 * GLASS_WEIGHT).sum())
    step = max(BLOCK_PX // 2, math.ceil(math.sqrt(tissue / _BLOCKS[rounds > 1])))
    tolerance = TOLERANCE_PX * he.box.mpp
    for _ in range(rounds):
        matches = match_blocks(he, ihc, affine, block_px=BLOCK_PX, step_px=step, reach_px=REACH_PX)
        matches = matches[_weights_at(he, matches.points) > 2 * GLASS_WEIGHT]
        if len(matches) < LEAST_BLOCKS / 2:
            return Lie(affine, 0.0, len(matches), 0.0)
        affine, misses = robust_affine(matches, affine, tolerance)
    rows, columns = np.mgrid[0:height:step, 0:width:step] + 0.5
    places = np.stack([columns.ravel(), rows.ravel()], axis=1) * he.box.mpp + (he.box.x, he.box.y)
    on_both = (_weights_at(he, places) > 2 * GLASS_WEIGHT) & (_weights_at(ihc, affine(places)) > 2 * GLASS_WEIGHT)
    blocks = int(on_both.sum())
    agree = misses <= tolerance * _scale(affine)
    correlation = float(matches.confidence[agree].mean()) if agree.any() else 0.0
    return Lie(affine, min(1.0, int(agree.sum()) / max(blocks, 1)), blocks, correlation)


def robust_affine(matches: Matches, start: Affine, tolerance: float) -> tuple[Affine, Floats]:
    """The affine map that most matches agree on (reweighted as in `fit_field`), and how far it misses each, in µm.

    Args:
        matches: at least 3.
        start: the map by which they were sought.
        tolerance: how far a right match may be missed, in µm of the H&E.
    """
    affine = start
    for factor in np.geomspace(8, 1, 8):
        misses = np.hypot(*(affine(matches.points) - matches.moved).T)
        weights = matches.confidence / (1 + (misses / (factor * tolerance * _scale(start))) ** 2) ** 2
        affine = Affine.fitted(matches.points, matches.moved, weights)
    return affine, np.hypot(*(affine(matches.points) - matches.moved).T)


def _scale(affine: Affine) -> float:
    return math.sqrt(abs(np.linalg.det(affine.matrix[:, :2])))


def _weights_at(structure: Structure, points: Floats) -> Floats:
    """How much the pixels at places (µm, N x 2) count, N; 0 outside."""
    column, row = np.floor((points - (structure.box.x, structure.box.y)) / structure.box.mpp).astype(int).T
    height, width = structure.weights.shape
    inside = (column >= 0) & (row >= 0) & (column < width) & (row < height)
    return np.where(inside, structure.weights.numpy()[row.clip(0, height - 1), column.clip(0, width - 1)], 0.0)


@dataclass(frozen=True)
class _Small:
    """What is searched: where tissue is and how dense its nuclei are, 2 x h x w, around a middle in µm."""

    images: Tensor
    middle: Floats
    mpp: float


def _small(one: Overview, mpp: float) -> _Small:
    """Shrink a slide to its tissue at a resolution."""
    structure = one.structure()
    tissue = torch.from_numpy(one.tissue).float()
    rows, columns = (np.flatnonzero(one.tissue.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    parts = torch.stack([tissue, tissue * structure.weights, tissue * structure.weights * structure.values])
    size = [max(1, round((high - low) * one.mpp / mpp)) for low, high in ((top, bottom), (left, right))]
    mask, weights, product = F.interpolate(parts[None, :, top:bottom, left:right], size, mode="area")[0].numpy()
    near, far = (
        ndimage.gaussian_filter(product, sigma) / np.maximum(ndimage.gaussian_filter(weights, sigma), 0.02)
        for sigma in (1.2, 8.0)
    )
    texture = (near - far) * mask
    spread = max(float(np.quantile(np.abs(texture[mask > 0.5]), 0.9)) if (mask > 0.5).any() else 0.0, 1e-6)
    images = np.stack([ndimage.gaussian_filter(mask, 1.2), np.clip(texture / spread, -1.5, 1.5)])
    middle = np.array([left + right, top + bottom]) / 2 * one.mpp
    return _Small(torch.from_numpy(images.astype(np.float32)), middle, mpp)


def _best_shifts(first: _Small, second: _Small, spectrum: Tensor, mirror: bool, scale: float) -> Iterator[Candidate]:
    """Where the first fits best on the second in every turn, one side up and at one scale."""
    side = spectrum.shape[-2]
    angles = np.arange(0, 360, ANGLE_STEP)
    linears = [_linear(angle, mirror, scale) for angle in angles]
    turned = _unit(_turned(first.images, linears, side))
    surfaces = torch.fft.irfft2((torch.fft.rfft2(turned).conj() * spectrum).mean(1), s=(side, side)).flatten(1)
    scores, places = surfaces.max(1)
    for angle, linear, score, place in zip(angles, linears, scores.tolist(), places.tolist(), strict=True):
        shift = np.array([place % side, place // side], np.float64)
        shift[shift > side / 2] -= side
        middle = second.middle + shift * second.mpp
        affine = Affine(np.column_stack([linear, middle - linear @ first.middle]))
        yield Candidate(affine, score, float(angle), mirror, scale)


def _apart(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The best of those that are neighbours in angle and scale."""
    kept: list[Candidate] = []
    for one in candidates:
        near = any(
            one.mirror == other.mirror
            and abs((one.angle - other.angle + 180) % 360 - 180) <= 2 * ANGLE_STEP
            and abs(math.log(one.scale / other.scale)) <= 1.5 * math.log(SCALE_STEP)
            for other in kept
        )
        if not near:
            kept.append(one)
        if len(kept) == CANDIDATES:
            break
    return kept


def _linear(angle: float, mirror: bool, scale: float) -> Floats:
    """Mirror left to right, then turn clockwise, then scale; 2 x 2."""
    turn = math.radians(angle)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    return scale * rotation @ np.diag([-1.0 if mirror else 1.0, 1.0])


def _unit(images: Tensor) -> Tensor:
    """Images of length 1, each."""
    return images / images.square().sum((-2, -1), keepdim=True).sqrt().clamp_min(1e-9)


def _padded(images: Tensor, side: int) -> Tensor:
    """Images in the middle of a square."""
    height, width = images.shape[-2:]
    top, left = (side - height) // 2, (side - width) // 2
    return F.pad(images, (left, side - width - left, top, side - height - top))


def _turned(images: Tensor, linears: Sequence[Floats], side: int) -> Tensor:
    """Images, C x h x w, laid by each linear map into the middle of a square: N x C x side x side."""
    height, width = images.shape[-2:]
    back = np.linalg.inv(np.stack(linears)) * side / np.array([[width], [height]])
    theta = torch.from_numpy(np.concatenate([back, np.zeros((len(back), 2, 1))], axis=2)).float()
    grid = F.affine_grid(theta, [len(back), images.shape[0], side, side], align_corners=False)
    several = images[None].expand(len(back), -1, -1, -1)
    return F.grid_sample(several, grid, padding_mode="zeros", align_corners=False)
