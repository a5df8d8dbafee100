"""A map of trust in a whole slide has the values of the map of an image, tile by tile, and is drawn where stained."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from restain.checkpoint import load_generator, save_checkpoint
from restain.errors import InputError
from restain.image import load_image
from restain.metrics.familiarity import Familiarity
from restain.networks.generator import Generator, GeneratorConfig
from restain.slides.codec import Codec
from restain.slides.reader import open_slide
from restain.staining.images import stain
from restain.staining.prepare import network_of, plan_of
from restain.staining.settings import Model, SlideSettings, load_model
from restain.staining.slide import stain_slide
from restain.staining.slide_trust import SlideTrust, map_trust
from restain.staining.statistics import load_statistics
from restain.staining.trust import disagreement, under_symmetries

MakeSlide = Callable[..., Path]
RGB = NDArray[np.uint8]
SETTINGS = SlideSettings(tile_px=128, codec=Codec("lossless"), trust=True)
ALL = replace(SETTINGS, tissue_mask=False)
PART = replace(ALL, region=(300, 140, 250, 150))


class Dark(Familiarity):
    """Finds dark blocks unlike."""

    def unlike(self, he: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(he.mean(1, keepdim=True), 64)[:, 0] < 0.8


def test_blocks_are_the_means_of_the_map_of_the_whole_image(
    checkpoint: Path, make_slide: MakeSlide, drawing: RGB, tmp_path: Path
) -> None:
    model = load_model(checkpoint)
    with open_slide(make_slide()) as slide:
        plan = plan_of(model, slide, ALL, [])
        trust = map_trust([network_of(model, plan, ALL, tmp_path / "s.safetensors")], plan, None)
    statistics = load_statistics(tmp_path / "s.safetensors")
    padded = np.pad(drawing, ((0, 2), (0, 0), (0, 0)), mode="reflect")  # 430 is no multiple of 4
    whole = disagreement(under_symmetries(lambda rgb: stain(model.generator, rgb, norm=statistics), padded))[:430]
    expected = [[whole[y : y + 64, x : x + 64].mean() for x in range(0, 600, 64)] for y in range(0, 430, 64)]
    assert trust.disagreement == pytest.approx(np.array(expected), abs=2e-3)
    assert np.ptp(trust.disagreement) > 0.1


def test_the_map_lies_beside_the_result(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    report = stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", PART)
    assert load_image(tmp_path / "out.trust.png").shape == (3 * 4, 4 * 4, 3)
    (row,) = csv.DictReader((tmp_path / "out.trust.csv").open())
    assert (row["slide"], row["unlike_training_share"]) == ("he.ome.tif", "")
    assert f"disagree by {float(row['disagreement_mean_od']):.3f} of optical density" in report.notes[-1]


def test_only_what_is_stained_is_judged(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    blank = torch.zeros(1)
    model = replace(load_model(checkpoint), familiarity=Dark(blank, blank, 0.0))
    stain_slide(model, make_slide(), tmp_path / "out.ome.tif", SETTINGS)
    picture = load_image(tmp_path / "out.trust.png")
    assert (picture[:, :8] == 200).all()
    cyan = (picture == (0, 220, 220)).all(axis=2)
    assert cyan[12:16, 24:28].any()
    assert not cyan[:, :16].any()
    (row,) = csv.DictReader((tmp_path / "out.trust.csv").open())
    assert 0.1 < float(row["unlike_training_share"]) < 0.9


def test_a_finished_slide_gets_its_map_later(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    model, he, out = load_model(checkpoint), make_slide(), tmp_path / "out.ome.tif"
    stain_slide(model, he, out, replace(PART, trust=False))
    assert not (tmp_path / "out.trust.png").exists()
    made = out.stat().st_mtime_ns
    assert stain_slide(model, he, out, PART).skipped
    assert out.stat().st_mtime_ns == made
    drawn = (tmp_path / "out.trust.png").stat().st_mtime_ns
    assert stain_slide(model, he, out, PART).skipped
    assert (tmp_path / "out.trust.png").stat().st_mtime_ns == drawn, "nothing was done again"
    stain_slide(model, he, out, replace(PART, trust=False, codec=Codec("jpeg")), overwrite=True)
    assert not list(tmp_path.glob("out.trust.*")), "those of another result"


def test_a_map_is_made_again_once_the_model_knows_its_training(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path
) -> None:
    def share(model: Model) -> str:
        assert not stain_slide(model, he, out, PART).megapixels or not already
        return next(csv.DictReader((tmp_path / "out.trust.csv").open()))["unlike_training_share"]

    he, out, already = make_slide(), tmp_path / "out.ome.tif", False
    model = load_model(checkpoint)
    assert share(model) == ""
    already = True
    (tmp_path / "out.trust.csv").write_text("slide,disagreement_mean_od\nhe.ome.tif,0.1\n")  # as of an earlier restain
    assert share(model) == ""
    blank = torch.zeros(1)
    assert float(share(replace(model, familiarity=Dark(blank, blank, 0.0)))) > 0


def other_checkpoint(path: Path, blocks: int = 1) -> Path:
    torch.manual_seed(1)
    generator = Generator(GeneratorConfig(width=2, blocks=blocks))
    save_checkpoint(path, generator, method="cut", mpp=8.0)
    return path


def test_several_checkpoints_are_compared_with_one_another(
    checkpoint: Path, make_slide: MakeSlide, drawing: RGB, tmp_path: Path
) -> None:
    other = other_checkpoint(tmp_path / "other.safetensors")
    settings = replace(PART, region=(256, 128, 128, 128), norm="tile", halo_px=0, also_models=(other,))
    he, out = make_slide(), tmp_path / "out.ome.tif"
    report = stain_slide(checkpoint, he, out, settings)
    part = np.ascontiguousarray(drawing[128:256, 256:384])
    both = disagreement(stain(load_generator(path), part) for path in (checkpoint, other))
    told = next(csv.DictReader((tmp_path / "out.trust.csv").open()))
    assert float(told["disagreement_mean_od"]) == pytest.approx(both.mean(), abs=1e-3)
    assert both.mean() > 0.01
    assert report.notes[-1].startswith("2 checkpoints disagree by ")
    assert len(list(tmp_path.glob("*statistics*"))) == 0
    drawn = (tmp_path / "out.trust.png").stat().st_mtime_ns
    stain_slide(checkpoint, he, out, settings)
    assert (tmp_path / "out.trust.png").stat().st_mtime_ns == drawn
    stain_slide(checkpoint, he, out, replace(settings, also_models=()))
    assert next(csv.DictReader((tmp_path / "out.trust.csv").open())) != told, "it is asked of the orientations now"


def test_a_checkpoint_of_another_shape_is_refused_before_the_work(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path
) -> None:
    other = other_checkpoint(tmp_path / "other.safetensors", blocks=2)
    with pytest.raises(InputError, match=r"--also-model other\.safetensors has another shape or resolution than model"):
        stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", replace(PART, also_models=(other,)))
    assert not list(tmp_path.glob("out*"))


def test_further_checkpoints_need_a_map_and_a_norm_of_their_own() -> None:
    with pytest.raises(InputError, match="--also-model is asked for the map of trust; add --trust"):
        SlideSettings(also_models=(Path("m"),))
    with pytest.raises(InputError, match=r"--norm s\.safetensors is for one model"):
        SlideSettings(also_models=(Path("m"),), trust=True, norm="s.safetensors")


def test_dense_normalisation_cannot_be_turned(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--norm dense cannot follow; choose slide, tile or a file"):
        stain_slide(checkpoint, make_slide(), tmp_path / "out.ome.tif", replace(SETTINGS, norm="dense"))
    assert not list(tmp_path.glob("out*"))


def test_the_brighter_the_less_to_be_believed() -> None:
    values = np.array([[0.0, 0.1, 0.2, np.nan]], np.float32)
    trust = SlideTrust("s", values, np.array([[False, False, True, False]]))
    picture = trust.picture().astype(int)
    centres = picture[1, 1::4].sum(axis=1)
    assert centres[0] < centres[1] < centres[2]
    assert tuple(picture[0, 8]) == (0, 220, 220)
    mean, high, share = trust.summary()
    assert (mean, share) == (pytest.approx(0.1), pytest.approx(1 / 3))
    assert high == pytest.approx(0.19)
