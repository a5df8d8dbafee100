"""Statistics of many slides together: what they are, and that slides stained by them are stained alike."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from restain.checkpoint import save_checkpoint
from restain.cli import main
from restain.errors import InputError
from restain.image import to_tensor
from restain.networks.generator import Generator, GeneratorConfig
from restain.networks.norm import joint_statistics
from restain.slides.reader import open_slide
from restain.staining.cohort import cohort_statistics
from restain.staining.inputs import SlideJob
from restain.staining.model import load_model
from restain.staining.plan import plan_of
from restain.staining.settings import SlideSettings
from restain.staining.statistics import SAMPLE_PX, load_statistics

MakeSlide = Callable[..., Path]
ALL = SlideSettings(tissue_mask=False)


def job(path: Path) -> SlideJob:
    return SlideJob(path, path)


def test_the_cohort_of_one_slide_is_the_slide(checkpoint: Path, make_slide: MakeSlide) -> None:
    """600 x 430 px are six tiles; all of them are taken, so that nothing depends on the draw."""
    model, he = load_model(checkpoint), make_slide()
    with open_slide(he) as slide:
        plan = plan_of(model, slide, ALL)
        tiles = list(plan.tiles(SAMPLE_PX))
        windows = [to_tensor(plan.read(tile.window)) for tile in tiles]
        inside = [tile.core.within(tile.window).slices for tile in tiles]
    expected = joint_statistics(model.generator, windows, inside)
    alone = cohort_statistics(model, [job(he)], ALL)
    twice = cohort_statistics(model, [job(he), job(he)], ALL)
    assert (alone.slides, twice.slides) == (1, 2)
    assert alone.statistics.keys() == expected.keys()
    for name, moments in expected.items():
        assert_close(alone.statistics[name].mean, moments.mean)
        assert_close(twice.statistics[name].mean, moments.mean)
        assert_close(twice.statistics[name].variance, moments.variance)


def test_every_slide_has_its_say_and_a_bad_one_is_left_out(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path
) -> None:
    model, tissue, glass = load_model(checkpoint), make_slide("a.ome.tif"), make_slide("b.ome.tif", tissue=False)
    (tmp_path / "bad.svs").write_bytes(b"no slide")
    found = cohort_statistics(model, [job(tissue), job(glass), job(tmp_path / "bad.svs")], ALL)
    assert found.slides == 2
    assert [path.name for path in found.failures] == ["bad.svs"]
    first, second = (cohort_statistics(model, [job(one)], ALL).statistics for one in (tissue, glass))
    name = next(iter(found.statistics))
    assert_close(found.statistics[name].mean, (first[name].mean + second[name].mean) / 2)
    masked = cohort_statistics(model, [job(glass)])
    assert "no tissue" in str(masked.failures[glass])
    assert not masked.statistics


def test_a_model_without_instance_norm_has_none(checkpoint: Path, make_slide: MakeSlide, tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(GeneratorConfig(width=2, blocks=1, norm="batch"))
    save_checkpoint(tmp_path / "batch.safetensors", generator, method="cut", mpp=8.0)
    with pytest.raises(InputError, match="needs no statistics"):
        cohort_statistics(load_model(tmp_path / "batch.safetensors"), [job(make_slide())])


def test_the_command_writes_a_file_that_staining_takes(
    checkpoint: Path, make_slide: MakeSlide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    make_slide("a.ome.tif")
    make_slide("b.ome.tif")
    (tmp_path / "slides.csv").write_text("slide\na.ome.tif\nb.ome.tif\n")
    study = tmp_path / "study.safetensors"

    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", ["restain", *map(str, words)])
        main()

    with pytest.raises(SystemExit) as ended:
        run("statistics", tmp_path / "slides.csv", "--model", checkpoint, "--out", study)
    assert ended.value.code in (None, 0)
    assert "has the statistics of 2 slides" in capsys.readouterr().out
    before = study.read_bytes()
    with pytest.raises(SystemExit) as ended:
        run("statistics", tmp_path / "a.ome.tif", "--model", checkpoint, "--out", study)
    assert ended.value.code == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert study.read_bytes() == before
    words = ["--model", checkpoint, "--out", tmp_path / "v.ome.tif", "--norm", study]
    with pytest.raises(SystemExit):
        run("stain-slides", tmp_path / "a.ome.tif", *words)
    kept = load_statistics(study, model=load_model(checkpoint).sha256)
    assert all(np.isfinite(moments.variance.numpy()).all() for moments in kept.values())
    assert (tmp_path / "v.ome.tif").is_file()
