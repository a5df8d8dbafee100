import numpy as np
import pytest

from restain.errors import InputError
from restain.registration.field import Affine, Field, Raster
from restain.registration.fitting import Matches, bending, design_matrix, fit_field

BOX = Raster(0.0, 0.0, 512, 384, 0.5)
TURN = Affine(np.array([[0.99, -0.05, 9.0], [0.05, 1.01, -6.0]]))


def some_matches(count: int, moved: Affine | Field, seed: int = 0) -> Matches:
    rng = np.random.default_rng(seed)
    points = rng.uniform((0, 0), (256, 192), (count, 2))
    return Matches(points, moved(points), np.ones(count))


def test_an_affine_map_is_met_exactly_however_stiff_the_field() -> None:
    fit = fit_field(some_matches(40, TURN), BOX, 32.0, smoothing=1000.0, tolerance=1.0)
    points = some_matches(100, TURN, seed=1)
    np.testing.assert_allclose(fit.field(points.points), points.moved, atol=1e-3)


def test_wrong_matches_do_not_count() -> None:
    matches = some_matches(60, TURN)
    moved = matches.moved.copy()
    moved[:20] = np.random.default_rng(3).uniform((0, 0), (256, 192), (20, 2))
    fit = fit_field(Matches(matches.points, moved, matches.confidence), BOX, 32.0, smoothing=40.0, tolerance=1.0)
    np.testing.assert_allclose(fit.field(matches.points), matches.moved, atol=0.1)
    assert fit.believed[20:].all()
    assert fit.believed[:20].sum() <= 1


def test_a_match_without_confidence_does_not_count_at_all() -> None:
    matches = some_matches(30, TURN)
    moved, confidence = matches.moved.copy(), matches.confidence.copy()
    moved[3] += 2.0
    confidence[3] = 0
    with_it = fit_field(Matches(matches.points, moved, confidence), BOX, 32.0, smoothing=20.0, tolerance=5.0)
    chosen = confidence > 0
    without = fit_field(matches[chosen], BOX, 32.0, smoothing=20.0, tolerance=5.0)
    np.testing.assert_allclose(with_it.field.coefficients, without.field.coefficients, atol=1e-9)


def test_bends_shorter_than_the_smoothing_are_damped_by_the_filter_of_a_thin_plate() -> None:
    points = np.stack(np.meshgrid(np.arange(2, 256, 4.0), np.arange(2, 192, 4.0)), -1).reshape(-1, 2)
    smoothing, wave = 10.0, 2 * np.pi / 64.0
    moved = points + np.stack([np.zeros(len(points)), np.sin(wave * points[:, 0])], 1)
    fit = fit_field(Matches(points, moved, np.ones(len(points))), BOX, 8.0, smoothing, tolerance=1e6)
    inner = (np.abs(points - (128, 96)) < (64, 48)).all(1)
    passed = np.abs(fit.field.displacement(points[inner])[:, 1]).max()
    assert passed == pytest.approx(1 / (1 + (smoothing * wave) ** 4), abs=0.05)


def test_the_design_matrix_evaluates_the_field() -> None:
    zero = Field.zero(BOX, 32.0)
    field = Field(np.random.default_rng(0).normal(size=zero.coefficients.shape), zero.origin, zero.spacing)
    points = some_matches(50, field).points
    expected = design_matrix(field, points) @ field.coefficients.reshape(2, -1).T
    np.testing.assert_allclose(expected, field.displacement(points), atol=1e-12)


def test_bending_is_nothing_for_affine_maps_and_the_integral_for_a_parabola() -> None:
    zero = Field.zero(BOX, 32.0)
    _, height, width = zero.coefficients.shape
    x, y = np.meshgrid(np.arange(width) * zero.spacing, np.arange(height) * zero.spacing)
    energy = bending(zero)
    flat = (3 * x - 2 * y + 7).ravel()
    assert flat @ (energy @ flat) == pytest.approx(0, abs=1e-6)
    bent = (x**2 / 2).ravel()  # second derivative 1, so the integral is the area
    area = (width - 2) * height * zero.spacing**2
    assert bent @ (energy @ bent) == pytest.approx(area)


def test_too_few_matches_are_refused() -> None:
    with pytest.raises(InputError, match="2 matches"):
        fit_field(some_matches(2, TURN), BOX, 32.0, smoothing=10.0, tolerance=1.0)
