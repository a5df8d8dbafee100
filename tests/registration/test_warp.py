import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from restain.registration.field import Affine, Field, Raster, field_of
from restain.registration.transform import Scan, Transform
from restain.registration.warp import places_on, source_limits, warp

BOX = Raster(10.0, 20.0, 40, 30, 0.5)


def some_image(box: Raster, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).uniform(0, 255, (box.height, box.width, 3))
    return ndimage.gaussian_filter(noise, (2, 2, 0)).round().astype(np.uint8)


def test_without_displacement_the_image_stays_as_it_is() -> None:
    image = some_image(BOX)
    drawn, covered = warp(image, BOX, places_on(Field.zero(BOX, 5.0), BOX))
    np.testing.assert_array_equal(drawn, image)
    assert covered.all()


def test_a_shift_by_whole_pixels_moves_them_and_says_what_is_not_covered() -> None:
    image = some_image(BOX)
    shift = Affine(np.array([[1.0, 0, 3 * 0.5], [0, 1, -2 * 0.5]]))
    drawn, covered = warp(image, BOX, places_on(shift, BOX))
    np.testing.assert_array_equal(drawn[2:, :-3], image[:-2, 3:])
    np.testing.assert_array_equal(drawn[0, :-3], image[0, 3:])  # beyond the edge, the edge
    expected = np.zeros((30, 40), bool)
    expected[2:, :-3] = True
    np.testing.assert_array_equal(covered, expected)


def test_an_image_at_another_scale_is_drawn_at_the_scale_of_the_box() -> None:
    fine = Raster(10.0, 20.0, 80, 60, 0.25)
    x, y = np.meshgrid(fine.columns, fine.rows)
    ramp = np.stack([4 * x, 4 * y, x + y], -1).round().astype(np.uint8)
    drawn, covered = warp(ramp, fine, places_on(Affine.identity(), BOX))
    x, y = np.meshgrid(BOX.columns, BOX.rows)
    inner = np.s_[2:-2, 2:-2]
    np.testing.assert_allclose(drawn[inner], np.stack([4 * x, 4 * y, x + y], -1)[inner], atol=1)
    assert covered.all()


def test_what_must_be_read_holds_every_place() -> None:
    turn = Affine(np.array([[0.8, -0.6, 3.0], [0.6, 0.8, 1.0]]))
    field = field_of(turn, BOX, 5.0)
    places = places_on(field, BOX)
    np.testing.assert_allclose(places, places_on(turn, BOX), atol=1e-9)
    left, top, right, bottom = source_limits(places)
    np.testing.assert_array_equal([left, top], places.min(axis=(1, 2)))
    np.testing.assert_array_equal([right, bottom], places.max(axis=(1, 2)))


def test_places_of_a_transform_are_those_point_by_point() -> None:
    scan = Scan("slide", (40, 30), 0.5)
    turn = Affine(np.array([[0.8, -0.6, 3.0], [0.6, 0.8, 1.0]]))
    wave = field_of(lambda points: points + np.sin(points[:, ::-1] / 4), BOX, 3.0)
    x, y = np.meshgrid(BOX.columns, BOX.rows)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    for bend in (None, wave):
        transform = Transform(scan, scan, turn, bend)
        np.testing.assert_allclose(places_on(transform, BOX), transform(points).T.reshape(2, *x.shape), atol=1e-9)
