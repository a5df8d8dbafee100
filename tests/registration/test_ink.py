"""Ink is told from every mixture of stains by its colour, and does not count in registration."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from restain.image import RGB
from restain.registration.ink import glass_of, ink_of
from restain.registration.overview import look
from restain.registration.search import find_lie
from restain.slides.reader import open_slide
from tests.registration.islands import SIDE_PX, Islands, light, turned

SaveSlide = Callable[[str, RGB], Path]
amount = st.floats(0, 2)


def inked(rgb: RGB, ink: tuple[int, int, int], seed: int) -> tuple[RGB, np.ndarray]:
    """A loop and a stroke of a pen over a slide, and where they are."""
    rows, columns = np.mgrid[0 : rgb.shape[0], 0 : rgb.shape[1]] / SIDE_PX
    y, x = np.random.default_rng(seed).uniform(0.4, 0.6, 2)
    loop = np.abs(np.hypot(rows - y, columns - x) - 0.2) < 0.012
    where = loop | (np.abs(columns - x + 0.1 * rows) < 0.012)
    return np.where(where[..., None], rgb * 0.15 + 0.85 * np.array(ink), rgb).astype(np.uint8), where


@pytest.mark.parametrize("ink", [(28, 40, 130), (20, 105, 70), (30, 30, 34)])
def test_ink_is_found_on_glass_and_on_tissue(islands: Islands, ink: tuple[int, int, int]) -> None:
    rgb, where = inked(islands.he(), ink, 0)
    found = ink_of(rgb, 4.0)
    assert found[where].mean() > 0.99
    distance = ndimage.distance_transform_edt(~where)[found]
    assert (distance <= 6).mean() > 0.98  # px; 24 µm of margin, and hardly any of the densest tissue


@given(amount, amount, amount)
def test_no_mixture_of_stains_is_ink(haematoxylin: float, eosin: float, dab: float) -> None:
    rgb = light(*np.zeros((3, 40, 40)))
    rgb[10:30, 10:30] = light(*(np.full((20, 20), part) for part in (haematoxylin, eosin, dab))).mean((0, 1))
    darkest = rgb[20, 20, :2].astype(float)
    found = ink_of(rgb, 8.0)
    assert not found.any() or darkest.min() < 12  # 8-bit levels near black have no colour left


def test_glass_is_what_is_brightest(islands: Islands) -> None:
    np.testing.assert_allclose(glass_of(islands.ihc()), 240, atol=3)
    assert (glass_of(np.zeros((8, 8, 3), np.uint8)) == 1).all()


def test_pen_marks_do_not_count(islands: Islands, save_slide: SaveSlide) -> None:
    true = turned(30)
    slides = [
        save_slide("he", inked(islands.he(), (30, 30, 34), 1)[0]),
        save_slide("ihc", inked(islands.ihc(true.inverse), (28, 40, 130), 2)[0]),
    ]
    with open_slide(slides[0]) as first, open_slide(slides[1]) as second:
        he, ihc = look(first), look(second)
        lie = find_lie(he, ihc, mirror=False, any_scale=False)
    assert lie.agreement > 0.9
    middle = np.array([[0.4, 0.5]]) * SIDE_PX * 4
    np.testing.assert_allclose(lie.affine(middle), true(middle), atol=8)
    assert not (he.tissue & he.ink).any()
    assert (he.worth[he.ink] == 0).all()
