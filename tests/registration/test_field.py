import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from restain.errors import ShapeError
from restain.registration.field import Affine, Field, Floats, Raster, basis, composed, field_of, slopes

BOX = Raster(100.0, -40.0, 96, 64, 0.5)


def some_field(seed: int = 0, strength: float = 1.0) -> Field:
    zero = Field.zero(BOX, 8.0)
    values = np.random.default_rng(seed).normal(0, strength, zero.coefficients.shape)
    return Field(values, zero.origin, zero.spacing)


def some_points(count: int = 200, beyond: float = 0.0) -> Floats:
    left, top, right, bottom = BOX.limits
    rng = np.random.default_rng(1)
    x, y = rng.uniform(left - beyond, right + beyond, count), rng.uniform(top - beyond, bottom + beyond, count)
    return np.stack([x, y], 1)


TURN = Affine(np.array([[0.98, -0.1, 12.0], [0.11, 1.03, -7.0]]))


def test_zero_moves_nothing() -> None:
    zero = Field.zero(BOX, 8.0)
    points = some_points(beyond=30)
    np.testing.assert_array_equal(zero(points), points)
    np.testing.assert_array_equal(zero.determinants(BOX), np.ones((64, 96)))


def test_inside_a_field_is_the_spline_of_scipy() -> None:
    field, points = some_field(), some_points()
    places = (points - field.origin) / field.spacing
    rows_columns = places[:, ::-1].T
    expected = [ndimage.map_coordinates(part, rows_columns, order=3, prefilter=False) for part in field.coefficients]
    np.testing.assert_allclose(field.displacement(points), np.stack(expected, 1), atol=1e-12)


def test_on_a_box_it_is_the_same_as_at_the_pixels_centres() -> None:
    field = some_field()
    around = Raster(80.0, -60.0, 50, 41, 2.0)  # reaches beyond the control points
    points = np.stack(np.meshgrid(around.columns, around.rows), -1).reshape(-1, 2)
    np.testing.assert_allclose(field.on(around).reshape(2, -1).T, field.displacement(points), atol=1e-12)


def test_beyond_its_points_a_field_goes_on_linearly() -> None:
    field = some_field()
    left, top, *_ = BOX.limits
    line = field.displacement(np.array([[left - distance, top + 9.0] for distance in (0.0, 10.0, 20.0, 30.0)]))
    np.testing.assert_allclose(np.diff(line, axis=0), np.broadcast_to(line[1] - line[0], (3, 2)), atol=1e-12)


def test_a_field_holds_an_affine_map_exactly_everywhere() -> None:
    field, points = field_of(TURN, BOX, 8.0), some_points(beyond=50)
    np.testing.assert_allclose(field(points), TURN(points), atol=1e-9)
    np.testing.assert_allclose(field.jacobian(points), np.broadcast_to(TURN.matrix[:, :2], (200, 2, 2)), atol=1e-9)
    np.testing.assert_allclose(field.determinants(BOX), np.linalg.det(TURN.matrix[:, :2]), atol=1e-9)


def test_the_field_of_a_field_is_that_field() -> None:
    field = some_field()
    again = field_of(field, BOX, field.spacing)
    np.testing.assert_allclose(again.coefficients, field.coefficients, atol=1e-9)


def test_derivatives_are_those_by_differences() -> None:
    field, points, step = some_field(), some_points(beyond=10), 1e-5
    for axis in (0, 1):
        ahead, behind = (points + sign * step * np.eye(2)[axis] for sign in (1, -1))
        numeric = (field(ahead) - field(behind)) / (2 * step)
        np.testing.assert_allclose(field.jacobian(points)[:, :, axis], numeric, atol=1e-6)


def test_determinants_on_a_box_are_those_at_its_points() -> None:
    field = some_field()
    points = np.stack(np.meshgrid(BOX.columns, BOX.rows), -1).reshape(-1, 2)
    expected = np.linalg.det(field.jacobian(points)).reshape(64, 96)
    np.testing.assert_allclose(field.determinants(BOX), expected, atol=1e-12)


def test_a_fold_is_seen() -> None:
    zero = Field.zero(BOX, 8.0)
    values = zero.coefficients.copy()
    values[0, :, 7] -= 20  # one column of control points is drawn over its neighbours
    assert Field(values, zero.origin, zero.spacing).smallest_determinant(BOX) < 0
    assert some_field(strength=0.3).smallest_determinant(BOX) > 0


def test_the_way_back_leads_back() -> None:
    field, points = some_field(strength=0.8), some_points()
    np.testing.assert_allclose(field(field.led_back(points)), points, atol=1e-5)
    back = field.inverse(BOX)
    np.testing.assert_allclose(back(field(points)), points, atol=0.15)  # held at the same spacing, so not exact


def test_the_inverse_of_a_gentle_inverse_is_the_field() -> None:
    zero = Field.zero(BOX, 8.0)
    left, top, right, bottom = BOX.limits

    def gentle(points: Floats) -> Floats:
        x, y = (points[:, 0] - left) / (right - left), (points[:, 1] - top) / (bottom - top)
        return points + np.stack([np.sin(2 * x + y), np.cos(2 * y - x)], 1)

    field = field_of(gentle, BOX, zero.spacing)
    wide = Raster(left - 10, top - 10, 136, 104, 0.5)
    twice = field.inverse(wide).inverse(BOX)
    points = some_points()
    np.testing.assert_allclose(twice(points), field(points), atol=1e-2)


def test_composition_is_one_after_the_other() -> None:
    field, points = some_field(strength=0.3), some_points()
    there_and_back = field_of(composed(TURN, TURN.inverse), BOX, 8.0)
    np.testing.assert_allclose(there_and_back.coefficients, 0, atol=1e-9)
    np.testing.assert_allclose(composed(field, TURN)(points), TURN(field(points)))
    np.testing.assert_allclose(field_of(composed(field, TURN), BOX, 8.0)(points), TURN(field(points)), atol=1e-9)


@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6), st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_affine_maps_compose_as_functions(first: list[float], second: list[float]) -> None:
    one, two = (Affine(np.array(values).reshape(2, 3)) for values in (first, second))
    points = some_points(20)
    np.testing.assert_allclose(two.after(one)(points), two(one(points)), atol=1e-9)


def test_an_affine_map_is_found_again_and_a_point_without_weight_does_not_count() -> None:
    points = some_points(30)
    moved = TURN(points)
    moved[4] += 1000
    weights = np.ones(30)
    weights[4] = 0
    np.testing.assert_allclose(Affine.fitted(points, moved, weights).matrix, TURN.matrix, atol=1e-9)
    np.testing.assert_allclose(TURN.inverse(TURN(points)), points, atol=1e-9)


def test_weights_sum_to_one_and_slopes_to_nothing() -> None:
    places = np.linspace(-5, 30, 101)
    np.testing.assert_allclose(basis(places, 0.0, 2.0, 9).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(basis(places, 0.0, 2.0, 9, slopes).sum(1), 0, atol=1e-12)


def test_too_few_control_points_are_refused() -> None:
    with pytest.raises(ShapeError, match="3"):
        Field(np.zeros((2, 3, 8)), (0, 0), 1.0)
    with pytest.raises(ShapeError, match="3 x 3"):
        Affine(np.eye(3))
