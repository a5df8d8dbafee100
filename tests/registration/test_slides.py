"""Two slides find one another, whatever turn, side and scale; slides that do not belong together are refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from restain.errors import InputError
from restain.image import RGB
from restain.registration.field import Affine, Floats
from restain.registration.fitting import Matches
from restain.registration.overview import Overview, look, pale, shared_tissue
from restain.registration.search import find_lie, refine, robust_affine, search
from restain.registration.slides import Demands, register
from restain.slides.reader import open_slide
from tests.registration.islands import MPP, SIDE_PX, Islands, light, turned

SaveSlide = Callable[[str, RGB], Path]


def grid() -> Floats:
    """Places on the tall island, in µm."""
    x, y = np.meshgrid(np.linspace(0.3, 0.5, 6), np.linspace(0.3, 0.7, 9))
    return np.stack([x.ravel(), y.ravel()], axis=1) * SIDE_PX * MPP


def bent(points: Floats) -> Floats:
    """A gentle bend of up to 20 µm."""
    x, y = points.T / (SIDE_PX * MPP)
    return points + 20 * np.stack([np.sin(5 * y), np.cos(4 * x)], axis=1)


def unbent(points: Floats) -> Floats:
    found = points
    for _ in range(30):
        found = found - (bent(found) - points)
    return found


def test_turn_side_and_bend_are_found(islands: Islands, save_slide: SaveSlide) -> None:
    lie = turned(125, mirror=True, scale=0.97)
    ihc = islands.ihc(lambda points: unbent(lie.inverse(points)))
    with open_slide(save_slide("he", islands.he())) as first, open_slide(save_slide("ihc", ihc)) as second:
        found = register(first, second, Demands(any_scale=False))
    assert found.transform.is_mirrored
    assert found.transform.scale == pytest.approx(0.97, rel=0.03)
    error = np.hypot(*(found.transform(grid()) - lie(bent(grid()))).T)
    assert np.median(error) < 3
    assert error.max() < 8
    assert found.transform.figures["agreement"] > 0.5
    assert found.shared.share > 0.9


def test_a_scale_that_the_file_does_not_say_is_found(islands: Islands, save_slide: SaveSlide) -> None:
    lie = turned(-80, scale=1.6)
    ihc = islands.ihc(lie.inverse, (round(1.6 * SIDE_PX),) * 2)
    with open_slide(save_slide("he", islands.he())) as first, open_slide(save_slide("ihc", ihc)) as second:
        he, ihc_small = look(first), look(second)
    best = search(he, ihc_small, [0.77, 1.19, 1.54], [False])[0]
    assert best.scale == 1.54
    np.testing.assert_allclose(best.affine(grid()), lie(grid()), atol=90)  # what block matching then makes exact
    found = refine(he.structure(), ihc_small.structure(), best.affine, rounds=3)
    np.testing.assert_allclose(found.affine(grid()), lie(grid()), atol=8)
    assert found.is_found


def test_tissue_without_a_partner_is_set_aside(islands: Islands, save_slide: SaveSlide) -> None:
    control = np.concatenate([Islands(9).ihc()[:, 80:260], islands.ihc()], axis=1)
    with open_slide(save_slide("he", islands.he())) as first, open_slide(save_slide("ihc", control)) as second:
        found = register(first, second, HONEST)
    np.testing.assert_allclose(found.transform(grid()), grid() + np.array([180 * MPP, 0]), atol=5)
    assert found.shared.pieces == 1
    alone = found.shared.without_partner
    edge = int(180 * MPP / found.ihc.mpp)
    assert alone[:, :edge].sum() > 0.95 * alone.sum()
    assert found.shared.share > 0.9


HONEST = Demands(mirror=False, any_scale=False)


def refusal(he: Path, ihc: Path, demands: Demands = HONEST) -> str:
    with open_slide(he) as first, open_slide(ihc) as second, pytest.raises(InputError) as refused:
        register(first, second, demands)
    return str(refused.value)


def test_what_does_not_belong_together_is_refused_with_a_figure(islands: Islands, save_slide: SaveSlide) -> None:
    he = save_slide("he", islands.he())
    other = refusal(he, save_slide("other", Islands(2).ihc()), replace(HONEST, mirror=True))
    assert "he.tif and other.tif do not show the same tissue" in other
    assert "% of" in other
    mirrored = save_slide("mirrored", islands.ihc(turned(20, mirror=True).inverse))
    words = refusal(he, mirrored, HONEST)
    assert "allow mirroring" in words
    half = islands.ihc()
    half[:, 150:] = light(*np.zeros((3, SIDE_PX, SIDE_PX - 150)))
    assert "shows" in refusal(he, save_slide("half", half))
    with open_slide(he) as first, open_slide(save_slide("half2", half)) as second:
        assert register(first, second, replace(HONEST, least_shared=0.2)).shared.share < 0.5


def test_blank_and_blurred_slides_are_refused(islands: Islands, save_slide: SaveSlide) -> None:
    he = save_slide("he", islands.he())
    blank = light(*np.zeros((3, SIDE_PX, SIDE_PX)))
    assert "blank.tif shows no tissue" in refusal(he, save_slide("blank", blank))
    blurred = ndimage.gaussian_filter(islands.ihc().astype(float), (4, 4, 0)).astype(np.uint8)
    assert "blurred.tif is blurred" in refusal(he, save_slide("blurred", blurred))


def test_the_lie_is_that_of_the_slow_definition(islands: Islands, save_slide: SaveSlide) -> None:
    """The agreement is the share of blocks within a tolerance of the map; under the true map nearly all, else few."""
    with open_slide(save_slide("he", islands.he())) as first, open_slide(save_slide("ihc", islands.ihc())) as second:
        he, ihc = look(first), look(second)
    true = find_lie(he, ihc, mirror=False, any_scale=False)
    np.testing.assert_allclose(true.affine(grid()), grid(), atol=6)
    assert true.agreement > 0.8
    assert true.is_found


def test_shared_tissue_by_loops() -> None:
    from restain.registration.transform import Scan

    scan = Scan("s", (40, 30), 1.0)
    rng = np.random.default_rng(0)
    masks = [ndimage.gaussian_filter(rng.normal(size=(30, 40)), 2) > 0.02 for _ in range(2)]
    he, ihc = (Overview(scan, 2.0, np.zeros((30, 40, 3), np.uint8), mask, ~mask) for mask in masks)
    shift = Affine(np.array([[1, 0, 7.0], [0, 1, -4.0]]))
    found = shared_tissue(he, ihc, shift, shift.inverse)
    expected = np.zeros((30, 40), bool)
    for row in range(30):
        for column in range(40):
            x, y = (column + 0.5) * 2 + 7, (row + 0.5) * 2 - 4
            inside = 0 <= x < 80 and 0 <= y < 60
            expected[row, column] = masks[0][row, column] and inside and masks[1][int(y // 2), int(x // 2)]
    assert np.array_equal(found.he, expected)
    assert found.share == pytest.approx(expected.sum() / masks[0].sum())


def test_a_robust_affine_map_ignores_wrong_matches() -> None:
    rng = np.random.default_rng(3)
    points = rng.uniform(0, 1000, (60, 2))
    true = turned(2, scale=1.02)
    moved = true(points)
    wrong = rng.random(60) < 0.4
    moved[wrong] += rng.uniform(-120, 120, (int(wrong.sum()), 2))
    found, misses = robust_affine(Matches(points, moved, np.ones(60)), Affine.identity(), 10)
    np.testing.assert_allclose(found(points), true(points), atol=2)
    assert (misses[~wrong] < 3).all()


@pytest.mark.parametrize("glass", [(245, 245, 245), (232, 240, 237)])
def test_pale_tissue_is_told_from_tinted_glass_shadows_and_a_black_border(glass: tuple[int, int, int]) -> None:
    rgb = np.full((120, 160, 3), glass, float)
    rgb[20:60, 20:60] *= (0.90, 0.90, 0.935)  # a weak counterstain
    rgb[20:60, 100:140] *= 0.9  # a shadow
    rgb[80:100, 20:60] *= (1, 1, 0.97)  # glass of a slightly other tint
    rgb[:, :6] = 4
    noise = np.random.default_rng(0).normal(0, 1, rgb.shape)
    found = pale((rgb + noise).clip(0, 255).round().astype(np.uint8), 8.0)
    assert found[24:56, 24:56].all()
    found[15:65, 15:65] = False
    assert not found.any()
