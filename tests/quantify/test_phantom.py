"""On drawn tissue the cells are known: counts and positivity come out with less than 10 % error.

The tiles are others than those that the segmentation's constants were chosen on.
"""

import numpy as np
import pytest
from scipy.spatial import KDTree

from restain.data.phantom import PhantomSettings, draw_pair
from restain.data.phantom.pair import PhantomCells
from restain.quantify import Cells, QuantifySettings, quantify_image
from restain.quantify.scores import positive_fraction
from restain.quantify.tally import LEAST_POSITIVE, Tally
from restain.stains import Marker

SEEDS = range(40, 44)


@pytest.mark.parametrize("marker", ["nuclear", "membrane"])
def test_counts_and_positivity_are_those_that_were_drawn(marker: Marker) -> None:
    least = LEAST_POSITIVE[marker]
    total, cells, positive = Tally(), 0, 0
    for seed in SEEDS:
        pair = draw_pair(seed, PhantomSettings(size_px=384, marker=marker))
        measured = quantify_image(pair.ihc_aligned, QuantifySettings(0.5, marker))
        counted = measured.tally()
        truth = pair.cells.positive
        assert _right(measured.cells, pair.cells) > 0.8
        assert counted.cells == pytest.approx(len(truth), rel=0.15)
        assert positive_fraction(counted.counts, least) == pytest.approx(truth.mean(), abs=0.07)
        total, cells, positive = total + counted, cells + len(truth), positive + int(truth.sum())
    assert total.cells == pytest.approx(cells, rel=0.1)
    assert sum(total.counts[least:]) == pytest.approx(positive, rel=0.1)
    assert positive_fraction(total.counts, least) == pytest.approx(positive / cells, rel=0.1)


def _right(found: Cells, drawn: PhantomCells) -> float:
    """F1 of the nuclei: a right one and a drawn one are each other's nearest, at most 3 µm apart."""
    here, there = (np.stack([cells.x, cells.y], 1) for cells in (found, drawn))
    distance, partner = KDTree(there).query(here)
    _, back = KDTree(here).query(there)
    right = (back[partner] == np.arange(len(here))) & (distance <= 3 / 0.5)
    return float(2 * right.sum() / (len(here) + len(there)))
