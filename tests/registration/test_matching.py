import numpy as np
import torch
from scipy import ndimage

from restain.registration.field import Affine, Field, Raster, field_of
from restain.registration.matching import Structure, correlation, highest, match_blocks

BOX = Raster(0.0, 0.0, 160, 128, 1.0)


def some_structure(box: Raster, seed: int = 0) -> Structure:
    noise = np.random.default_rng(seed).normal(size=(box.height, box.width))
    values = ndimage.gaussian_filter(noise, 2.5)
    return Structure(torch.from_numpy(values / values.std()).float(), torch.ones(box.height, box.width), box)


def displaced(structure: Structure, moved: Affine | Field) -> Structure:
    """The section in which what lies at p is found at moved(p)."""
    back = moved.inverse if isinstance(moved, Affine) else moved.led_back
    return structure.seen_through(back, structure.box)


def test_correlation_is_the_weighted_coefficient_at_every_place() -> None:
    rng = np.random.default_rng(0)
    template, region = rng.normal(size=(5, 6)), rng.normal(size=(9, 9))
    weights, around = rng.uniform(size=(5, 6)), rng.uniform(size=(9, 9))
    found = correlation(*(torch.from_numpy(x)[None].float() for x in (template, weights, region, around)), 0.0)[0]
    assert found.shape == (5, 4)
    for y in range(5):
        for x in range(4):
            part = np.s_[y : y + 5, x : x + 6]
            both = (weights * around[part]).ravel()
            covariance = np.cov(template.ravel(), region[part].ravel(), aweights=both, ddof=0)
            expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
            np.testing.assert_allclose(found[y, x], expected, atol=1e-5)


def test_correlation_asks_for_overlap_and_for_something_to_see() -> None:
    template, region = torch.randn(1, 4, 4), torch.randn(1, 8, 8)
    empty = torch.zeros(1, 8, 8)
    assert (correlation(template, torch.ones(1, 4, 4), region, empty, 0.5) == -1).all()
    assert (correlation(torch.ones(1, 4, 4), torch.ones(1, 4, 4), region, torch.ones(1, 8, 8), 0.5) == -1).all()


def test_the_highest_peak_is_found_between_the_steps() -> None:
    y, x = torch.meshgrid(torch.arange(21.0), torch.arange(17.0), indexing="ij")
    top = 1 - ((x - 7.3) ** 2 + (y - 12.8) ** 2) / 400
    top[3, 2] = 0.97
    place, height, other = highest(top[None], apart=6)
    torch.testing.assert_close(place, torch.tensor([[7.3, 12.8]]), atol=1e-3, rtol=0)
    assert height > 0.99
    torch.testing.assert_close(other, torch.tensor([0.97]))


def test_a_shift_is_found_to_a_fraction_of_a_pixel() -> None:
    first = some_structure(BOX)
    shift = Affine(np.array([[1, 0, 4.3], [0, 1, -2.6]]))
    matches = match_blocks(first, displaced(first, shift), Affine.identity(), block_px=32, step_px=16, reach_px=8)
    assert len(matches) > 60
    inner = (np.abs(matches.points - (80, 64)) < (56, 40)).all(1)
    np.testing.assert_allclose(matches.moved[inner], shift(matches.points[inner]), atol=0.3)


def test_blocks_are_sought_where_the_map_expects_them() -> None:
    first = some_structure(BOX)
    far = Affine(np.array([[1, 0, 20.0], [0, 1, -9.0]]))
    bend = field_of(lambda points: far(points) + np.sin(points / 25.0), BOX, 20.0)
    second = displaced(first, bend)
    found = match_blocks(first, second, far, block_px=32, step_px=16, reach_px=6)
    inner = (np.abs(found.points - (70, 70)) < (40, 30)).all(1)
    assert np.median(np.linalg.norm(found.moved - bend(found.points), axis=1)[inner]) < 0.3
    lost = match_blocks(first, second, Affine.identity(), block_px=32, step_px=16, reach_px=6)
    assert np.median(lost.confidence) < 0.5 * np.median(found.confidence)


def test_what_has_no_weight_is_not_matched() -> None:
    first = some_structure(BOX)
    half = first.weights.clone()
    half[:, 80:] = 0
    matches = match_blocks(
        Structure(first.values, half, BOX), first, Affine.identity(), block_px=32, step_px=16, reach_px=4
    )
    assert len(matches)
    assert matches.points[:, 0].max() < 80 + 16
