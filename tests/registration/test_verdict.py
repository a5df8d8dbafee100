import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from restain.errors import InputError, ShapeError
from restain.registration.channels import Channels, shared_channels
from restain.registration.field import Field
from restain.registration.tiles import align_tile
from restain.registration.verdict import Bars, Figures, detail, why_not
from tests.registration.conftest import Section

GOOD = Figures(
    he_structure=0.9, ihc_structure=0.9, he_detail=0.7, ihc_detail=0.7, agreement=0.7, seen=1.0, covered=0.9,
    blocks=100, matched_blocks=90, residual_px=1.0, smallest_determinant=0.7,
)  # fmt: skip


def test_a_pair_above_all_bars_is_believed() -> None:
    assert why_not(GOOD, Bars()) == ""


@pytest.mark.parametrize(
    ("name", "value", "figure"),
    [
        ("he_structure", 0.01, "1.0%"),
        ("ihc_structure", 0.0, "0.0%"),
        ("ihc_detail", 0.07, "0.07"),
        ("agreement", 0.21, "0.21"),
        ("agreement", float("nan"), "nan"),
        ("seen", 0.48, "48%"),
        ("covered", 0.31, "31%"),
        ("smallest_determinant", -0.25, "-0.25"),
    ],
)
def test_a_bar_that_is_missed_is_told_with_its_figure(name: str, value: float, figure: str) -> None:
    assert figure in why_not(dataclasses.replace(GOOD, **{name: value}), Bars())


def test_doubtful_agreement_needs_blocks_that_match() -> None:
    doubtful = dataclasses.replace(GOOD, agreement=0.45)
    assert why_not(doubtful, Bars()) == ""
    assert "30%" in why_not(dataclasses.replace(doubtful, matched_blocks=30), Bars())
    assert why_not(dataclasses.replace(GOOD, matched_blocks=30), Bars()) == ""


@pytest.fixture(scope="module")
def displaced(section: Section, bend: Field) -> Tensor:
    return section.displaced(bend)


def test_the_same_tissue_is_believed(section: Section, displaced: Tensor) -> None:
    found = align_tile(section.he, displaced)
    assert found.why_not == ""
    assert found.figures.correlation_after > 0.8 > 0.3 > found.figures.correlation_before
    assert found.figures.matched_blocks > 0.9 * found.figures.blocks
    assert found.figures.residual_px < 1


def test_other_tissue_is_not(section: Section) -> None:
    found = align_tile(section.he, Section(1).ihc)
    assert found.why_not.startswith("no common tissue")


def test_a_mirrored_section_is_told(section: Section, displaced: Tensor) -> None:
    for side in (-1, -2):
        found = align_tile(section.he, displaced.flip(side))
        assert "mirrored" in found.why_not
        assert f"{found.figures.mirrored_agreement:.2f}" in found.why_not


def test_half_of_a_section_is_told(section: Section) -> None:
    half = section.ihc.clone()
    half[..., :128] = 1
    found = align_tile(section.he, half)
    assert found.why_not
    assert found.figures.seen < 0.7


def test_blank_and_blurred_sides_are_told_by_name(section: Section) -> None:
    assert "IHC is blank" in align_tile(section.he, torch.ones_like(section.ihc)).why_not
    assert "H&E is blank" in align_tile(torch.ones_like(section.he), section.ihc).why_not
    blurred = torch.nn.functional.interpolate(section.ihc, scale_factor=1 / 16, mode="area")
    blurred = torch.nn.functional.interpolate(blurred, size=(256, 256), mode="bilinear")
    assert "IHC is blurred" in align_tile(section.he, blurred).why_not


def test_detail_is_of_spectra_not_of_strength() -> None:
    noise = np.random.default_rng(0).normal(size=(2, 64, 64)).astype(np.float32)
    assert detail(Channels(3 * noise, 1.0)) == pytest.approx(detail(Channels(noise, 1.0)), rel=1e-4)
    assert detail(Channels(np.ones((2, 64, 64), np.float32), 1.0)) == 0
    small = shared_channels(torch.zeros(1, 3, 64, 64), 32)
    assert detail(small) == 0


def test_tiles_that_cannot_be_matched_are_refused(section: Section) -> None:
    with pytest.raises(InputError, match="64 x 64"):
        align_tile(section.he[..., :64, :64], section.ihc[..., :64, :64])
    with pytest.raises(ShapeError):
        align_tile(section.he, section.ihc[..., :128])
