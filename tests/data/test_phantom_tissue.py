import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from restain.data.phantom import KINDS, Section, Tissue, Window
from restain.data.phantom.cells import TUMOUR, Population
from restain.data.phantom.noise import Noise
from restain.data.phantom.territories import divide


@pytest.fixture(scope="module")
def section() -> Section:
    return Tissue(seed=3).draw(Window(400, -250, 256, 256))


def test_noise_has_mean_0_and_deviation_1() -> None:
    places = np.arange(0, 3000, 7.0)
    values = Noise(key=1, pitch_um=9).grid(places, places)
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.08


def test_noise_is_the_same_on_a_grid_and_at_points() -> None:
    noise, xs, ys = Noise(key=2, pitch_um=3, depth_um=10), np.linspace(-20, 40, 30), np.linspace(7, 90, 25)
    x, y = np.meshgrid(xs, ys)
    np.testing.assert_allclose(noise.grid(xs, ys, 5.0), noise.sample(x, y, 5.0), atol=1e-5)


def test_noise_changes_slowly_with_depth_and_keeps_its_deviation() -> None:
    noise, places = Noise(key=3, pitch_um=5, depth_um=30), np.arange(0, 1500, 6.0)
    above, below, deep = (noise.grid(places, places, z) for z in (0.0, 5.0, 30 * np.pi / 2))
    assert np.corrcoef(above.ravel(), below.ravel())[0, 1] > 0.95
    assert abs(np.corrcoef(above.ravel(), deep.ravel())[0, 1]) < 0.1
    assert abs(below.std() - above.std()) < 0.1


@settings(max_examples=8)
@given(
    x=st.integers(-200_000, 200_000),
    y=st.integers(-200_000, 200_000),
    inset=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    depth_um=st.sampled_from([0.0, 4.0]),
    mpp=st.sampled_from([0.5, 0.2527]),
)
def test_windows_that_overlap_agree_bit_for_bit(
    x: int, y: int, inset: tuple[int, int], depth_um: float, mpp: float
) -> None:
    tissue, (right, down) = Tissue(seed=11, mpp=mpp), inset
    whole = tissue.draw(Window(x, y, 130, 121), depth_um)
    part = tissue.draw(Window(x + right, y + down, 64, 57), depth_um)
    for layer, piece in zip(whole.layers, part.layers, strict=True):
        np.testing.assert_array_equal(layer[down : down + 57, right : right + 64], piece)


def test_every_cell_belongs_to_one_of_two_neighbouring_windows() -> None:
    tissue = Tissue(seed=5)
    whole = tissue.draw(Window(10, 20, 200, 90)).cells
    halves = [tissue.draw(Window(x, 20, 100, 90)).cells for x in (10, 110)]
    assert len(whole.x) > 30
    assert sorted(whole.chance) == sorted(np.concatenate([half.chance for half in halves]))


def test_glass_is_empty() -> None:
    tissue = Tissue(seed=1, coverage=1e-9)
    drawn = tissue.draw(Window(0, 0, 64, 64))
    assert len(drawn.cells.x) == 0
    assert all(not layer.any() for layer in drawn.layers)


def test_pixels_go_to_the_cell_with_the_nearest_outline(section: Section) -> None:
    cells = section.cells
    xs, ys = 200 + np.arange(0, 128, 2.9), -125 + np.arange(0, 128, 3.7)
    found = divide(cells, xs, ys)
    x, y = np.meshgrid(xs, ys)
    distances = np.stack([_distance(cells, index, x, y) for index in range(len(cells.x))])
    owned = found.owner < len(cells.x)
    assert owned.mean() > 0.3
    np.testing.assert_array_equal(found.owner[owned], distances.argmin(0)[owned])
    np.testing.assert_allclose(found.distance[owned], distances.min(0)[owned], rtol=1e-4)


def _distance(cells: Population, index: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance from a cell's centre in its own outline, infinite beyond its reach; the slow definition."""
    dx, dy = x - cells.x[index], y - cells.y[index]
    cos, sin = np.cos(float(cells.angle[index])), np.sin(float(cells.angle[index]))
    distance = np.hypot((cos * dx + sin * dy) / cells.long_um[index], (cos * dy - sin * dx) / cells.short_um[index])
    reach = {"tumour": 1.75, "stroma": 1.15, "lymphocyte": 1.3}[KINDS[cells.kind[index]]]
    return np.where(distance <= reach, distance, np.inf)


def test_a_nucleus_lies_where_its_cell_is_listed(section: Section) -> None:
    chromatin, cells = section.layers.chromatin, section.cells
    column, row = (cells.x / 0.5 - 400).astype(int), (cells.y / 0.5 + 250).astype(int)
    assert (chromatin[row, column] > 0.1).mean() > 0.99
    assert np.median(chromatin[row, column]) > 4 * np.median(chromatin)


def test_all_kinds_of_cells_occur(section: Section) -> None:
    assert set(section.cells.kind) == {0, 1, 2}
    assert not section.cells.positive[section.cells.kind != TUMOUR].any()


def test_the_same_tissue_at_another_resolution() -> None:
    fine = Tissue(seed=8, mpp=0.5).draw(Window(60, 100, 128, 128)).layers.chromatin
    coarse = Tissue(seed=8, mpp=1.0).draw(Window(30, 50, 64, 64)).layers.chromatin
    halved = fine.reshape(64, 2, 64, 2).mean((1, 3))
    assert np.corrcoef(halved.ravel(), coarse.ravel())[0, 1] > 0.9


def test_a_deeper_section_keeps_some_cells_loses_some_and_meets_others() -> None:
    tissue, window = Tissue(seed=4), Window(0, 0, 300, 300)
    here, below, far = (tissue.draw(window, depth_um).cells for depth_um in (0.0, 4.0, 60.0))
    stays = np.isin(here.chance, below.chance)
    assert 0.35 < stays.mean() < 0.85
    assert 0.35 < np.isin(below.chance, here.chance).mean() < 0.85
    assert np.isin(here.chance, far.chance).sum() == 0
    expression = dict(zip(below.chance, below.expression, strict=True))
    for chance, value in zip(here.chance[stays], here.expression[stays], strict=True):
        assert expression[chance] == value


def test_looks_tell_most_of_positivity_but_not_all() -> None:
    sections = [Tissue(seed).draw(Window(0, 0, 160, 160)).cells for seed in range(20)]
    tumour = [cells.chosen(cells.kind == TUMOUR) for cells in sections]
    right = np.concatenate([(cells.looks > 0.5) == cells.positive for cells in tumour])
    radius = np.concatenate([cells.long_um * cells.short_um for cells in tumour]) ** 0.5
    positive = np.concatenate([cells.positive for cells in tumour])
    assert 0.85 < right.mean() < 0.97
    assert radius[positive].mean() > 1.12 * radius[~positive].mean()
