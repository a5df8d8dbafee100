"""Amount and place of DAB: known slides of stain, slow definitions, independent libraries."""

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from skimage.metrics import contingency_table
from torch import Tensor
from torch.testing import assert_close

from restain.image import to_tensor
from restain.metrics.expression import (
    dab_densities,
    dice,
    iou,
    mean_absolute_difference,
    pearson,
    positive_areas,
    positive_densities,
)
from restain.stains import STAIN_VECTORS, beer_lambert, dab_density, positive_mask, to_unit


def stained(density: Tensor) -> Tensor:
    """Images whose DAB density is known: N x H x W to RGB in [0, 1], over some haematoxylin."""
    blue = torch.full_like(density, 0.2)
    return beer_lambert(torch.stack([blue, torch.zeros_like(blue), density], 1), STAIN_VECTORS)


def test_density_of_a_tile_is_the_mean_of_what_was_put_on_it() -> None:
    density = torch.rand(4, 9, 8, generator=torch.Generator().manual_seed(0))
    found = dab_densities(stained(density), stained(density / 2))
    mean = density.mean((1, 2))
    assert_close(found, torch.stack([mean, mean / 2], 1), rtol=0, atol=1e-5)


def test_density_does_not_depend_on_the_size_of_a_tile() -> None:
    tile = stained(torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert_close(dab_densities(tile.repeat(1, 1, 3, 2), tile.repeat(1, 1, 3, 2)), dab_densities(tile, tile))


def test_white_has_no_density_and_areas_follow_the_mask() -> None:
    white = torch.ones(2, 3, 6, 6)
    assert dab_densities(white, white).abs().max() < 1e-6
    assert positive_areas(white, white).eq(0).all()
    density = torch.zeros(1, 6, 6)
    density[:, :2] = 0.8
    assert positive_areas(stained(density), stained(density.mT)).tolist() == [[4, 12, 12]]


def test_the_density_of_the_positive_area_is_that_of_its_pixels_alone() -> None:
    density = torch.full((2, 6, 6), 0.1)
    density[0, :2] = 0.8
    density[0, 2] = 0.2
    found = positive_densities(stained(density), stained(density / 2))
    assert_close(found[0], torch.tensor([0.6, 0.4]), rtol=0, atol=1e-4)  # (2 × 0.8 + 0.2) / 3; 0.1 is not positive
    assert found[1].isnan().all(), "nothing is positive"


def test_areas_equal_a_contingency_table() -> None:
    density = torch.rand(2, 1, 20, 20, generator=torch.Generator().manual_seed(2)) * 0.3
    virtual, real = stained(density[0]), stained(density[1])
    table = contingency_table(*(positive_mask(images).int().numpy().ravel() for images in (real, virtual)))
    counts = table.toarray()
    expected = [counts[1, 1], counts[:, 1].sum(), counts[1].sum()]
    np.testing.assert_allclose(positive_areas(virtual, real)[0], expected, rtol=1e-6)


def test_the_metrics_read_densities_from_0_to_1_images_not_from_minus_1_to_1() -> None:
    grey = torch.full((1, 3, 4, 4), 0.5)
    assert_close(dab_densities(grey, grey)[0, 0], dab_density(grey).mean())
    pixels = to_tensor(np.full((4, 4, 3), 128, np.uint8))  # in [-1, 1] this grey is 0.004, nearly black
    assert_close(dab_densities(to_unit(pixels), grey)[0, 0], dab_densities(grey, grey)[0, 0], rtol=0, atol=5e-3)


def test_pearson_equals_scipy_and_ignores_scale() -> None:
    virtual, real = torch.rand(2, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    assert_close(pearson(virtual, real).item(), float(pearsonr(virtual, real).statistic))
    assert_close(pearson(3 * virtual + 1, real), pearson(virtual, real))
    assert_close(pearson(-virtual, virtual).item(), -1.0)
    assert pearson(torch.ones(5), real[:5]).isnan()
    assert pearson(virtual[:1], real[:1]).isnan()
    for count in range(2, 12):  # the mean of equal numbers may be another number
        assert pearson(torch.full((count,), 0.1, dtype=torch.float64), real[:count]).isnan()


def test_dice_and_iou_of_pooled_areas() -> None:
    both, virtual, real = torch.tensor([3.0, 0.0]), torch.tensor([5.0, 1.0]), torch.tensor([4.0, 0.0])
    assert dice(both, virtual, real).item() == pytest.approx(6 / 10)
    assert iou(both, virtual, real).item() == pytest.approx(3 / 7)
    assert dice(real, real, real) == iou(real, real, real) == 1
    nothing = torch.zeros(2)
    assert dice(nothing, nothing, nothing).isnan()


def test_dice_and_iou_say_the_same_in_two_ways() -> None:
    areas = torch.rand(3, 10, generator=torch.Generator().manual_seed(4)).sort(0).values
    overlap = iou(*areas)
    assert_close(dice(*areas), 2 * overlap / (1 + overlap))


def test_mean_absolute_difference_is_symmetric_and_does_not_cancel() -> None:
    virtual, real = torch.tensor([0.0, 2.0]), torch.tensor([1.0, 1.0])
    assert mean_absolute_difference(virtual, real) == mean_absolute_difference(real, virtual) == 1
