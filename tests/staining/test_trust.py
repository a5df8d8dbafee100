"""Disagreement: nothing for a stain that knows no direction, and there where one does."""

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
from restain.staining.images import stain
from restain.staining.trust import disagreement, under_symmetries, write_trust


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


def test_a_calibrated_checkpoint_writes_trust_beside_the_result(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 14, validation=2, settings=PhantomSettings(size_px=192))
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, Generator(GeneratorConfig(width=4, blocks=1)), method="cut", mpp=0.5)
    before = read_info(model)
    runner = CliRunner()
    calibrated = runner.invoke(app, ["calibrate", "--model", str(model), "--data", str(tmp_path / "pairs")])
    assert calibrated.exit_code == 0, calibrated.output
    assert "no validation tiles" not in calibrated.output
    after = read_info(model)
    assert after == before.model_copy(update={"extra": after.extra})
    he, out = tmp_path / "pairs" / "TrainValAB" / "valA", tmp_path / "out"
    stained = runner.invoke(app, ["stain", str(he), "--model", str(model), "--out", str(out), "--trust"])
    assert stained.exit_code == 0, stained.output
    names = sorted(path.stem for path in he.iterdir())
    lines = (out / "trust" / "trust.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "image,disagreement_mean_od,disagreement_p95_od,unlike_training_share"
    assert [line.split(",")[0] for line in lines[1:]] == names
    assert all(0 <= float(line.split(",")[3]) <= 1 for line in lines[1:])
    assert load_image(out / "trust" / f"{names[0]}.png").shape == (192, 192, 3)


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Two checkpoints that differ."""
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        generator = Generator(GeneratorConfig(width=2, blocks=1))
        save_checkpoint(tmp_path / f"{name}.safetensors", generator, method="cut")
    return [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_maps_of_subfolders_lie_where_an_evaluation_looks(models: list[Path], tmp_path: Path) -> None:
    for folder in ("s1", "s2"):
        save_image(tmp_path / "he" / folder / "x.png", picture())
    said = invoke("stain", tmp_path / "he", "--model", models[0], "--out", tmp_path / "out", "--trust")
    assert "trust/trust.csv in each of 2 folders says how far to believe each" in said
    for folder in ("s1", "s2"):
        (pair,) = pair_images(tmp_path / "out" / folder, tmp_path / "he" / folder)
        assert pair.trust.is_file()
        lines = (pair.trust.parent / "trust.csv").read_text(encoding="utf-8").splitlines()
        assert [line.partition(",")[0] for line in lines] == ["image", "x"]


def test_further_checkpoints_are_asked_instead_of_the_orientations(models: list[Path], tmp_path: Path) -> None:
    save_image(tmp_path / "he" / "x.png", picture())
    words = ("stain", tmp_path / "he", "--model", models[0], "--trust", "--also-model", models[1])
    invoke(*words, "--out", tmp_path / "out", "--device", "cpu")
    row = (tmp_path / "out" / "trust" / "trust.csv").read_text(encoding="utf-8").splitlines()[1]
    spread = disagreement(stain(load_generator(model), picture()) for model in models)
    assert float(row.split(",")[1]) == pytest.approx(spread.mean(), abs=1e-4)


@pytest.mark.parametrize(("networks", "passes"), [(1, 8), (3, 3)])
def test_every_pass_is_told(networks: int, passes: int, models: list[Path], tmp_path: Path) -> None:
    for name in "ab":
        save_image(tmp_path / "he" / f"{name}.png", picture())
    told: list[tuple[int, int]] = []
    stains = [lambda rgb: rgb] * networks
    write_trust(
        stains, [tmp_path / "he"], tmp_path / "out", read_info(models[0]), lambda *progress: told.append(progress)
    )
    assert told == [(done, 2 * passes) for done in range(1, 2 * passes + 1)]


@pytest.mark.parametrize("part", ["", "train"])
def test_a_threshold_without_validation_tiles_is_said_to_be_too_tight(part: str, tmp_path: Path) -> None:
    write_pairs(tmp_path / "drawn", 14, validation=2, settings=PhantomSettings(size_px=192))
    for side, name in (("A", "he"), ("B", "ihc")):
        (tmp_path / "pairs" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "drawn" / "TrainValAB" / f"train{side}").rename(tmp_path / "pairs" / part / name)
    model = tmp_path / "model.safetensors"
    save_checkpoint(model, Generator(GeneratorConfig(width=4, blocks=1)), method="cut", mpp=0.5)
    said = CliRunner().invoke(app, ["calibrate", "--model", str(model), "--data", str(tmp_path / "pairs")])
    assert said.exit_code == 0, said.output
    assert "pairs has no validation tiles, so the threshold is that of the training tiles" in said.output
    assert "more than 1% of the blocks" in said.output
    assert read_info(model).extra["familiarity"]["threshold"] > 0
