"""Disagreement: nothing for a stain that knows no direction, and there where one does."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from restain.checkpoint import load_generator, read_info, save_checkpoint
from restain.cli import app
from restain.data.phantom import PhantomSettings, write_pairs
from restain.errors import InputError
from restain.image import load_image, save_image
from restain.metrics.tiles import pair_images
from restain.networks.generator import Generator, GeneratorConfig
from restain.staining.images import stain, stain_files
from restain.staining.inputs import ImageJob
from restain.trust.disagreement import disagreement, under_symmetries
from restain.trust.images import ImageMaps


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen pairs, two of them for validation."""
    root = tmp_path_factory.mktemp("drawn") / "pairs"
    write_pairs(root, 14, validation=2, settings=PhantomSettings(size_px=192))
    return root


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)


def test_a_stain_without_direction_agrees_with_itself() -> None:
    views = list(under_symmetries(lambda rgb: 255 - rgb, picture()))
    assert len(views) == 8
    assert all(np.array_equal(view, 255 - picture()) for view in views)
    assert disagreement(views).max() < 1e-6


def test_the_eight_orientations_are_all_different() -> None:
    seen: list[bytes] = []
    list(under_symmetries(lambda rgb: (seen.append(rgb.tobytes()), rgb)[1], picture()))
    assert len(set(seen)) == 8


def test_disagreement_is_where_the_direction_matters() -> None:
    def brown_above(rgb: np.ndarray) -> np.ndarray:
        virtual = np.full_like(rgb, 255)
        virtual[:4] = (120, 70, 40)
        return virtual

    spread = disagreement(under_symmetries(brown_above, np.zeros((16, 16, 3), np.uint8)))
    assert spread[0, 8] > 0.1
    assert spread[8, 8] == 0


def test_disagreement_is_the_standard_deviation() -> None:
    from restain.image import to_tensor
    from restain.stains import dab_density, to_unit

    images = [picture()[:, ::-1], picture(), picture()[::-1]]
    densities = [dab_density(to_unit(to_tensor(np.ascontiguousarray(rgb))))[0, 0].numpy() for rgb in images]
    np.testing.assert_allclose(disagreement(map(np.ascontiguousarray, images)), np.std(densities, axis=0), atol=1e-5)
    with pytest.raises(InputError, match="at least two"):
        disagreement([picture()])


def test_a_calibrated_checkpoint_writes_trust_beside_the_result(drawn: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, Generator(GeneratorConfig(width=4, blocks=1)), method="cut", mpp=0.5)
    before = read_info(model)
    runner = CliRunner()
    calibrated = runner.invoke(app, ["calibrate", "--model", str(model), "--data", str(drawn)])
    assert calibrated.exit_code == 0, calibrated.output
    assert "no validation tiles" not in calibrated.output
    after = read_info(model)
    assert after == before.model_copy(update={"extra": after.extra})
    he, out = drawn / "TrainValAB" / "valA", tmp_path / "out"
    stained = runner.invoke(app, ["stain", str(he), "--model", str(model), "--out", str(out), "--trust"])
    assert stained.exit_code == 0, stained.output
    names = sorted(path.stem for path in he.iterdir())
    lines = (out / "trust" / "trust.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "name,unlike_training_share,made_with"
    assert [line.split(",")[0] for line in lines[1:]] == names
    assert all(0 <= float(line.split(",")[1]) <= 1 for line in lines[1:])
    assert load_image(out / "trust" / f"{names[0]}.png").shape == (192, 192, 3)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "m.safetensors", Generator(GeneratorConfig(width=2, blocks=1)), method="cut")
    return tmp_path / "m.safetensors"


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_maps_of_subfolders_lie_where_an_evaluation_looks(model: Path, tmp_path: Path) -> None:
    for folder in ("s1", "s2"):
        save_image(tmp_path / "he" / folder / "x.png", picture())
    said = invoke("stain", tmp_path / "he", "--model", model, "--out", tmp_path / "out", "--trust")
    for folder in ("s1", "s2"):
        assert str(tmp_path / "out" / folder / "trust" / "trust.csv") in said
        (pair,) = pair_images(tmp_path / "out" / folder, tmp_path / "he" / folder)
        assert pair.trust.is_file()
        lines = (pair.trust.parent / "trust.csv").read_text(encoding="utf-8").splitlines()
        assert [line.partition(",")[0] for line in lines] == ["name", "x"]


def test_each_image_is_decoded_once_and_its_stain_is_one_of_the_eight(model: Path, tmp_path: Path) -> None:
    save_image(tmp_path / "he" / "x.png", picture())
    generator = load_generator(model)
    passes: list[np.ndarray] = []

    def again(rgb: np.ndarray) -> np.ndarray:
        passes.append(rgb)
        return stain(generator, rgb)

    maps = ImageMaps(again, None)
    shown: list[tuple[ImageJob, np.ndarray, np.ndarray]] = []

    def on_stained(job: ImageJob, he: np.ndarray, virtual: np.ndarray) -> None:
        shown.append((job, he, virtual))
        maps.add(job, he, virtual)

    stain_files(generator, [tmp_path / "he"], tmp_path / "out", on_stained=on_stained)
    ((_, he, virtual),) = shown
    assert np.array_equal(he, picture())
    assert len(passes) == 7
    eight = list(under_symmetries(lambda rgb: stain(generator, rgb), picture()))
    assert np.array_equal(disagreement(eight), disagreement(under_symmetries(again, he, virtual)))
    assert maps.save() == [tmp_path / "out" / "trust" / "trust.csv"]


@pytest.mark.parametrize("part", ["", "train"])
def test_a_threshold_without_validation_tiles_is_said_to_be_too_tight(part: str, drawn: Path, tmp_path: Path) -> None:
    for side, name in (("A", "he"), ("B", "ihc")):
        shutil.copytree(drawn / "TrainValAB" / f"train{side}", tmp_path / "pairs" / part / name)
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, Generator(GeneratorConfig(width=4, blocks=1)), method="cut", mpp=0.5)
    said = CliRunner().invoke(app, ["calibrate", "--model", str(model), "--data", str(tmp_path / "pairs")])
    assert said.exit_code == 0, said.output
    assert "pairs has no validation tiles" in said.output
    assert "more than 1% of the blocks" in said.output
    assert read_info(model).extra["familiarity"]["threshold"] > 0


def rows(table: Path) -> list[str]:
    return [line.partition(",")[0] for line in table.read_text(encoding="utf-8").splitlines()]


def test_no_map_of_an_earlier_result_stays_beside_a_new_one(model: Path, tmp_path: Path) -> None:
    """An evaluation would show it, and count its row; those of images that are not stained again stay."""
    out = tmp_path / "out"
    for name in ("x", "y"):
        save_image(tmp_path / "he" / f"{name}.png", picture())
    invoke("stain", tmp_path / "he", "--model", model, "--out", out, "--trust")
    invoke("stain", tmp_path / "he" / "x.png", "--model", model, "--out", out, "--overwrite")
    assert {path.name for path in (out / "trust").iterdir()} == {"y.png", "trust.csv"}
    assert rows(out / "trust" / "trust.csv") == ["name", "y"]
    invoke("stain", tmp_path / "he" / "x.png", "--model", model, "--out", out, "--overwrite", "--trust")
    assert rows(out / "trust" / "trust.csv") == ["name", "x", "y"]
    invoke("stain", tmp_path / "he", "--model", model, "--out", out, "--overwrite")
    assert not list((out / "trust").iterdir())
