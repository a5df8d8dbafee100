"""A map of trust in a whole slide has the values of the map of an image, tile by tile, and is drawn where stained."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from restain.errors import InputError
from restain.image import RGB, load_image
from restain.slides.codec import Codec
from restain.slides.reader import open_slide
from restain.staining import sitting
from restain.staining.engines import network_of
from restain.staining.images import stain
from restain.staining.model import Model, load_model
from restain.staining.plan import plan_of
from restain.staining.policies import DenseNorm, SharedNorm
from restain.staining.settings import SlideSettings
from restain.staining.slide import stain_slide
from restain.staining.statistics import load_statistics
from restain.trust.disagreement import disagreement, under_symmetries
from restain.trust.familiarity import FEATURES, Familiarity
from restain.trust.slide import SlideMaps, SlideTrust, map_trust

MakeSlide = Callable[..., Path]
SETTINGS = SlideSettings(tile_px=128, codec=Codec("lossless"))
ALL = replace(SETTINGS, tissue_mask=False)
PART = replace(ALL, region=(300, 140, 250, 150))


@pytest.fixture
def finds_dark_unlike(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What a header holds after `restain calibrate`, and a rule of its own instead: dark blocks are unlike."""

    def unlike(_: Familiarity, he: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(he.mean(1, keepdim=True), 64)[:, 0] < 0.8

    monkeypatch.setattr(Familiarity, "unlike", unlike)
    return {"familiarity": Familiarity(torch.zeros(FEATURES), torch.zeros(FEATURES, FEATURES), 0.0).as_json()}


def only_row(table: Path) -> dict[str, str]:
    (row,) = csv.DictReader(table.open(encoding="utf-8"))
    return row


def test_blocks_are_the_means_of_the_map_of_the_whole_image(
    checkpoint: Path, make_slide: MakeSlide, drawing: RGB, tmp_path: Path
) -> None:
    model = load_model(checkpoint)
    with open_slide(make_slide()) as slide:
        plan = plan_of(model, slide, ALL)
        trust = map_trust(network_of(model, plan, ALL, tmp_path / "s.safetensors"), plan, None)
    statistics = load_statistics(tmp_path / "s.safetensors")
    padded = np.pad(drawing, ((0, 2), (0, 0), (0, 0)), mode="reflect")  # 430 is no multiple of 4
    whole = disagreement(
        under_symmetries(lambda rgb: stain(model.generator, rgb, norm=SharedNorm(statistics)), padded)
    )[:430]
    expected = [[whole[y : y + 64, x : x + 64].mean() for x in range(0, 600, 64)] for y in range(0, 430, 64)]
    assert trust.disagreement == pytest.approx(np.array(expected), abs=2e-3)
    assert np.ptp(trust.disagreement) > 0.1


def test_the_map_lies_beside_the_result(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    report = stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", PART, extra=SlideMaps())
    assert load_image(tmp_path / "out.trust.png").shape == (3 * 4, 4 * 4, 3)
    row = only_row(tmp_path / "out.trust.csv")
    assert (row["name"], row["unlike_training_share"]) == ("out", "")
    assert str(tmp_path / "out.trust.png") in report.notes[-1]


def test_the_network_is_built_once(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = Mock(wraps=sitting.network_of)
    monkeypatch.setattr(sitting, "network_of", built)
    stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", PART, extra=SlideMaps())
    built.assert_called_once()


def test_only_what_is_stained_is_judged(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path, finds_dark_unlike: dict[str, object]
) -> None:
    model = replace(load_model(checkpoint), extra=finds_dark_unlike)
    stain_slide(model, make_slide(), tmp_path / "out.ome.tif", SETTINGS, extra=SlideMaps())
    picture = load_image(tmp_path / "out.trust.png")
    assert (picture[:, :8] == 200).all()
    cyan = (picture == (0, 220, 220)).all(axis=2)
    assert cyan[12:16, 24:28].any()
    assert not cyan[:, :16].any()
    assert 0.1 < float(only_row(tmp_path / "out.trust.csv")["unlike_training_share"]) < 0.9


def test_a_finished_slide_gets_its_map_later(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    model, he, out = load_model(checkpoint), make_slide(), tmp_path / "out.ome.tif"
    stain_slide(model, he, out, PART)
    assert not (tmp_path / "out.trust.png").exists()
    made = out.stat().st_mtime_ns
    assert stain_slide(model, he, out, PART, extra=SlideMaps()).skipped
    assert out.stat().st_mtime_ns == made
    drawn = (tmp_path / "out.trust.png").stat().st_mtime_ns
    assert stain_slide(model, he, out, PART, extra=SlideMaps()).skipped
    assert (tmp_path / "out.trust.png").stat().st_mtime_ns == drawn, "nothing was done again"
    stain_slide(model, he, out, replace(PART, codec=Codec("jpeg")), overwrite=True)
    assert not list(tmp_path.glob("out.trust.*")), "those of another result"


def test_a_map_is_made_again_once_the_model_knows_its_training(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path, finds_dark_unlike: dict[str, object]
) -> None:
    def share(model: Model) -> str:
        assert not stain_slide(model, he, out, PART, extra=SlideMaps()).megapixels or not already
        return only_row(tmp_path / "out.trust.csv")["unlike_training_share"]

    he, out, already = make_slide(), tmp_path / "out.ome.tif", False
    model = load_model(checkpoint)
    assert share(model) == ""
    already = True
    (tmp_path / "out.trust.csv").write_text("slide,disagreement_mean_od\nhe.ome.tif,0.1\n")  # as of an earlier restain
    assert share(model) == ""
    assert float(share(replace(model, extra=finds_dark_unlike))) > 0


def test_dense_normalisation_cannot_be_turned(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    dense = replace(SETTINGS, norm=DenseNorm())
    with pytest.raises(InputError, match="dense normalisation"):
        stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", dense, extra=SlideMaps())
    assert not list(tmp_path.glob("out*"))


def test_the_brighter_the_less_to_be_believed() -> None:
    values = np.array([[0.0, 0.1, 0.2, np.nan]], np.float32)
    trust = SlideTrust(values, np.array([[False, False, True, False]]))
    picture = trust.picture().astype(int)
    centres = picture[1, 1::4].sum(axis=1)
    assert centres[0] < centres[1] < centres[2]
    assert tuple(picture[0, 8]) == (0, 220, 220)
    assert trust.unlike_share == pytest.approx(1 / 3)


def test_a_map_and_statistics_of_another_result_are_not_taken(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path
) -> None:
    """A TIFF and a Zarr of one name share the files beside them; here the Zarr of another part came last."""
    model, he, out = load_model(checkpoint), make_slide(), tmp_path / "out.ome.tif"
    beside = [tmp_path / f"out.{ending}" for ending in ("trust.png", "trust.csv", "statistics.safetensors")]
    stain_slide(model, he, out, PART, extra=SlideMaps())
    expected = [path.read_bytes() for path in beside]
    other = tmp_path / "other.ome.tif"
    stain_slide(model, he, other, ALL, extra=SlideMaps())
    for path in beside:
        path.write_bytes(path.with_name(path.name.replace("out", "other")).read_bytes())
    assert stain_slide(model, he, out, PART, extra=SlideMaps()).skipped
    assert [path.read_bytes() for path in beside] == expected
