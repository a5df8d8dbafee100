from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from restain.data.phantom import GRADE_LIMITS, KINDS, PhantomPair, PhantomSettings, draw_pair
from restain.data.phantom.displacement import Displacement
from restain.data.phantom.render import Staining, draw_staining, photograph
from restain.errors import ConfigError
from restain.stains import dab_density

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def drawn() -> Callable[[str], list[PhantomPair]]:
    """Some pairs of each marker, drawn once."""
    pairs = {
        marker: [draw_pair(seed, PhantomSettings(size_px=160, marker=marker)) for seed in range(12)]
        for marker in ("membrane", "nuclear")
    }
    return pairs.__getitem__


def test_the_same_seed_gives_the_same_bytes(drawn: Callable[[str], list[PhantomPair]]) -> None:
    first, again = drawn("membrane")[4], draw_pair(4, PhantomSettings(size_px=160))
    for name in ("he", "ihc", "ihc_aligned", "displacement"):
        assert getattr(first, name).tobytes() == getattr(again, name).tobytes()
    assert first.cells.records() == again.cells.records()


def test_drawing_leaves_the_global_generators_alone() -> None:
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    draw_pair(0, PhantomSettings(size_px=64))
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_other_seeds_give_other_pairs(drawn: Callable[[str], list[PhantomPair]]) -> None:
    assert len({pair.he.tobytes() for pair in drawn("membrane")}) == 12


@pytest.mark.parametrize("size_px", [64, 97, 130])
def test_any_size(size_px: int) -> None:
    pair = draw_pair(2, PhantomSettings(size_px=size_px))
    for image in (pair.he, pair.ihc, pair.ihc_aligned):
        assert image.shape == (size_px, size_px, 3)
        assert image.dtype == np.uint8
    assert pair.displacement.shape == (2, 64, 64)
    assert pair.displacement.dtype == np.float16
    cells = pair.cells
    assert ((cells.x >= -0.5) & (cells.x < size_px - 0.5) & (cells.y >= -0.5) & (cells.y < size_px - 0.5)).all()


def _moved_back(pair: PhantomPair, sign: float) -> NDArray[np.float64]:
    """The displaced IHC read at p + sign·d(p), from what a pair carries alone."""
    size = pair.ihc.shape[0]
    y, x = np.mgrid[:size, :size].astype(float)
    field = pair.displacement.astype(float)
    dx, dy = (ndimage.map_coordinates(part, np.stack([y, x]) * 63 / (size - 1), order=1) for part in field)
    places = np.stack([y + sign * dy, x + sign * dx])
    moved = (ndimage.map_coordinates(pair.ihc[..., band].astype(float), places, order=1) for band in range(3))
    return np.stack(list(moved), axis=-1)


@pytest.mark.parametrize("seed", [1, 6])
def test_the_displacement_says_where_to_find_each_place(seed: int) -> None:
    pair = draw_pair(seed, PhantomSettings(size_px=256, depth_um=0))
    inside = slice(30, -30), slice(30, -30)
    truth = ndimage.gaussian_filter(pair.ihc_aligned.astype(float), (1, 1, 0))

    def error(image: NDArray[np.floating]) -> float:
        return float(np.abs(ndimage.gaussian_filter(image.astype(float), (1, 1, 0)) - truth)[inside].mean())

    assert error(_moved_back(pair, 1)) < 1.5
    assert error(pair.ihc) > 5
    assert error(_moved_back(pair, -1)) > 5


def test_a_neighbouring_section_continues_the_tissue_but_not_every_nucleus() -> None:
    pair = draw_pair(6, PhantomSettings(size_px=256))
    inside = slice(30, -30), slice(30, -30)
    back = np.abs(_moved_back(pair, 1) - pair.ihc_aligned)[inside].mean()
    assert 2 < back < 0.9 * np.abs(pair.ihc.astype(float) - pair.ihc_aligned)[inside].mean()


@pytest.mark.parametrize("seed", range(5))
def test_origins_invert_the_displacement(seed: int) -> None:
    displacement = Displacement(seed, 300, 0.25 * 300)
    x, y = displacement.origins()
    dx, dy = displacement.at(x, y)
    row, column = np.mgrid[:300, :300]
    assert np.hypot(x + dx - column, y + dy - row).max() < 0.02


def test_the_stored_field_runs_from_corner_to_corner_and_has_the_length_asked_for() -> None:
    displacement = Displacement(9, 512, 48)
    field = displacement.field()
    for row, column, y, x in ((0, 0, 0, 0), (0, -1, 0, 511), (-1, 0, 511, 0)):
        expected = np.ravel(displacement.at(np.array([x]), np.array([y])))
        np.testing.assert_allclose(field[:, row, column], expected, atol=0.05)
    assert 24 <= np.hypot(*field.astype(float)).max() <= 48.1


def test_no_displacement_leaves_everything_where_it_is() -> None:
    pair = draw_pair(6, PhantomSettings(size_px=64, displacement=0, depth_um=0))
    assert not pair.displacement.any()
    assert np.abs(pair.ihc.astype(int) - pair.ihc_aligned).mean() < 3  # the camera's noise


def _brown(image: Image) -> NDArray[np.float32]:
    return dab_density(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)[0, 0].numpy()


@pytest.mark.parametrize(("marker", "reach"), [("membrane", 2.0), ("nuclear", 0.9)])
def test_positive_cells_are_brown_and_no_others(
    drawn: Callable[[str], list[PhantomPair]], marker: str, reach: float
) -> None:
    brown: dict[tuple[str, bool], list[float]] = {(kind, sign): [] for kind in KINDS for sign in (False, True)}
    for pair in drawn(marker):
        density, cells = _brown(pair.ihc_aligned), pair.cells
        rows, columns = np.mgrid[: density.shape[0], : density.shape[1]]
        for cell in cells.records():
            around = np.hypot(rows - cell["y"], columns - cell["x"]) <= reach * cell["radius"]
            if around.any():
                brown[cell["kind"], cell["positive"]].append(float(density[around].mean()))
    assert not brown["stroma", True]
    assert not brown["lymphocyte", True]
    positive = np.array(brown["tumour", True])
    assert len(positive) > 100
    for kind in KINDS:
        negative = np.array(brown[kind, False])
        ranks = (positive[:, None] > negative[None, :]).mean()
        assert ranks > 0.95, f"{kind}: a positive cell is browner in only {ranks:.2f} of all comparisons"
        assert np.median(negative) < 0.12 < np.median(positive)


def test_all_grades_occur_and_follow_the_positive_fraction(drawn: Callable[[str], list[PhantomPair]]) -> None:
    pairs = [*drawn("membrane"), *(draw_pair(seed, PhantomSettings(size_px=96)) for seed in range(12, 30))]
    assert {pair.grade for pair in pairs} == {0, 1, 2, 3}
    for pair in pairs:
        assert pair.grade == sum(pair.cells.positive_fraction >= limit for limit in GRADE_LIMITS)


def test_a_slide_without_stain_is_glass_and_one_with_endless_stain_is_black() -> None:
    staining = draw_staining(np.random.default_rng(1), "he")
    still = np.zeros((4, 5), np.float32)
    bare = photograph(np.zeros((2, 4, 5), np.float32), staining, still)
    np.testing.assert_array_equal(bare, np.broadcast_to(np.rint(255 * staining.glass), (4, 5, 3)))
    assert not photograph(np.full((2, 4, 5), 1e4, np.float32), staining, still).any()


def test_twice_the_stain_lets_the_square_of_the_light_through() -> None:
    vectors = np.array([[0.2, 0.5, 0.7], [0.6, 0.3, 0.1]])
    staining = Staining(vectors, np.ones(2), np.ones(3))
    amounts, still = np.full((2, 1, 1), 0.25, np.float32), np.zeros((1, 1), np.float32)
    once, twice = (photograph(times * amounts, staining, still)[0, 0] / 255 for times in (1, 2))
    np.testing.assert_allclose(twice, once**2, atol=2 / 255)
    np.testing.assert_allclose(once, 10 ** -(0.25 * vectors.sum(0)), atol=1 / 255)


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"size_px": 63}, "64"),
        ({"marker": "cytoplasm"}, "membrane"),
        ({"mpp": 5}, "0.1 to 2"),
        ({"displacement": 0.5}, "0.25"),
        ({"depth_um": -1}, "100"),
    ],
)
def test_settings_that_cannot_be_drawn_are_refused(wrong: dict[str, float], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PhantomSettings(**wrong)
