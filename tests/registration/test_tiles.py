import numpy as np
import torch

from restain.registration.channels import Channels, shared_channels
from restain.registration.coarse import matched_blocks, turn_and_shift
from restain.registration.field import Affine, Field, Raster, field_of
from restain.registration.refine import refined
from restain.registration.tiles import align_tile
from tests.registration.conftest import Section

POINTS = np.stack(np.meshgrid(np.arange(24, 240, 8.0), np.arange(24, 240, 8.0)), -1).reshape(-1, 2)


def missed(found: Field, truth: Field) -> float:
    return float(np.median(np.linalg.norm(found(POINTS) - truth(POINTS), axis=1)))


def test_a_known_displacement_is_found_within_a_fraction_of_a_pixel(section: Section, bend: Field) -> None:
    found = align_tile(section.he, section.displaced(bend))
    assert missed(found.field, Field.zero(section.box, 16.0)) > 10
    assert missed(found.field, bend) < 0.5
    assert found.figures.correlation_after > 0.8
    assert found.figures.smallest_determinant > 0.5


def test_sections_in_register_are_left_where_they_are(section: Section) -> None:
    found = align_tile(section.he, section.ihc)
    assert missed(found.field, Field.zero(section.box, 16.0)) < 0.2


def test_a_larger_tile_is_aligned_alike_in_its_own_pixels(section: Section, bend: Field) -> None:
    he, ihc = (
        torch.nn.functional.interpolate(image, scale_factor=3, mode="bilinear").clamp(-1, 1)
        for image in (section.he, section.displaced(bend))
    )
    found = align_tile(he, ihc)
    np.testing.assert_allclose(np.median(found.field(3 * POINTS) / 3 - bend(POINTS), axis=0), 0, atol=0.3)


def test_a_blank_tile_leads_to_no_field_that_folds(section: Section) -> None:
    blank = torch.ones_like(section.ihc)
    for he, ihc in ((section.he, blank), (blank, section.ihc), (blank, blank)):
        found = align_tile(he, ihc)
        assert np.isfinite(found.field.coefficients).all()
        assert found.figures.smallest_determinant > 0
        assert found.figures.correlation_after < 0.1


def test_turn_and_shift_are_those_of_the_pair(section: Section) -> None:
    turn = np.deg2rad(6)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    truth = field_of(Affine(np.column_stack([linear, [128, 128] - linear @ [128, 128] + [20, -12]])), section.box, 16.0)
    first, second = (
        shared_channels(image, 256).halved().normalised(1, 25) for image in (section.he, section.displaced(truth))
    )
    found, correlation = turn_and_shift(first, second)
    np.testing.assert_allclose(found(POINTS), truth(POINTS), atol=2.0)
    assert correlation > 0.5


def test_blocks_find_what_the_map_leaves_over(section: Section) -> None:
    shift = field_of(Affine(np.array([[1, 0, 7.0], [0, 1, -5.0]])), section.box, 16.0)
    first, second = (shared_channels(image, 256).normalised(1, 31) for image in (section.he, section.displaced(shift)))
    matches = matched_blocks(first, second, Affine.identity(), block_px=48, step_px=24, reach_px=12)
    inner = (np.abs(matches.points - 128) < 80).all(1)
    assert inner.sum() > 20
    np.testing.assert_allclose(matches.moved[inner], shift(matches.points[inner]), atol=0.6)
    assert (matches.confidence >= 0).all()
    assert (matches.confidence <= 1).all()


def test_refinement_reaches_the_truth_from_nearby(section: Section, bend: Field) -> None:
    first, second = (shared_channels(image, 256) for image in (section.he, section.displaced(bend)))
    near = field_of(lambda points: bend(points) + 2.5, section.box, 12.0)
    field = refined(first, second, near)
    assert missed(near, bend) > 3
    assert missed(field, bend) < 0.5


def test_channels_are_of_the_same_structure_in_both_stains(section: Section) -> None:
    he, ihc = (shared_channels(image, 256) for image in (section.he, section.ihc))
    assert he.values.shape == (2, 256, 256)
    assert he.pitch == 1
    haematoxylin = np.corrcoef(he.values[0].ravel(), ihc.values[0].ravel())[0, 1]
    assert haematoxylin > 0.9
    assert shared_channels(section.he, 128).pitch == 2


def test_normalisation_knows_no_strength_and_no_offset() -> None:
    values = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    plain, stained = (Channels(image, 1.0).normalised(0, 15).values for image in (values, 5 * values + 2))
    np.testing.assert_allclose(plain, stained, rtol=0.05, atol=1e-3)
    assert abs(plain.mean()) < 0.05
    np.testing.assert_allclose(plain.std(), 1, atol=0.1)
    assert np.abs(Channels(np.full((1, 9, 9), 0.7, np.float32), 1.0).normalised(1, 5).values).max() < 1e-3


def test_channels_at_their_own_places_are_themselves() -> None:
    channels = Channels(np.random.default_rng(0).normal(size=(2, 7, 9)).astype(np.float32), 2.5)
    values, inside = channels.at(np.stack(np.meshgrid(channels.box.columns, channels.box.rows)))
    np.testing.assert_allclose(values, channels.values, atol=1e-5)
    np.testing.assert_allclose(inside, 1, atol=1e-5)
    outside = channels.at(np.full((2, 1, 1), -50.0))
    assert float(np.abs(outside[0]).max()) == 0
    assert Raster(0, 0, 9, 7, 2.5) == channels.box
