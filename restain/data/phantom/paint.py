"""From anatomy and cells to the amount of substance in every pixel: chromatin, cytoplasm, fibres, marker."""

from typing import NamedTuple

import numpy as np

from restain.data.phantom.anatomy import Survey
from restain.data.phantom.cells import LYMPHOCYTE, TUMOUR, Population
from restain.data.phantom.noise import Amounts, Coordinates, Noise, smoothstep, streaks, uniform
from restain.data.phantom.territories import Territories, divide
from restain.randomness import derive_seed


class Layers(NamedTuple):
    """What lies in each pixel of a window, H x W each; 0 is nothing, about 1 is much."""

    chromatin: Amounts
    """What haematoxylin stains."""
    protein: Amounts
    """What eosin stains."""
    marker: Amounts
    """What DAB stains."""


class _Texture(NamedTuple):
    """Noise for everything that is never smooth, fine to coarse, H x W each."""

    grain: Amounts
    clumps: Amounts
    wobble: Amounts
    mottle: Amounts


class _Ground(NamedTuple):
    """What a pixel is part of, H x W each: 0 to 1, or a depth in µm."""

    tissue: Amounts
    """1 in the tissue, lumens and clefts counted in."""
    solid: Amounts
    """1 where the tissue is not hollow."""
    body: Amounts
    """1 in nests and the walls of glands."""
    epithelium_um: Amounts
    lumen_um: Amounts


def paint(
    seed: int, survey: Survey, cells: Population, marker: str, xs: Coordinates, ys: Coordinates, z: float
) -> Layers:
    """Fill every pixel of a window whose pixel centres are the crossings of `xs` and `ys` (µm)."""

    def noise(name: str, pitch_um: float) -> Amounts:
        return Noise(derive_seed(seed, "phantom", name, round(1000 * z)), pitch_um).grid(xs, ys)  # new in each section

    texture = _Texture(noise("grain", 0.55), noise("clumps", 1.0), noise("wobble", 2.2), noise("mottle", 3.5))
    ground = _ground(survey, texture, xs, ys)
    where = divide(cells, xs, ys)
    outline = where.distance + 0.07 * texture.wobble  # no cell is a perfect ellipse
    size = where.spread(cells.nucleus)
    to_nucleus = outline / np.maximum(size, np.float32(1e-3))
    nucleus = smoothstep(1.12, 0.86, to_nucleus) * (size > 0) * ground.tissue
    chromatin = nucleus * _chromatin(cells, where, to_nucleus, texture, xs, ys)
    border_um = 0.5 * where.gap * where.spread(np.sqrt(cells.long_um * cells.short_um))

    looks = where.spread(cells.looks)
    basophilia = 0.10 * ground.body * (1 - 0.6 * looks) * (1 + 0.4 * texture.mottle)
    cytoplasm = _cytoplasm(ground, texture, looks, border_um)
    rim = 0.3 * smoothstep(1.4, 1.0, outline) * where.spread(cells.kind == LYMPHOCYTE)
    fibres = np.maximum(_fibres(seed, survey, texture, xs, ys), rim)
    protein = ground.solid * (ground.body * cytoplasm + (1 - ground.body) * fibres) * (1 - 0.55 * nucleus)
    mucus = 0.025 * (ground.tissue - ground.solid) * (1 + 0.7 * texture.mottle)

    shown = where.spread(_shown(cells))
    if marker == "membrane":
        shown = shown * ground.body * _membrane(ground, texture, border_um) * (1 - 0.7 * nucleus)
    else:
        shown = shown * nucleus * (1 + 0.18 * texture.grain + 0.12 * texture.clumps)
    unspecific = 0.02 * ground.solid
    return Layers(*(np.maximum(layer, 0) for layer in (chromatin + basophilia, protein + mucus, shown + unspecific)))


def _ground(survey: Survey, texture: _Texture, xs: Coordinates, ys: Coordinates) -> _Ground:
    """Draw the borders between regions, roughened."""
    rough = 0.35 * texture.wobble + 0.6 * texture.mottle
    tissue = smoothstep(-0.6, 0.6, survey.tissue.grid(xs, ys) + 1.5 * rough)
    epithelium_um = survey.epithelium.grid(xs, ys) + 0.5 * rough
    lumen_um = survey.lumen.grid(xs, ys) + 0.8 * rough
    cleft = smoothstep(-0.3, 0.7, survey.cleft.grid(xs, ys) + 0.5 * rough)
    solid = tissue * smoothstep(0.7, -0.5, lumen_um) * (1 - cleft)
    return _Ground(tissue, solid, smoothstep(-0.5, 0.5, epithelium_um) * solid, epithelium_um, lumen_um)


def _chromatin(
    cells: Population, where: Territories, to_nucleus: Amounts, texture: _Texture, xs: Coordinates, ys: Coordinates
) -> Amounts:
    """Texture of the nuclei: dark and even in small ones; clear, with a rim and a nucleolus, in active tumour cells."""
    looks = cells.looks  # 0 for cells that are not tumour
    base = np.array([0.66, 0.66, 0.86])[cells.kind] - 0.36 * looks
    base = base * (0.75 + 0.5 * uniform(cells.chance, 11))
    rim = np.array([0.12, 0.05, 0.08])[cells.kind] + 0.22 * looks
    contrast = np.array([0.15, 0.12, 0.22])[cells.kind] + 0.10 * looks
    spot = 0.9 * smoothstep(0.35, 0.75, looks)
    amount = where.spread(base) + where.spread(contrast) * (0.6 * texture.clumps + 0.35 * texture.grain)
    amount += where.spread(rim) * smoothstep(0.55, 0.9, to_nucleus)
    return amount + where.spread(spot) * _nucleoli(cells, where, xs, ys)


def _nucleoli(cells: Population, where: Territories, xs: Coordinates, ys: Coordinates) -> Amounts:
    """One round spot off the centre of each nucleus."""
    turn, shift = 2 * np.pi * uniform(cells.chance, 12), 0.3 * uniform(cells.chance, 13) * cells.nucleus_radius_um
    x, y = cells.x + shift * np.cos(turn), cells.y + shift * np.sin(turn)
    dx = xs[None, :] - np.append(x, 0)[where.owner]
    dy = ys[:, None] - np.append(y, 0)[where.owner]
    return smoothstep(1.25, 0.65, np.sqrt(dx * dx + dy * dy).astype(np.float32))


def _cytoplasm(ground: _Ground, texture: _Texture, looks: Amounts, border_um: Amounts) -> Amounts:
    """Pinker in active cells and towards the lumen, mottled, with pale vacuoles."""
    amount = (0.25 + 0.30 * looks) * (1 + 0.20 * texture.mottle + 0.16 * texture.clumps + 0.08 * texture.grain)
    amount = amount * (1 - 0.5 * smoothstep(0.9, 1.8, texture.mottle))
    return np.asarray(amount + 0.12 * smoothstep(-3.0, -0.5, ground.lumen_um) + 0.07 * smoothstep(0.9, 0.1, border_um))


def _fibres(seed: int, survey: Survey, texture: _Texture, xs: Coordinates, ys: Coordinates) -> Amounts:
    """Wavy bundles of collagen, with white slits between them where the stroma is loose."""
    across, along = survey.across.grid(xs, ys), survey.along.grid(xs, ys)
    loose = survey.loose.grid(xs, ys)
    fine = streaks(derive_seed(seed, "phantom", "fine fibres"), across / 0.9, along / 14)
    coarse = streaks(derive_seed(seed, "phantom", "coarse fibres"), across / 2.6, along / 30)
    bundles = 0.40 + 0.08 * fine + 0.10 * coarse + 0.05 * texture.mottle + 0.03 * texture.grain - 0.07 * loose
    slits = smoothstep(0.2, 1.1, coarse + 0.4 * fine - 1.45 + 0.75 * loose + 0.45 * texture.mottle)
    return np.asarray(np.maximum(bundles, 0.06) * (1 - 0.85 * slits))


def _shown(cells: Population) -> Amounts:
    """Amount of marker that each cell shows: next to none below the threshold, then rising with its expression."""
    shown = 0.03 + np.where(cells.positive, 0.55 + 0.75 * (cells.expression - 0.5), 0.06 * cells.expression)
    return np.where(cells.kind == TUMOUR, shown, 0).astype(np.float32)


def _membrane(ground: _Ground, texture: _Texture, border_um: Amounts) -> Amounts:
    """A granular line along every border of a cell, and a blush inside."""
    edge_um = np.minimum(border_um, 0.8 * np.abs(ground.epithelium_um) + 0.3)
    line = smoothstep(1.5, 0.2, edge_um - 0.25 * texture.clumps - 0.2 * texture.grain)
    line = line * (0.75 + 0.3 * texture.mottle + 0.25 * texture.clumps)
    return np.asarray(np.maximum(line, 0) + 0.20 * (1 + 0.4 * texture.mottle + 0.3 * texture.clumps))
