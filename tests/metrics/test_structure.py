"""Tissue kept or lost: haematoxylin, nuclei, and the figures of `evaluate` that need them."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from restain.data.phantom import PhantomPair, PhantomSettings, draw_pair
from restain.image import save_image
from restain.metrics import evaluate, tabulate
from restain.metrics.comparison import notes
from restain.metrics.expression import dab_divergence
from restain.metrics.nuclei import nuclei_metrics
from restain.metrics.structure import haematoxylin_correlation, matched_nuclei
from restain.quantify import QuantifySettings, quantify_image
from restain.stains import STAIN_VECTORS, Marker, beer_lambert, rgb_to_hed


@cache
def nuclear(seed: int) -> PhantomPair:
    """A small tile of a nuclear marker."""
    return draw_pair(seed, PhantomSettings(size_px=128, marker="nuclear"))


def test_haematoxylin_correlates_with_itself_under_any_other_stain() -> None:
    amounts = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 0.4
    eosin = beer_lambert(amounts * torch.tensor([1, 1, 0]).view(1, 3, 1, 1), STAIN_VECTORS)
    brown = beer_lambert(amounts * torch.tensor([0.5, 0, 1]).view(1, 3, 1, 1), STAIN_VECTORS)
    assert_close(haematoxylin_correlation(brown, eosin), torch.ones(2), rtol=0, atol=1e-4)
    first, second = torch.rand(2, 1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    expected = np.corrcoef(*(rgb_to_hed(image)[0, 0].flatten().numpy() for image in (first, second)))[0, 1]
    assert_close(haematoxylin_correlation(first, second).item(), float(expected), rtol=0, atol=1e-5)


def test_an_even_image_has_no_correlation() -> None:
    rough = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    for level in (181, 235, 242):
        even = torch.tensor([level, level - 4, level]).view(1, 3, 1, 1).expand(1, 3, 64, 64) / 255
        assert haematoxylin_correlation(even, rough).isnan()
        assert haematoxylin_correlation(even, even).isnan()


def test_nuclei_match_when_each_is_the_others_nearest() -> None:
    pair = draw_pair(3, PhantomSettings(size_px=192))
    cells = quantify_image(pair.ihc_aligned, QuantifySettings(0.5)).cells
    assert matched_nuclei(cells, cells, 1) == len(cells)
    assert matched_nuclei(cells, cells.chosen(np.arange(len(cells)) < 5), 1) == 5
    assert matched_nuclei(cells, cells.chosen(np.zeros(len(cells), bool)), 1) == 0


def test_evaluate_counts_cells_and_shared_nuclei(tmp_path: Path) -> None:
    pairs = [nuclear(seed) for seed in (3, 5)]
    for index, pair in enumerate(pairs):
        for folder, image in (("he", pair.he), ("aligned", pair.ihc_aligned)):
            save_image(tmp_path / folder / f"{index}.png", image)
    extra = nuclei_metrics(QuantifySettings(0.5, "nuclear"))
    found = evaluate(tmp_path / "aligned", tmp_path / "aligned", he=tmp_path / "he", extra=extra)
    assert extra.keys() <= found.figures.keys()
    for score in ("positive_cells", "h_score", "allred"):
        assert found.figures[f"{score}_error"].value == found.figures[f"{score}_bias"].value == 0
        assert found.figures[f"{score}_limits"].value == 0
    assert found.figures["nuclei_f1"].value > 0.75, "the same section in two stains"
    assert found.figures["haematoxylin_r"].value > 0.5
    assert found.figures["nuclei_f1"].protocol["mpp"] == 0.5


def test_the_limits_of_the_classes_are_in_the_protocol_of_every_score() -> None:
    for marker, words in (
        ("nuclear", "1+, 2+ and 3+ from 0.2, 0.4 and 0.6 OD"),
        ("membrane", "stained from 0.15 OD within 4 µm, 1+ from 20% of 16 directions, 2+ from 60%, 3+ from 0.5 OD too"),
    ):
        metrics = nuclei_metrics(QuantifySettings(0.5, marker))
        assert {metric.protocol.get("classes") for name, metric in metrics.items() if name != "nuclei_f1"} == {words}
        assert "classes" not in metrics["nuclei_f1"].protocol, "it counts nuclei of any class"


@pytest.mark.parametrize(("marker", "scores"), [("nuclear", 3), ("membrane", 3)])
def test_scores_of_virtual_and_real_are_those_of_quantify(tmp_path: Path, marker: Marker, scores: int) -> None:
    """Virtual tiles are the real ones with half of every density, so every score falls."""
    settings, tiles = QuantifySettings(0.5, marker), []
    for seed in (3, 5):
        pair = draw_pair(seed, PhantomSettings(size_px=192, marker=marker))
        save_image(tmp_path / "real" / f"{seed}.png", pair.ihc_aligned)
        half = np.rint(255 * (pair.ihc_aligned / 255) ** 0.5).astype(np.uint8)
        save_image(tmp_path / "virtual" / f"{seed}.png", half)
        tiles.append(quantify_image(pair.ihc_aligned, settings).tally().row(marker))
    found = evaluate(tmp_path / "virtual", tmp_path / "real", extra=nuclei_metrics(settings))
    assert found.columns["h_score_real"].tolist() == [tile["h_score"] for tile in tiles]
    assert len([name for name in found.columns if name.endswith("_real") and not name.startswith("dab")]) == scores
    away = found.columns["h_score_virtual"] - found.columns["h_score_real"]
    bias, limits = found.figures["h_score_bias"], found.figures["h_score_limits"]
    assert bias.value == pytest.approx(away.mean().item())
    assert bias.value < 0, "signed: the virtual stain reads too little"
    assert found.figures["h_score_error"].value == pytest.approx(-bias.value)
    assert limits.value == pytest.approx(1.96 * away.std().item())
    table = {row[0]: row[1] for row in tabulate({"virtual": found}).rows}
    assert table["H-score, bias"].startswith("−")
    assert "H-score, limits of agreement, bias ± ↓" in table


def test_tiles_finer_than_half_a_micrometre_are_measured_at_half_a_micrometre(tmp_path: Path) -> None:
    pair = nuclear(3)
    fine = np.kron(pair.ihc_aligned, np.ones((2, 2, 1), np.uint8))
    for name, rgb in (("coarse", pair.ihc_aligned), ("fine", fine)):
        save_image(tmp_path / name / "a.png", rgb)
    scores = {
        name: evaluate(tmp_path / name, tmp_path / name, extra=nuclei_metrics(QuantifySettings(mpp, "nuclear"))).columns
        for name, mpp in (("coarse", 0.5), ("fine", 0.25))
    }
    assert scores["fine"]["h_score_real"].item() == pytest.approx(scores["coarse"]["h_score_real"].item(), abs=5)


def test_tiles_without_cells_are_left_out_and_counted(tmp_path: Path) -> None:
    for seed in (3, 5, 7):
        pair = nuclear(seed)
        save_image(tmp_path / "real" / f"{seed}.png", pair.ihc_aligned)
        blank = np.full_like(pair.he, 255)
        save_image(tmp_path / "virtual" / f"{seed}.png", blank if seed == 5 else pair.ihc_aligned)
    found = evaluate(tmp_path / "virtual", tmp_path / "real", extra=nuclei_metrics(QuantifySettings(0.5, "nuclear")))
    assert found.figures["h_score_error"].value == 0
    note = "Positive nuclei (Ki67 index), H-score, Allred score: undefined on 1 of 3 tiles."
    assert note in found.notes
    other = evaluate(tmp_path / "real", tmp_path / "real", extra=nuclei_metrics(QuantifySettings(0.5, "nuclear")))
    assert f"one: {note}" in notes({"one": found, "two": other})
    assert found.notes[0] in notes({"one": found, "two": other})


def test_divergence_of_histograms() -> None:
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    assert_close(dab_divergence(images, images), torch.zeros(3, dtype=torch.float64))
    assert (dab_divergence(images, images.flip(0))[[0, 2]] > 0).all()
    assert_close(dab_divergence(images.flip(-1), images), torch.zeros(3, dtype=torch.float64))
