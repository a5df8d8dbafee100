"""Positive regions as objects, against regions that are known."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from restain.errors import InputError
from restain.image import save_image
from restain.metrics import evaluate
from restain.metrics.regions import OVERLAP, SMALLEST_UM2, RegionMap, positive_regions, region_metrics, shared_regions

BROWN, WHITE = (140, 90, 50), (245, 245, 245)


def discs(*places: tuple[int, int, int], side: int = 160) -> NDArray[np.bool_]:
    """Discs as (row, column, radius in px)."""
    y, x = np.mgrid[:side, :side]
    return np.any([(y - row) ** 2 + (x - column) ** 2 <= radius**2 for row, column, radius in places], axis=0)


def test_each_disc_is_a_region_and_a_ring_is_filled() -> None:
    ring = discs((40, 40, 25)) & ~discs((40, 40, 12))
    labels = positive_regions((ring | discs((110, 110, 20))).astype(np.float32), mpp=1)
    assert labels.max() == 2
    assert labels[40, 40] == labels[40, 60] != 0, "the lumen belongs to its gland"
    assert labels[110, 110] not in (0, labels[40, 40])


@pytest.mark.parametrize("mpp", [0.25, 0.5, 1.0])
def test_small_regions_are_dropped_by_their_area_in_um(mpp: float) -> None:
    radius = np.sqrt(SMALLEST_UM2 / np.pi) / mpp
    large, small = (
        positive_regions(discs((80, 80, int(radius * f))).astype(np.float32), mpp).max() for f in (1.3, 0.6)
    )
    assert (large, small) == (1, 0)


def slow_shared(first: RegionMap, second: RegionMap) -> int:
    """By the definition, pair by pair."""
    found = 0
    for here in range(1, first.max() + 1):
        for there in range(1, second.max() + 1):
            one, other = first == here, second == there
            found += (one & other).sum() / (one | other).sum() > OVERLAP
    return int(found)


def test_shared_regions_are_those_of_the_definition() -> None:
    for seed in range(20):
        draws = np.random.default_rng(seed)
        first = ndimage.gaussian_filter(draws.random((60, 60)), 3)
        second = first + 0.3 * ndimage.gaussian_filter(draws.random((60, 60)), 3)
        labels = [ndimage.label(image > np.median(image))[0].astype(np.int32) for image in (first, second)]
        assert shared_regions(*labels) == slow_shared(*labels)
        assert shared_regions(labels[0], labels[0]) == labels[0].max()
    assert shared_regions(np.zeros((4, 4), np.int32), labels[0][:4, :4]) == 0


def test_evaluate_counts_regions_of_all_tiles_together(tmp_path: Path) -> None:
    """Three real regions; the virtual side has two of them, and one too many."""
    real = [discs((40, 40, 22), (110, 110, 20)), discs((80, 80, 30))]
    virtual = [discs((40, 43, 22), (40, 120, 20)), discs((80, 80, 27))]
    for name, masks in (("real", real), ("virtual", virtual)):
        for number, mask in enumerate(masks):
            save_image(tmp_path / name / f"{number}.png", np.where(mask[..., None], BROWN, WHITE).astype(np.uint8))
    found = evaluate(tmp_path / "virtual", tmp_path / "real", extra=region_metrics(1.0))
    assert found.columns["regions_shared"].tolist() == [1, 1]
    assert found.figures["regions_f1"].value == pytest.approx(2 * 2 / (3 + 3))


def test_an_implausible_resolution_is_refused() -> None:
    with pytest.raises(InputError, match="out of range"):
        region_metrics(50)
